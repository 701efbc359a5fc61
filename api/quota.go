package api

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// quotaKinds are the kinds that a ResourceQuota counts by a short name of their own.
var quotaKinds = map[corev1.ResourceName]*Kind{
	"services": Services, "secrets": Secrets, "configmaps": ConfigMaps, "resourcequotas": ResourceQuotas,
}

// QuotaUsed is how much of what a ResourceQuota bounds one object takes; what it does not touch is left out.
func QuotaUsed(hard corev1.ResourceList, obj Object) corev1.ResourceList {
	used := corev1.ResourceList{}
	add := func(name corev1.ResourceName, q resource.Quantity) {
		if _, bounded := hard[name]; bounded && !q.IsZero() {
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
		requests, limits := podResources(&o.Spec)
		for name, q := range requests {
			add(name, q)
			add("requests."+name, q)
		}
		for name, q := range limits {
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

// podResources is what a pod asks for and may have at most: the sum of its containers, or its greatest init container.
func podResources(spec *corev1.PodSpec) (requests, limits corev1.ResourceList) {
	requests, limits = corev1.ResourceList{}, corev1.ResourceList{}
	sum := func(to, from corev1.ResourceList) {
		for name, q := range from {
			total := to[name]
			total.Add(q)
			to[name] = total
		}
	}
	most := func(to, from corev1.ResourceList) {
		for name, q := range from {
			if now, ok := to[name]; !ok || q.Cmp(now) > 0 {
				to[name] = q.DeepCopy()
			}
		}
	}
	for i := range spec.Containers {
		sum(requests, spec.Containers[i].Resources.Requests)
		sum(limits, spec.Containers[i].Resources.Limits)
	}
	for i := range spec.InitContainers {
		most(requests, spec.InitContainers[i].Resources.Requests)
		most(limits, spec.InitContainers[i].Resources.Limits)
	}
	return requests, limits
}

// QuotaMissing names the amounts that a quota bounds and a pod's containers do not state: such a pod cannot be counted.
func QuotaMissing(hard corev1.ResourceList, pod *corev1.Pod) []string {
	var missing []string
	for name := range hard {
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

// ApplyLimits fills in what a LimitRange gives to containers that state nothing.
func ApplyLimits(l *corev1.LimitRange, pod *corev1.Pod) {
	for _, item := range l.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range containers {
				r := &containers[i].Resources
				r.Limits = filled(r.Limits, item.Default)
				r.Requests = filled(r.Requests, item.DefaultRequest)
			}
		}
	}
}

// filled is list with what it lacks of defaults.
func filled(list, defaults corev1.ResourceList) corev1.ResourceList {
	for name, q := range defaults {
		if _, ok := list[name]; ok {
			continue
		}
		if list == nil {
			list = corev1.ResourceList{}
		}
		list[name] = q.DeepCopy()
	}
	return list
}
