package proxy

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Labels by which a Service or a slice asks every proxy to leave it alone.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = corev1.IsHeadlessService
)

// desired is what one Service asks of this node's table. Nil: nothing.
type desired struct {
	Name types.NamespacedName
	// ClusterIP is not valid for the hostPorts of a pod.
	ClusterIP netip.Addr
	// External are the load-balancer and external addresses, without duplicates.
	External []netip.Addr
	// Guarded are those of External that only the sources in Ranges may use.
	Guarded []netip.Addr
	Ranges  []netip.Prefix
	Ports   []desiredPort
}

// desiredPort is one service-port. Affinity is in seconds, 0 for none.
type desiredPort struct {
	Name                         string
	Protocol                     uint8
	Port, NodePort               uint16
	Affinity                     uint32
	InternalLocal, ExternalLocal bool
	// HostIP, if valid, is the one address of the node at which NodePort answers: a hostPort may ask for that.
	HostIP netip.Addr
	// Cluster are the endpoints of the Cluster policy, Local those of this node (kept only when a Local policy needs them).
	Cluster, Local []endpoint
	// Here are all endpoints of this node, chosen or not: each may come to reach itself.
	Here []endpoint
}

// endpoint is one address and port that may be translated to. Its Pod is part of what it is: a new pod that took over the
// address of an old one is a new endpoint.
type endpoint struct {
	Address netip.AddrPort
	Pod     string // "namespace/name", "" when the slice names none
}

// model holds the Services, slices and pods as last seen. The objects are the store's own and are only read.
type model struct {
	node     string
	zone     string // the node's, "" while unknown
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName][]*discoveryv1.EndpointSlice // by Service, in order of name
	policies *policies
	hostPods map[types.NamespacedName]*corev1.Pod // by hostPortName: this node's pods with hostPorts
}

func newModel(node string) *model {
	return &model{
		node:     node,
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
		policies: newPolicies(node),
		hostPods: map[types.NamespacedName]*corev1.Pod{},
	}
}

// take enters one event and adds the Services it may change to dirty.
func (m *model) take(e store.Event, dirty map[types.NamespacedName]struct{}) {
	switch e.Kind {
	case api.Services:
		svc := e.Object.(*corev1.Service)
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		dirty[name] = struct{}{}
		if e.Type == store.Deleted {
			delete(m.services, name)
			return
		}
		m.services[name] = svc
	case api.EndpointSlices:
		if e.Old != nil {
			m.dropSlice(e.Old.(*discoveryv1.EndpointSlice), dirty)
		}
		slice := e.Object.(*discoveryv1.EndpointSlice)
		if e.Type == store.Deleted {
			m.dropSlice(slice, dirty)
			return
		}
		m.addSlice(slice, dirty)
	case api.Nodes:
		m.takeNode(e.Object.(*corev1.Node), e.Type == store.Deleted, dirty)
	case api.Pods:
		m.takePod(e.Object.(*corev1.Pod), e.Type == store.Deleted, dirty)
		m.policies.takePod(e.Object.(*corev1.Pod), e.Type == store.Deleted)
	case api.Namespaces:
		m.policies.takeNamespace(e.Object.(*corev1.Namespace), e.Type == store.Deleted)
	default:
		if policy, ok := e.Object.(*networkingv1.NetworkPolicy); ok {
			m.policies.takePolicy(policy, e.Type == store.Deleted)
		}
	}
}

func (m *model) dropSlice(slice *discoveryv1.EndpointSlice, dirty map[types.NamespacedName]struct{}) {
	owner, ok := serviceOf(slice)
	if !ok {
		return
	}
	dirty[owner] = struct{}{}
	held := m.slices[owner]
	i, found := findSlice(held, slice.Name)
	switch {
	case !found:
	case len(held) == 1:
		delete(m.slices, owner)
	default:
		m.slices[owner] = slices.Delete(held, i, i+1)
	}
}

func (m *model) addSlice(slice *discoveryv1.EndpointSlice, dirty map[types.NamespacedName]struct{}) {
	owner, ok := serviceOf(slice)
	if !ok {
		return
	}
	dirty[owner] = struct{}{}
	held := m.slices[owner]
	i, found := findSlice(held, slice.Name)
	if found {
		held[i] = slice
		return
	}
	m.slices[owner] = slices.Insert(held, i, slice)
}

