package api

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// ServiceCIDRName is the name of the ServiceCIDR that every cluster is born with.
const ServiceCIDRName = "kubernetes"

// heldAddresses are the IPAddress objects that say which Service holds an address, one for each of its ClusterIPs.
func heldAddresses(obj Object) []Object {
	svc := obj.(*corev1.Service)
	var held []Object
	for _, text := range clusterIPs(svc) {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		family := corev1.IPv4Protocol
		if ip.Is6() {
			family = corev1.IPv6Protocol
		}
		a := &networkingv1.IPAddress{Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: svc.Namespace, Name: svc.Name}}}
		a.Name = ip.String()
		a.Labels = map[string]string{
			networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: "ipallocator.k8s.io",
		}
		held = append(held, a)
	}
	return held
}
