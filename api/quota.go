package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
)

// quotaKinds are the kinds that a ResourceQuota counts by a short name of their own.
var quotaKinds = map[corev1.ResourceName]*Kind{
	"services": Services, "secrets": Secrets, "configmaps": ConfigMaps, "resourcequotas": ResourceQuotas,
}

// QuotaUsed is how much of what a ResourceQuota bounds one object takes; what it does not touch is left out.
func QuotaUsed(spec *corev1.ResourceQuotaSpec, obj Object) corev1.ResourceList {
	used := corev1.ResourceList{}
	if !quotaCovers(spec, obj) {
		return used
	}
	add := func(name corev1.ResourceName, q resource.Quantity) {
		if _, bounded := spec.Hard[name]; bounded && !q.IsZero() {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	one := *resource.NewQuantity(1, resource.DecimalSI)
	kind := KindOf(obj)
	add(corev1.ResourceName("count/"+kind.String()), one)
	for name, k := range quotaKinds {
		if k == kind {
			add(name, one)
		}
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		if PodTerminal(o) {
			return used
		}
		add(corev1.ResourcePods, one)
		for name, q := range podresource.PodRequests(o, podresource.PodResourcesOptions{}) {
			add(name, q)
			add("requests."+name, q)
		}
		for name, q := range podresource.PodLimits(o, podresource.PodResourcesOptions{}) {
			add("limits."+name, q)
		}
	case *corev1.Service:
		if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			add(corev1.ResourceServicesLoadBalancers, one)
		}
		for _, p := range o.Spec.Ports {
			if o.Spec.Type == corev1.ServiceTypeNodePort || p.NodePort != 0 {
				add(corev1.ResourceServicesNodePorts, one)
			}
		}
	}
	return used
}

// quotaCovers tells whether an object is within a quota's scopes. Only pods are within any; a quota without scopes covers all.
func quotaCovers(spec *corev1.ResourceQuotaSpec, obj Object) bool {
	var scopes []corev1.ScopedResourceSelectorRequirement
	for _, s := range spec.Scopes {
		scopes = append(scopes, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists})
	}
	if spec.ScopeSelector != nil {
		scopes = append(scopes, spec.ScopeSelector.MatchExpressions...)
	}
	if len(scopes) == 0 {
		return true
	}
	pod, ok := obj.(*corev1.Pod)
	return ok && !slices.ContainsFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool { return !inScope(pod, s) })
}

func inScope(pod *corev1.Pod, s corev1.ScopedResourceSelectorRequirement) bool {
	ends := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	best := qosClass(&pod.Spec) == corev1.PodQOSBestEffort
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return ends
	case corev1.ResourceQuotaScopeNotTerminating:
		return !ends
	case corev1.ResourceQuotaScopeBestEffort:
		return best
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !best
	case corev1.ResourceQuotaScopePriorityClass:
		return hasPriority(pod.Spec.PriorityClassName, s)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return reachesOut(pod.Spec.Affinity)
	}
	return false
}

func hasPriority(class string, s corev1.ScopedResourceSelectorRequirement) bool {
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return class != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return class == ""
	case corev1.ScopeSelectorOpIn:
		return class != "" && slices.Contains(s.Values, class)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(s.Values, class)
	}
	return false
}

// reachesOut tells whether an affinity looks at pods of other namespaces.
func reachesOut(a *corev1.Affinity) bool {
	var terms []corev1.PodAffinityTerm
	var weighted []corev1.WeightedPodAffinityTerm
	if a != nil && a.PodAffinity != nil {
		terms = append(terms, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a != nil && a.PodAntiAffinity != nil {
		terms = append(terms, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for _, w := range weighted {
		terms = append(terms, w.PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// QuotaMissing names the amounts that a quota bounds and a pod's containers do not state: such a pod cannot be counted.
func QuotaMissing(spec *corev1.ResourceQuotaSpec, pod *corev1.Pod) []string {
	if !quotaCovers(spec, pod) {
		return nil
	}
	var missing []string
	for name := range spec.Hard {
		what, limit := strings.CutPrefix(string(name), "limits.")
		what = strings.TrimPrefix(what, "requests.")
		if what != "cpu" && what != "memory" {
			continue
		}
		for i := range pod.Spec.Containers {
			r := pod.Spec.Containers[i].Resources
			list := r.Requests
			if limit {
				list = r.Limits
			}
			if _, ok := list[corev1.ResourceName(what)]; !ok {
				missing = append(missing, string(name)+" for: "+pod.Spec.Containers[i].Name)
			}
		}
	}
	return missing
}

// QuotaStatus is a quota's status as it should be, with every object of its namespace counted. list hands out the namespace's
// objects of a kind.
func QuotaStatus(quota *corev1.ResourceQuota, list func(*Kind) []Object) corev1.ResourceQuotaStatus {
	used := corev1.ResourceList{}
	for name := range quota.Spec.Hard {
		used[name] = *resource.NewQuantity(0, resource.DecimalSI)
	}
	for _, k := range Kinds {
		if !k.Namespaced || k == Events || !quotaCounts(&quota.Spec, k) {
			continue
		}
		for _, obj := range list(k) {
			for name, q := range QuotaUsed(&quota.Spec, obj) {
				total := used[name]
				total.Add(q)
				used[name] = total
			}
		}
	}
	return corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard.DeepCopy(), Used: used}
}

// quotaCounts tells whether objects of a kind can matter to a quota: all others need not be looked at.
func quotaCounts(spec *corev1.ResourceQuotaSpec, k *Kind) bool {
	if k == Pods || k == Services {
		return true
	}
	_, counted := spec.Hard[corev1.ResourceName("count/"+k.String())]
	for name, named := range quotaKinds {
		_, bounded := spec.Hard[name]
		counted = counted || bounded && named == k
	}
	return counted
}
