package controller

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// BirthConfig is what the first objects of a cluster tell of it.
type BirthConfig struct {
	ServiceCIDR netip.Prefix // 10.96.0.0/16: its first address is the API's Service
	DNSAddress  netip.Addr   // 10.96.0.10; the zero Addr for a cluster without DNS
	APIPort     int          // where the API listens on each node
	Nodes       []BirthNode
}

// BirthNode is one node that the API and DNS are reached on.
type BirthNode struct {
	Name    string
	Address netip.Addr
}

const (
	apiServicePort = 443
	dnsPort        = 53
	// dnsProxyName keeps every proxy's hands off the DNS Service: each node serves that address itself.
	dnsProxyName   = "kubarium-dns"
	proxyNameLabel = "service.kubernetes.io/service-proxy-name"
)

// Birth writes what every cluster has from the start: the namespaces default, kube-system, kube-public and kube-node-lease,
// Service default/kubernetes with its Endpoints and slice (E-8), and Service kube-system/kube-dns at its fixed address. Called again,
// it brings them up to date and leaves all else alone.
func Birth(ctx context.Context, s *store.Store, b BirthConfig) error {
	_, err := s.Update(ctx, func(tx *store.Tx) error {
		for _, obj := range firstborn(b) {
			if err := ensure(tx, obj); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func firstborn(b BirthConfig) []api.Object {
	var all []api.Object
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		all = append(all, &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelMetadataName: name}},
			Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
			Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
		})
	}
	kubernetes := fixedService(metav1.NamespaceDefault, "kubernetes", b.ServiceCIDR.Masked().Addr().Next())
	kubernetes.Labels = map[string]string{"component": "apiserver", "provider": "kubernetes"}
	kubernetes.Spec.Ports = []corev1.ServicePort{
		{Name: "https", Protocol: corev1.ProtocolTCP, Port: apiServicePort, TargetPort: intstr.FromInt(b.APIPort)},
	}
	all = append(all, kubernetes)
	all = append(all, fixedEndpoints(kubernetes, b.Nodes)...)
	if !b.DNSAddress.IsValid() {
		return all
	}
	dns := fixedService(metav1.NamespaceSystem, "kube-dns", b.DNSAddress)
	dns.Labels = map[string]string{
		"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true", proxyNameLabel: dnsProxyName,
	}
	dns.Spec.Ports = []corev1.ServicePort{
		{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort, TargetPort: intstr.FromInt(dnsPort)},
		{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort, TargetPort: intstr.FromInt(dnsPort)},
	}
	all = append(all, dns)
	return append(all, fixedEndpoints(dns, b.Nodes)...)
}

// fixedService is a Service without a selector at an address of our choice, defaulted as the API would.
func fixedService(namespace, name string, address netip.Addr) *corev1.Service {
	policy, stack := corev1.ServiceInternalTrafficPolicyCluster, corev1.IPFamilyPolicySingleStack
	family := corev1.IPv4Protocol
	if address.Is6() {
		family = corev1.IPv6Protocol
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: address.String(), ClusterIPs: []string{address.String()},
			IPFamilies: []corev1.IPFamily{family}, IPFamilyPolicy: &stack, InternalTrafficPolicy: &policy, SessionAffinity: corev1.ServiceAffinityNone,
		},
	}
}

// fixedEndpoints is a slice and an Endpoints object that name every node, under the Service's own name.
func fixedEndpoints(svc *corev1.Service, nodes []BirthNode) []api.Object {
	ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
	}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: discoveryv1.AddressType(svc.Spec.IPFamilies[0]),
	}
	if name := svc.Labels[proxyNameLabel]; name != "" {
		slice.Labels[proxyNameLabel] = name
	}
	set := corev1.EndpointSubset{}
	for _, p := range svc.Spec.Ports {
		name, protocol, port := p.Name, p.Protocol, p.TargetPort.IntVal
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port})
		set.Ports = append(set.Ports, corev1.EndpointPort{Name: name, Protocol: protocol, Port: port})
	}
	for _, n := range nodes {
		ready, serving, terminating, name := true, true, false, n.Name
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{n.Address.String()}, NodeName: &name,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		})
		set.Addresses = append(set.Addresses, corev1.EndpointAddress{IP: n.Address.String(), NodeName: &name})
	}
	if len(set.Addresses) > 0 {
		ep.Subsets = []corev1.EndpointSubset{set}
	}
	return []api.Object{ep, slice}
}

// ensure creates obj, or gives the one that is there obj's spec and content. A namespace that is there is left alone: it is the
// users' by now.
func ensure(tx *store.Tx, obj api.Object) error {
	old, err := tx.Get(api.KindOf(obj), obj.GetNamespace(), obj.GetName())
	if apierrors.IsNotFound(err) {
		return tx.Create(obj)
	}
	if err != nil {
		return err
	}
	fresh := api.Copy(old)
	switch o := fresh.(type) {
	case *corev1.Service:
		o.Spec, o.Labels = obj.(*corev1.Service).Spec, obj.GetLabels()
	case *corev1.Endpoints:
		o.Subsets, o.Labels = obj.(*corev1.Endpoints).Subsets, obj.GetLabels()
	case *discoveryv1.EndpointSlice:
		want := obj.(*discoveryv1.EndpointSlice)
		o.Ports, o.Endpoints, o.Labels = want.Ports, want.Endpoints, want.Labels
	}
	if equality.Semantic.DeepEqual(old, fresh) {
		return nil
	}
	return tx.Update(fresh)
}
