package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// N-5, N-7: the containers of a pod have one network, one name and the same files about them; each stands in its own working directory,
// which is made if need be.
func TestContainersOfAPodShareItsNetworkAndItsNames(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("pair")
	pod.Spec.Containers = append(pod.Spec.Containers, shell("beside", stay))
	pod.Spec.Containers[1].WorkingDir = "/tmp/made/for/it"
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"far"}}}
	b.create(pod)
	got := b.awaitReady(pod)
	b.expect(pod, "beside", "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/healthz; pwd", "200/tmp/made/for/it")
	b.expect(pod, "beside", "ip -4 -br addr show eth0 | tr -s ' ' | cut -d' ' -f3", got.Status.PodIP+"/32")
	const files = "hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; readlink /proc/self/ns/net"
	web, err := b.execIn(pod, "web", "sh", "-c", files)
	beside, err2 := b.execIn(pod, "beside", "sh", "-c", files)
	if err != nil || err2 != nil || web != beside || len(web) < 100 {
		t.Errorf("one sees %s %v, the other %s %v", web, err, beside, err2)
	}
}

// N-6: addresses, quality of service and the time of the start are in the status, of the node's network too.
func TestAStatusTellsAddressesAndQuality(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	own, shared := webPod("own"), commandPod("shared", "sh", "-c", stay)
	all := corev1.ResourceList{"cpu": resource.MustParse("10m"), "memory": resource.MustParse("8Mi")}
	own.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: all, Limits: all}
	shared.Spec.HostNetwork = true
	for pod, want := range map[*corev1.Pod]corev1.PodQOSClass{own: corev1.PodQOSGuaranteed, shared: corev1.PodQOSBestEffort} {
		b.create(pod)
		s := b.awaitReady(pod).Status
		if len(s.PodIPs) != 1 || s.PodIPs[0].IP != s.PodIP || len(s.HostIPs) != 1 || s.HostIPs[0].IP != "172.30.0.11" || s.HostIP != "172.30.0.11" {
			t.Errorf("%s: addresses %v %v, hosts %v %v", pod.Name, s.PodIP, s.PodIPs, s.HostIP, s.HostIPs)
		}
		if (s.PodIP == s.HostIP) != pod.Spec.HostNetwork || s.QOSClass != want || s.StartTime.IsZero() {
			t.Errorf("%s: got %s, %s, %v", pod.Name, s.PodIP, s.QOSClass, s.StartTime)
		}
	}
	b.expect(shared, "main", "hostname; cat /proc/net/fib_trie | grep -c 172.30.0.11 | grep -v ^0 >/dev/null && echo on the node", "n1\non the node")
}

// N-9: a pod with a readiness gate is ready when its containers are and somebody says so, and as long.
func TestAReadinessGateHoldsThePodBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("gated")
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/traffic"}}
	b.create(pod)
	got := b.await(pod, "held back", func(p *corev1.Pod) bool { return condition(p, corev1.ContainersReady).Status == corev1.ConditionTrue })
	if c := condition(got, corev1.PodReady); c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" ||
		c.Message != `corresponding condition of pod readiness gate "example.com/traffic" does not exist.` {
		t.Errorf("got %+v", c)
	}
	say := func(is corev1.ConditionStatus) {
		t.Helper()
		b.change(pod, func(p *corev1.Pod) {
			for i := range p.Status.Conditions {
				if p.Status.Conditions[i].Type == "example.com/traffic" {
					p.Status.Conditions[i].Status = is
					return
				}
			}
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.com/traffic", Status: is})
		})
	}
	say(corev1.ConditionTrue)
	b.awaitReady(pod)
	say(corev1.ConditionFalse)
	got = b.await(pod, "held back again", func(p *corev1.Pod) bool { return !isReady(p) })
	if c := condition(got, corev1.PodReady); c.Message != `the status of pod readiness gate "example.com/traffic" is not "True", but False` {
		t.Errorf("got %+v", c)
	}
}

// N-9, N-10: a probe's own grace comes before the pod's.
func TestAProbeHasItsOwnGrace(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("stubborn", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
	pod.Spec.TerminationGracePeriodSeconds = ptr[int64](1000)
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TerminationGracePeriodSeconds: ptr[int64](1),
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}}
	b.create(pod)
	got := b.await(pod, "restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if e := got.Status.ContainerStatuses[0].LastTerminationState.Terminated; e == nil || e.ExitCode != 137 {
		t.Errorf("got %+v", e)
	}
	if m := b.message(pod, "Killing"); m != "Container main failed liveness probe, will be restarted" {
		t.Errorf("got %q", m)
	}
	b.remove(pod, 0)
	b.awaitGone(pod)
}
