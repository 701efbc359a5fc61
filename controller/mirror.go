package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

const (
	mirrorComponent = "endpoint-slice-mirroring-controller"
	// leaderAnnotation marks Endpoints that are nothing but a lock.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

// mirror makes slices of the Endpoints that someone wrote for a Service without a selector (E-7), for nobody else reads them.
func (c *endpoints) mirror(t *turn, svc *corev1.Service) error {
	existing := slicesOf(t, svc.Namespace, svc.Name, mirrorManager)
	ep, ok := find[*corev1.Endpoints](t, api.Endpoints, svc.Namespace, svc.Name)
	if !ok || ep.Labels[discoveryv1.LabelSkipMirror] == "true" || ep.Annotations[leaderAnnotation] != "" {
		return c.deleteAll(t, existing)
	}
	// Slices from the time when the Service had a selector: the Endpoints of that time are mirrored in their place.
	if err := c.deleteAll(t, slicesOf(t, svc.Namespace, svc.Name, sliceManager)); err != nil {
		return err
	}
	subsets, err := c.mirrorable(t, ep)
	if err != nil {
		return err
	}
	var plan []*discoveryv1.EndpointSlice
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		groups := groupSubsets(subsets, family)
		if len(groups) == 0 {
			continue
		}
		mine := slices.DeleteFunc(slices.Clone(existing), func(s *discoveryv1.EndpointSlice) bool { return s.AddressType != family })
		plan = append(plan, planSlices(family, mine, groups)...)
	}
	for _, s := range plan {
		dressMirror(s, ep)
	}
	return c.apply(t, existing, plan)
}

// mirrorable is the subsets of an Endpoints without what is no address and what is too much; an event tells of both.
func (c *endpoints) mirrorable(t *turn, ep *corev1.Endpoints) (good []corev1.EndpointSubset, err error) {
	invalid, skipped := 0, 0
	for _, set := range ep.Subsets {
		room := maxAddresses
		cut := func(all []corev1.EndpointAddress) (kept []corev1.EndpointAddress) {
			for _, a := range all {
				switch _, err := netip.ParseAddr(a.IP); {
				case room == 0:
					skipped++
				case err != nil:
					invalid++
				default:
					kept = append(kept, a)
					room--
				}
			}
			return kept
		}
		good = append(good, corev1.EndpointSubset{Addresses: cut(set.Addresses), NotReadyAddresses: cut(set.NotReadyAddresses), Ports: set.Ports})
	}
	h := happening{component: mirrorComponent, warning: true}
	if invalid > 0 {
		h.reason, h.message = "InvalidIPAddress", fmt.Sprintf("Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
		err = t.record(ep, h)
	}
	if skipped > 0 && err == nil {
		h.reason = "TooManyAddressesToMirror"
		h.message = fmt.Sprintf("A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxAddresses, skipped+invalid)
		err = t.record(ep, h)
	}
	return good, err
}

// groupSubsets turns written subsets into groups of one address family.
func groupSubsets(subsets []corev1.EndpointSubset, family discoveryv1.AddressType) []group {
	byPorts := map[string]*group{}
	for _, set := range subsets {
		var ports []discoveryv1.EndpointPort
		for _, p := range set.Ports {
			name, protocol, port := p.Name, cmp.Or(p.Protocol, corev1.ProtocolTCP), p.Port
			ports = append(ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port, AppProtocol: p.AppProtocol})
		}
		found := append(mirrored(set.Addresses, family, true), mirrored(set.NotReadyAddresses, family, false)...)
		if len(found) == 0 {
			continue
		}
		key := portsKey(ports)
		if byPorts[key] == nil {
			byPorts[key] = &group{ports: ports}
		}
		byPorts[key].endpoints = append(byPorts[key].endpoints, found...)
	}
	var groups []group
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		groups = append(groups, *byPorts[key])
	}
	return groups
}

func mirrored(addresses []corev1.EndpointAddress, family discoveryv1.AddressType, ready bool) []discoveryv1.Endpoint {
	var found []discoveryv1.Endpoint
	for _, a := range addresses {
		addr, err := netip.ParseAddr(a.IP)
		if err != nil || addr.Is4() != (family == discoveryv1.AddressTypeIPv4) {
			continue
		}
		e := discoveryv1.Endpoint{
			Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: a.NodeName, TargetRef: a.TargetRef,
		}
		if a.Hostname != "" {
			hostname := a.Hostname
			e.Hostname = &hostname
		}
		found = append(found, e)
	}
	return found
}

// dressMirror gives a mirrored slice its labels, and the Endpoints as its owner.
func dressMirror(s *discoveryv1.EndpointSlice, ep *corev1.Endpoints) {
	s.Namespace = ep.Namespace
	if s.Name == "" {
		s.GenerateName = ep.Name + "-"
	}
	s.Labels = with(ep.Labels, discoveryv1.LabelServiceName, ep.Name)
	s.Labels[discoveryv1.LabelManagedBy] = mirrorManager
	delete(s.Labels, managedEndpointsLabel)
	since := s.Annotations[corev1.EndpointsLastChangeTriggerTime]
	s.Annotations = maps.Clone(ep.Annotations)
	delete(s.Annotations, corev1.LastAppliedConfigAnnotation)
	delete(s.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if since != "" {
		s.Annotations = with(s.Annotations, corev1.EndpointsLastChangeTriggerTime, since)
	}
	s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(ep, api.Endpoints.GroupVersionKind())}
}
