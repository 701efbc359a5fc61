package api

import (
	"fmt"
	"math"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var podSpecPath = field.NewPath("spec")

// validatePod checks what a pod and a pod template have in common, and what only a pod has.
func validatePod(pod *corev1.Pod) field.ErrorList {
	errs := validatePodSpec(&pod.Spec, podSpecPath, true)
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		errs = append(errs, notNegative(podSpecPath.Child("terminationGracePeriodSeconds"), *g)...)
	}
	for i, c := range pod.Spec.Containers {
		errs = append(errs, imageSpace(podSpecPath.Child("containers").Index(i), c.Image)...)
	}
	for i, c := range pod.Spec.InitContainers {
		errs = append(errs, imageSpace(podSpecPath.Child("initContainers").Index(i), c.Image)...)
	}
	return errs
}

func imageSpace(path *field.Path, image string) field.ErrorList {
	if image == strings.TrimSpace(image) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("image"), image, "must not have leading or trailing whitespace")}
}

func validatePodCreate(pod *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("nodeName"),
			"cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

// validatePodSpec checks the spec of a pod (isPod) or of a pod template.
func validatePodSpec(spec *corev1.PodSpec, path *field.Path, isPod bool) field.ErrorList {
	var errs field.ErrorList
	if spec.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	volumes, e := validateVolumes(spec.Volumes, path.Child("volumes"))
	errs = append(errs, e...)
	v := containerRules{volumes: volumes, grace: spec.TerminationGracePeriodSeconds}
	errs = append(errs, v.containers(spec.Containers, path.Child("containers"))...)
	errs = append(errs, v.initContainers(spec, path.Child("initContainers"))...)
	errs = append(errs, validateHostSharing(spec, path, isPod)...)
	errs = append(errs, oneOf(path.Child("restartPolicy"), spec.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(path.Child("dnsPolicy"), spec.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, metavalidation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validateDNSConfig(spec, path.Child("dnsConfig"))...)
	errs = append(errs, validatePodNames(spec, path)...)
	errs = append(errs, validateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validatePodAffinity(spec.Affinity, path.Child("affinity"))...)
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	for i, alias := range spec.HostAliases {
		p := path.Child("hostAliases").Index(i)
		errs = append(errs, address(p.Child("ip"), alias.IP, nil)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, dnsSubdomain(p.Child("hostnames").Index(j), name)...)
		}
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *d,
			validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	return errs
}

// validatePodNames checks the names a pod spec holds: its own on the network, and those of other objects.
func validatePodNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Hostname != "" {
		errs = append(errs, dnsLabel(path.Child("hostname"), spec.Hostname)...)
	}
	if spec.Subdomain != "" {
		errs = append(errs, dnsLabel(path.Child("subdomain"), spec.Subdomain)...)
	}
	for _, n := range [][2]string{
		{"serviceAccountName", spec.ServiceAccountName}, {"nodeName", spec.NodeName}, {"priorityClassName", spec.PriorityClassName},
	} {
		if n[1] != "" {
			errs = append(errs, dnsSubdomain(path.Child(n[0]), n[1])...)
		}
	}
	if spec.RuntimeClassName != nil {
		errs = append(errs, dnsSubdomain(path.Child("runtimeClassName"), *spec.RuntimeClassName)...)
	}
	for i, gate := range spec.ReadinessGates {
		errs = append(errs, qualifiedName(path.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType))...)
	}
	seen := map[string]bool{}
	for i, gate := range spec.SchedulingGates {
		p := path.Child("schedulingGates").Index(i)
		errs = append(errs, qualifiedName(p, gate.Name)...)
		if seen[gate.Name] {
			errs = append(errs, field.Duplicate(p, gate.Name))
		}
		seen[gate.Name] = true
	}
	return errs
}

func validateHostSharing(spec *corev1.PodSpec, path *field.Path, isPod bool) field.ErrorList {
	var errs field.ErrorList
	if share := spec.ShareProcessNamespace; share != nil && *share && spec.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if !spec.HostNetwork {
		return errs
	}
	for i, c := range spec.Containers {
		for j, p := range c.Ports {
			if (isPod || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"),
					p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// Limits of a pod's resolver settings, as glibc of old had them and Kubernetes keeps them.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func validateDNSConfig(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	c := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return field.ErrorList{field.Required(path, "must provide `dnsConfig` when `dnsPolicy` is None")}
		}
		if len(c.Nameservers) == 0 {
			return field.ErrorList{field.Required(path.Child("nameservers"),
				"must provide at least one DNS nameserver when `dnsPolicy` is None")}
		}
	}
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), c.Nameservers,
			fmt.Sprintf("must not have more than %d nameservers", maxNameservers)))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, address(path.Child("nameservers").Index(i), ns, nil)...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches,
			fmt.Sprintf("must not have more than %d search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches,
			fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, s := range c.Searches {
		if s = strings.TrimSuffix(s, "."); s != "" || c.Searches[i] == "" {
			errs = append(errs, invalid(path.Child("searches").Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(s))...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

// updatable names, as Kubernetes does, what of a pod's spec may change.
const updatable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	const addRemove = "pod updates may not add or remove containers"
	spec, was := &pod.Spec, &old.Spec
	if len(spec.Containers) != len(was.Containers) {
		return field.ErrorList{field.Forbidden(podSpecPath.Child("containers"), addRemove)}
	}
	if len(spec.InitContainers) != len(was.InitContainers) {
		return field.ErrorList{field.Forbidden(podSpecPath.Child("initContainers"), addRemove)}
	}
	errs := validateDeadlineUpdate(spec.ActiveDeadlineSeconds, was.ActiveDeadlineSeconds)
	if len(errs) > 0 && spec.ActiveDeadlineSeconds != nil {
		return errs
	}
	errs = append(errs, onlyAddedTolerations(spec.Tolerations, was.Tolerations)...)
	errs = append(errs, onlyDeletedGates(spec.SchedulingGates, was.SchedulingGates)...)
	if equality.Semantic.DeepEqual(spec, was) {
		return errs
	}
	munged := spec.DeepCopy()
	for i := range munged.Containers {
		munged.Containers[i].Image = was.Containers[i].Image
	}
	for i := range munged.InitContainers {
		munged.InitContainers[i].Image = was.InitContainers[i].Image
	}
	munged.ActiveDeadlineSeconds, munged.Tolerations = was.ActiveDeadlineSeconds, was.Tolerations
	munged.SchedulingGates = was.SchedulingGates
	if len(was.SchedulingGates) > 0 {
		errs = append(errs, onlyAddedSelector(spec.NodeSelector, was.NodeSelector)...)
		munged.NodeSelector = was.NodeSelector
	}
	if now, g := munged.TerminationGracePeriodSeconds, was.TerminationGracePeriodSeconds; g != nil && *g < 0 && now != nil && *now == 1 {
		munged.TerminationGracePeriodSeconds = g
	}
	if !equality.Semantic.DeepEqual(munged, was) {
		errs = append(errs, field.Forbidden(podSpecPath,
			fmt.Sprintf("pod updates may not change fields other than %s\n%v", updatable, diff.Diff(*was, *munged))))
	}
	return errs
}

func validateDeadlineUpdate(is, was *int64) field.ErrorList {
	path := podSpecPath.Child("activeDeadlineSeconds")
	switch {
	case is != nil && (*is < 0 || *is > math.MaxInt32):
		return field.ErrorList{field.Invalid(path, *is, validation.InclusiveRangeError(0, math.MaxInt32))}
	case is == nil && was != nil:
		return field.ErrorList{field.Invalid(path, is, "must not update from a positive integer to nil value")}
	case is != nil && was != nil && *was < *is:
		return field.ErrorList{field.Invalid(path, *is, "must be less than or equal to previous value")}
	}
	return nil
}

func onlyAddedTolerations(is, was []corev1.Toleration) field.ErrorList {
	for _, old := range was {
		found := false
		for _, t := range is {
			old.TolerationSeconds = t.TolerationSeconds // may change
			found = found || reflect.DeepEqual(old, t)
		}
		if !found {
			return field.ErrorList{field.Forbidden(podSpecPath.Child("tolerations"),
				"existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func onlyDeletedGates(is, was []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	had := map[string]bool{}
	for _, g := range was {
		had[g.Name] = true
	}
	for i, g := range is {
		if !had[g.Name] {
			errs = append(errs, field.Forbidden(podSpecPath.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

func onlyAddedSelector(is, was map[string]string) field.ErrorList {
	for k, v := range was {
		if now, ok := is[k]; !ok || now != v {
			return field.ErrorList{field.Invalid(podSpecPath.Child("nodeSelector"), is,
				"only additions to spec.nodeSelector are allowed (no mutations or deletions)")}
		}
	}
	return nil
}
