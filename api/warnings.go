package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings are what a writer of a valid object should know of it: Kubernetes' own warnings in its words, and where a user would
// be misled, what kubarium keeps and does not act on.
func Warnings(obj Object) []string {
	root, template := (*field.Path)(nil), field.NewPath("spec", "template")
	switch o := obj.(type) {
	case *corev1.Pod:
		warnings := dnsLabelWarning("metadata.name: this is used in the Pod's hostname", o.Name)
		return append(warnings, podWarnings(root, o.Annotations, &o.Spec)...)
	case *corev1.Service:
		return serviceWarnings(o)
	case *appsv1.Deployment:
		return append(podNameWarning(o.Name), podWarnings(template, o.Spec.Template.Annotations, &o.Spec.Template.Spec)...)
	case *appsv1.ReplicaSet:
		return append(podNameWarning(o.Name), podWarnings(template, o.Spec.Template.Annotations, &o.Spec.Template.Spec)...)
	case *appsv1.DaemonSet:
		return podWarnings(template, o.Spec.Template.Annotations, &o.Spec.Template.Spec)
	case *appsv1.StatefulSet:
		warnings := podWarnings(template, o.Spec.Template.Annotations, &o.Spec.Template.Spec)
		if n := o.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
			warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
		}
		if len(o.Spec.VolumeClaimTemplates) > 0 {
			warnings = append(warnings, "spec.volumeClaimTemplates: kubarium has no PersistentVolumes")
		}
		return warnings
	case *batchv1.Job:
		return append(podNameWarning(o.Name), podWarnings(template, o.Spec.Template.Annotations, &o.Spec.Template.Spec)...)
	case *networkingv1.Ingress:
		if _, ok := o.Annotations["kubernetes.io/ingress.class"]; ok {
			return []string{`annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`}
		}
	case *networkingv1.ServiceCIDR:
		if o.Name != ServiceCIDRName {
			return []string{"kubarium gives out addresses of ServiceCIDR " + ServiceCIDRName + " only; this one is kept, and has no effect"}
		}
	}
	return nil
}

func podNameWarning(name string) []string {
	return dnsLabelWarning("metadata.name: this is used in Pod names and hostnames", name)
}

func dnsLabelWarning(what, name string) []string {
	if messages := validation.IsDNS1123Label(name); name != "" && len(messages) > 0 {
		return []string{fmt.Sprintf("%s, which can result in surprising behavior; a DNS label is recommended: %v", what, messages)}
	}
	return nil
}

