package controller

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// group is the endpoints of a Service that share their port numbers: one slice can hold them.
type group struct {
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// families is the address families a Service has slices for.
func families(svc *corev1.Service) []discoveryv1.AddressType {
	var types []discoveryv1.AddressType
	for _, f := range svc.Spec.IPFamilies {
		types = append(types, discoveryv1.AddressType(f))
	}
	if len(types) == 0 {
		types = append(types, discoveryv1.AddressTypeIPv4)
	}
	return types
}

// groupEndpoints turns the pods of a Service into endpoints, grouped by the port numbers that its target ports have in them (E-6).
// Groups come in the order of their ports, endpoints in the order of the pods.
func groupEndpoints(svc *corev1.Service, cands []candidate, family discoveryv1.AddressType) []group {
	byPorts := map[string]*group{}
	resolve := resolver{svc: svc}
	for _, cand := range cands {
		ip := podAddress(cand.pod, family)
		if ip == "" || podEnded(cand.pod) { // E-1
			continue
		}
		ports, key := resolve.of(cand.pod)
		if byPorts[key] == nil {
			byPorts[key] = &group{ports: ports}
		}
		byPorts[key].endpoints = append(byPorts[key].endpoints, endpointOf(svc, cand, ip))
	}
	groups := make([]group, 0, len(byPorts))
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		groups = append(groups, *byPorts[key])
	}
	return groups
}

// podAddress is a pod's address of a family; "" when it has none.
func podAddress(pod *corev1.Pod, family discoveryv1.AddressType) string {
	ips := pod.Status.PodIPs
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip.IP); err == nil && addr.Is4() == (family == discoveryv1.AddressTypeIPv4) {
			return ip.IP
		}
	}
	return ""
}

// endpointOf describes one pod (E-2, E-3).
func endpointOf(svc *corev1.Service, cand candidate, ip string) discoveryv1.Endpoint {
	pod := cand.pod
	serving, terminating := podReady(pod), pod.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: api.Pods.Kind, Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		node := pod.Spec.NodeName
		e.NodeName = &node
	}
	if cand.zone != "" {
		zone := cand.zone
		e.Zone = &zone
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == svc.Name {
		hostname := pod.Spec.Hostname
		e.Hostname = &hostname
	}
	e.Hints = hintsFor(svc, e)
	return e
}

// hintsFor says who had best use an endpoint (E-11): those of its zone or its node, if the Service asks for it.
func hintsFor(svc *corev1.Service, e discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if svc.Spec.TrafficDistribution == nil || !*e.Conditions.Ready {
		return nil
	}
	hints := &discoveryv1.EndpointHints{}
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			hints.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		hints.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if hints.ForNodes == nil && hints.ForZones == nil {
		return nil
	}
	return hints
}

// dressSlice gives a slice of svc its labels and its owner (E-4).
func dressSlice(s *discoveryv1.EndpointSlice, svc *corev1.Service) {
	s.Namespace = svc.Namespace
	if s.Name == "" {
		s.GenerateName = svc.Name + "-"
	}
	s.Labels = with(svc.Labels, discoveryv1.LabelServiceName, svc.Name)
	s.Labels[discoveryv1.LabelManagedBy] = sliceManager
	delete(s.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		s.Labels[corev1.IsHeadlessService] = ""
	}
	s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(svc, api.Services.GroupVersionKind())}
}