// findSlice is where a slice stands, or would stand, among those of its Service.
func findSlice(held []*discoveryv1.EndpointSlice, name string) (int, bool) {
	return slices.BinarySearchFunc(held, name, func(s *discoveryv1.EndpointSlice, name string) int { return strings.Compare(s.Name, name) })
}

func serviceOf(slice *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	name := slice.Labels[discoveryv1.LabelServiceName]
	return types.NamespacedName{Namespace: slice.Namespace, Name: name}, name != ""
}

// ignored says why a Service has no place in the table; "" when it has one.
func ignored(svc *corev1.Service) string {
	if name, ok := svc.Labels[labelProxyName]; ok {
		return "its label " + labelProxyName + " leaves it to " + name
	}
	if _, ok := svc.Labels[labelHeadless]; ok {
		return "its label " + labelHeadless + " makes it headless"
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return "an ExternalName Service is an alias in DNS"
	}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return "a headless Service has no address; DNS answers with its pods"
	}
	if len(clusterIPs(svc)) == 0 {
		return "it has no address yet"
	}
	return ""
}

// clusterIPs are the Service's addresses, at most one of each family.
func clusterIPs(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, f := range []family{ipv4, ipv6} {
		for _, s := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
			if a, ok := f.parse(s); ok {
				out = append(out, a)
				break
			}
		}
	}
	return out
}

// desired is the state that one Service, or one pod's hostPorts, ask of a family's table now, nil for none.
func (m *model) desired(name types.NamespacedName, f family) *desired {
	if pod := m.hostPods[name]; pod != nil {
		return hostPorts(name, pod, f)
	}
	svc := m.services[name]
	if svc == nil || ignored(svc) != "" {
		return nil
	}
	d := &desired{Name: name, External: externalAddresses(svc, f)}
	for _, ip := range clusterIPs(svc) {
		if f.has(ip) {
			d.ClusterIP = ip
		}
	}
	if !d.ClusterIP.IsValid() {
		return nil
	}
	if d.Ranges = sourceRanges(svc, f); d.Ranges != nil {
		d.Guarded = loadBalancerAddresses(svc, f)
	}
	d.Ports = make([]desiredPort, len(svc.Spec.Ports))
	for i := range svc.Spec.Ports {
		d.Ports[i] = m.desiredPort(svc, &svc.Spec.Ports[i], f)
	}
	return d
}

func (m *model) desiredPort(svc *corev1.Service, port *corev1.ServicePort, f family) desiredPort {
	p := desiredPort{
		Name: port.Name, Protocol: protocolNumber(port.Protocol), Port: uint16(port.Port), NodePort: uint16(port.NodePort),
		Affinity:      affinitySeconds(svc),
		InternalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		p.NodePort = 0
	}
	all := m.candidates(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, port, f)
	local := m.localOf(all)
	if len(local) > 0 {
		p.Here = make([]endpoint, 0, len(local))
	}
	for _, c := range local {
		p.Here = append(p.Here, c.endpoint)
	}
	choose(all)
	m.heedHints(all)
	p.Cluster = used(all)
	if p.InternalLocal || p.ExternalLocal {
		choose(local)
		p.Local = used(local)
	}
	return p
}

func affinitySeconds(svc *corev1.Service) uint32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	c := svc.Spec.SessionAffinityConfig
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil || *c.ClientIP.TimeoutSeconds <= 0 {
		return uint32(corev1.DefaultClientIPServiceAffinitySeconds)
	}
	return uint32(*c.ClientIP.TimeoutSeconds)
}

// The protocols of Services, by their numbers in the IP header.
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return protoUDP
	case corev1.ProtocolSCTP:
		return protoSCTP
	}
	return protoTCP
}

func protocolName(n uint8) corev1.Protocol {
	switch n {
	case protoUDP:
		return corev1.ProtocolUDP
	case protoSCTP:
		return corev1.ProtocolSCTP
	}
	return corev1.ProtocolTCP
}

// names are the names of everything that may have a desired state, in order.
func (m *model) names() []types.NamespacedName {
	names := make(map[types.NamespacedName]struct{}, len(m.services))
	for n := range m.services {
		names[n] = struct{}{}
	}
	for n := range m.hostPods {
		names[n] = struct{}{}
	}
	return sorted(names)
}

// all is the desired state of everything that has one, in order of name.
func (m *model) all(f family) []*desired {
	names := m.names()
	out := make([]*desired, 0, len(names))
	for _, n := range names {
		if d := m.desired(n, f); d != nil {
			out = append(out, d)
		}
	}
	return out
}