func serviceWarnings(svc *corev1.Service) []string {
	var warnings []string
	spec := &svc.Spec
	add := func(when bool, text string) {
		if when {
			warnings = append(warnings, text)
		}
	}
	_, hints := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	add(hints, fmt.Sprintf("annotation %s is deprecated, please use %s instead",
		corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	headless, external := spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone, spec.Type == corev1.ServiceTypeExternalName
	add(headless && spec.LoadBalancerIP != "", "spec.loadBalancerIP is ignored for headless services")
	add(headless && len(spec.ExternalIPs) > 0, "spec.externalIPs is ignored for headless services")
	add(headless && spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.SessionAffinity is ignored for headless services")
	add(len(spec.ExternalIPs) > 0 && !headless && !external, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	add(external && len(spec.ExternalIPs) > 0, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
	add(!external && spec.ExternalName != "", `spec.externalName is ignored when spec.type is not "ExternalName"`)
	add(spec.TrafficDistribution != nil && *spec.TrafficDistribution == corev1.ServiceTrafficDistributionPreferClose,
		`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	return warnings
}

// oldLabels are node labels that have other names today.
var oldLabels = map[string]string{
	"beta.kubernetes.io/arch":                  "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
	"beta.kubernetes.io/os":                    "deprecated since v1.14; use \"kubernetes.io/os\" instead",
	"failure-domain.beta.kubernetes.io/region": "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
	"failure-domain.beta.kubernetes.io/zone":   "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
	"beta.kubernetes.io/instance-type":         "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
}

func podWarnings(at *field.Path, annotations map[string]string, pod *corev1.PodSpec) []string {
	var warnings []string
	add := func(path *field.Path, format string, args ...any) {
		warnings = append(warnings, path.String()+": "+fmt.Sprintf(format, args...))
	}
	spec := at.Child("spec")
	for _, key := range slices.Sorted(maps.Keys(pod.NodeSelector)) {
		if text, old := oldLabels[key]; old {
			add(spec.Child("nodeSelector").Key(key), "%s", text)
		}
	}
	for i, t := range pod.TopologySpreadConstraints {
		path := spec.Child("topologySpreadConstraints").Index(i)
		if text, old := oldLabels[t.TopologyKey]; old {
			add(path.Child("topologyKey"), "%s is %s", t.TopologyKey, text)
		}
		if t.LabelSelector == nil {
			add(path.Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(key, "container.seccomp.security.alpha.kubernetes.io/") || key == "seccomp.security.alpha.kubernetes.io/pod" {
			add(at.Child("metadata", "annotations").Key(key), `non-functional in v1.27+; use the "seccompProfile" field instead`)
		}
	}
	warnings = append(warnings, volumeWarnings(spec, pod.Volumes)...)
	warnings = append(warnings, duplicateWarnings(spec, pod)...)
	warnings = append(warnings, containerWarnings(spec, pod)...)
	if g := pod.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		add(spec.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if pod.RuntimeClassName != nil {
		add(spec.Child("runtimeClassName"), "kubarium has one way to run containers; this has no effect")
	}
	return append(warnings, namespaceWarnings(spec, pod)...)
}

// namespaceWarnings names the wishes to see what is the host's.
func namespaceWarnings(spec *field.Path, pod *corev1.PodSpec) []string {
	var warnings []string
	if pod.HostPID {
		warnings = append(warnings, spec.Child("hostPID").String()+
			": kubarium shows a pod no processes of the host; the pod's containers see each other's, as with shareProcessNamespace")
	}
	if pod.HostIPC {
		warnings = append(warnings, spec.Child("hostIPC").String()+": kubarium gives no pod the host's IPC; this has no effect")
	}
	return warnings
}

// duplicateWarnings names what a pod lists twice.
func duplicateWarnings(spec *field.Path, pod *corev1.PodSpec) []string {
	var warnings []string
	add := func(path *field.Path, format string, args ...any) {
		warnings = append(warnings, path.String()+": "+fmt.Sprintf(format, args...))
	}
	secrets := map[string]bool{}
	for i, s := range pod.ImagePullSecrets {
		path := spec.Child("imagePullSecrets").Index(i).Child("name")
		if s.Name == "" {
			add(path, "invalid empty name %q", s.Name)
		} else if secrets[s.Name] {
			add(path, "duplicate name %q", s.Name)
		}
		secrets[s.Name] = true
	}
	hosts := map[string]bool{}
	for i, h := range pod.HostAliases {
		if hosts[h.IP] {
			add(spec.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", h.IP)
		}
		hosts[h.IP] = true
	}
	return warnings
}

// volumeWarnings names the volumes that nobody makes here: their pods wait for them.
func volumeWarnings(spec *field.Path, volumes []corev1.Volume) []string {
	var warnings []string
	for i, v := range volumes {
		s := v.VolumeSource
		known := s.EmptyDir != nil || s.HostPath != nil || s.ConfigMap != nil || s.Secret != nil || s.DownwardAPI != nil || s.Projected != nil
		path := spec.Child("volumes").Index(i)
		switch {
		case s.GitRepo != nil:
			warnings = append(warnings, path.Child("gitRepo").String()+": deprecated in v1.11, and disabled by default in v1.33+")
		case !known:
			warnings = append(warnings, path.String()+": kubarium does not make this kind of volume; the pod will wait for it")
		}
	}
	return warnings
}

// namedPort is a container's port and where it stands.
type namedPort struct {
	path *field.Path
	port corev1.ContainerPort
}

func containerWarnings(spec *field.Path, pod *corev1.PodSpec) []string {
	var warnings []string
	ports := map[string][]namedPort{}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", pod.InitContainers}, {"containers", pod.Containers}} {
		for i := range list.containers {
			c, path := &list.containers[i], spec.Child(list.name).Index(i)
			warnings = append(warnings, fractionWarnings(path, c)...)
			warnings = append(warnings, envWarnings(path, c.Env)...)
			for j, p := range c.Ports {
				at := namedPort{path.Child("ports").Index(j), p}
				key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
				warnings = append(warnings, portWarnings(at, ports[key])...)
				ports[key] = append(ports[key], at)
			}
		}
	}
	return warnings
}

func fractionWarnings(path *field.Path, c *corev1.Container) []string {
	var warnings []string
	for _, list := range []struct {
		name    string
		amounts corev1.ResourceList
	}{{"limits", c.Resources.Limits}, {"requests", c.Resources.Requests}} {
		for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
			if q, ok := list.amounts[name]; ok && q.MilliValue()%1000 != 0 {
				warnings = append(warnings, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
					path.Child("resources", list.name).Key(string(name)), q.String()))
			}
		}
	}
	return warnings
}

// envWarnings names the variables that say something else than one of the same name before them.
func envWarnings(path *field.Path, env []corev1.EnvVar) []string {
	var warnings []string
	seen := map[string]bool{}
	for i, e := range env {
		ref := "$(" + e.Name + ")"
		if seen[e.Name] && (e.ValueFrom != nil || e.Value == ref || !strings.Contains(e.Value, ref)) {
			warnings = append(warnings, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply",
				path.Child("env").Index(i), e.Name))
		}
		seen[e.Name] = true
	}
	return warnings
}

func portWarnings(p namedPort, others []namedPort) []string {
	var warnings []string
	if p.port.HostIP != "" && p.port.HostPort == 0 {
		warnings = append(warnings, fmt.Sprintf("%s: hostIP set without hostPort: %+v", p.path, p.port))
	}
	for _, o := range others {
		switch {
		case p.port.HostIP == o.port.HostIP && p.port.HostPort == o.port.HostPort:
			warnings = append(warnings, fmt.Sprintf("%s: duplicate port definition with %s", p.path, o.path))
		case p.port.HostPort == 0 || o.port.HostPort == 0:
			warnings = append(warnings, fmt.Sprintf("%s: overlapping port definition with %s", p.path, o.path))
		case p.port.HostPort == o.port.HostPort && (p.port.HostIP == "") != (o.port.HostIP == ""):
			warnings = append(warnings, fmt.Sprintf("%s: dangerously ambiguous port definition with %s", p.path, o.path))
		}
	}
	return warnings
}
