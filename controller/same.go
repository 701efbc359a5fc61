package controller

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// What is compared of slices and Endpoints is compared field by field: reflection would be most of the cost of a start in a big
// cluster, where everything is looked at and nothing changes.

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return slices.EqualFunc(a.Endpoints, b.Endpoints, func(x, y discoveryv1.Endpoint) bool { return sameEntry(&x, &y) }) &&
		slices.EqualFunc(a.Ports, b.Ports, samePort) && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		slices.EqualFunc(a.OwnerReferences, b.OwnerReferences, sameOwner)
}

func sameEntry(a, b *discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) && same(a.Conditions.Ready, b.Conditions.Ready) &&
		same(a.Conditions.Serving, b.Conditions.Serving) && same(a.Conditions.Terminating, b.Conditions.Terminating) &&
		same(a.Hostname, b.Hostname) && same(a.TargetRef, b.TargetRef) && same(a.NodeName, b.NodeName) && same(a.Zone, b.Zone) &&
		sameHints(a.Hints, b.Hints) && maps.Equal(a.DeprecatedTopology, b.DeprecatedTopology)
}

func sameHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
}

func samePort(a, b discoveryv1.EndpointPort) bool {
	return same(a.Name, b.Name) && same(a.Protocol, b.Protocol) && same(a.Port, b.Port) && same(a.AppProtocol, b.AppProtocol)
}

func sameSubset(a, b corev1.EndpointSubset) bool {
	return slices.EqualFunc(a.Addresses, b.Addresses, sameAddress) && slices.EqualFunc(a.NotReadyAddresses, b.NotReadyAddresses, sameAddress) &&
		slices.EqualFunc(a.Ports, b.Ports, func(x, y corev1.EndpointPort) bool {
			return x.Name == y.Name && x.Port == y.Port && x.Protocol == y.Protocol && same(x.AppProtocol, y.AppProtocol)
		})
}

func sameAddress(a, b corev1.EndpointAddress) bool {
	return a.IP == b.IP && a.Hostname == b.Hostname && same(a.NodeName, b.NodeName) && same(a.TargetRef, b.TargetRef)
}

// same compares what two pointers point to.
func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
