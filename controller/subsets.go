package controller

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/api"
)

// maxAddresses is how many addresses an Endpoints object holds at most; Kubernetes' limit.
const maxAddresses = 1000

// subsets is a Service's pods as an Endpoints object tells them: the first address family alone, terminating pods left out (E-1)
// unless the Service publishes whatever there is. The annotations say so when addresses had to be left out.
func subsets(svc *corev1.Service, cands []candidate) ([]corev1.EndpointSubset, map[string]string) {
	family := families(svc)[0]
	byPorts := map[string]*corev1.EndpointSubset{}
	resolve := resolver{svc: svc}
	count := 0
	var annotations map[string]string
	for _, cand := range cands {
		pod := cand.pod
		ip := podAddress(pod, family)
		if ip == "" || podEnded(pod) || pod.DeletionTimestamp != nil && !svc.Spec.PublishNotReadyAddresses {
			continue
		}
		ports, key := resolve.of(pod)
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue // it has none of the ports that the Service names
		}
		if count++; count > maxAddresses {
			annotations = map[string]string{corev1.EndpointsOverCapacity: "truncated"}
			break
		}
		if byPorts[key] == nil {
			byPorts[key] = &corev1.EndpointSubset{Ports: endpointPorts(ports)}
		}
		set, address := byPorts[key], endpointAddress(svc, pod, ip)
		if svc.Spec.PublishNotReadyAddresses || podReady(pod) {
			set.Addresses = append(set.Addresses, address)
		} else {
			set.NotReadyAddresses = append(set.NotReadyAddresses, address)
		}
	}
	var all []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		sortAddresses(byPorts[key].Addresses)
		sortAddresses(byPorts[key].NotReadyAddresses)
		all = append(all, *byPorts[key])
	}
	return all, annotations
}

func sortAddresses(a []corev1.EndpointAddress) {
	slices.SortFunc(a, func(x, y corev1.EndpointAddress) int { return cmp.Compare(x.IP, y.IP) })
}

func endpointAddress(svc *corev1.Service, pod *corev1.Pod, ip string) corev1.EndpointAddress {
	a := corev1.EndpointAddress{
		IP: ip, TargetRef: &corev1.ObjectReference{Kind: api.Pods.Kind, Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		node := pod.Spec.NodeName
		a.NodeName = &node
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == svc.Name {
		a.Hostname = pod.Spec.Hostname
	}
	return a
}

func endpointPorts(ports []discoveryv1.EndpointPort) []corev1.EndpointPort {
	var all []corev1.EndpointPort
	for _, p := range ports {
		all = append(all, corev1.EndpointPort{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol, AppProtocol: p.AppProtocol})
	}
	return all
}
