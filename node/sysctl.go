package node

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// safeSysctls are Kubernetes' safe settings that belong to a network namespace; kernel.shm_rmid_forced belongs to a container's own
// IPC namespace here and is left alone.
var safeSysctls = []string{
	"net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

const shmSysctl = "kernel.shm_rmid_forced"

// sysctls are the pod's settings; forbidden names one that no pod may have here, "" for none.
func sysctls(pod *corev1.Pod) (all []corev1.Sysctl, forbidden string) {
	if pod.Spec.SecurityContext == nil {
		return nil, ""
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		switch {
		case s.Name == shmSysctl:
		case !slices.Contains(safeSysctls, s.Name) || pod.Spec.HostNetwork:
			return nil, s.Name
		default:
			all = append(all, s)
		}
	}
	return all, ""
}

// tune makes the settings in the pod's network namespace.
func tune(net *podNet, pod *corev1.Pod) error {
	all, _ := sysctls(pod)
	for _, s := range all {
		if err := net.NS.Sysctl(s.Name, s.Value); err != nil {
			return err
		}
	}
	return nil
}

// admitSysctls fails a pod that asks for a setting it must not have, in kubelet's words.
func (w *worker) admitSysctls() {
	if _, forbidden := sysctls(w.pod); forbidden != "" {
		w.reject("SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", forbidden))
	}
}
