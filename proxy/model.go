package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
	Name      types.NamespacedName
	ClusterIP netip.Addr
	// External are the load-balancer and external addresses, without duplicates.
	External []netip.Addr
	Ports    []desiredPort
}

// desiredPort is one service-port. Affinity is in seconds, 0 for none.
type desiredPort struct {
	Name                         string
	Protocol                     uint8
	Port, NodePort               uint16
	Affinity                     uint32
	InternalLocal, ExternalLocal bool
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

// candidate is an endpoint as the slices tell of it, with the verdict of choose.
type candidate struct {
	endpoint
	Node                        string
	Ready, Serving, Terminating bool
	Verdict                     Verdict
}

// Verdict says whether an endpoint gets connections, and why.
type Verdict string

// The verdicts on an endpoint.
const (
	VerdictReady       Verdict = "ready"
	VerdictTerminating Verdict = "terminating, but still serving, and no endpoint is ready"
	VerdictNotReady    Verdict = "not ready"
	VerdictLeaving     Verdict = "terminating, and others are ready"
	VerdictDuplicate   Verdict = "another entry has the same address and port"
)

// Used tells whether an endpoint with this verdict gets connections.
func (v Verdict) Used() bool { return v == VerdictReady || v == VerdictTerminating }

// model holds the Services and slices as last seen. The objects are the store's own and are only read.
type model struct {
	node     string
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice // by Service, then by name of the slice
}

func newModel(node string) *model {
	return &model{
		node:     node,
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
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
	}
}

func (m *model) dropSlice(slice *discoveryv1.EndpointSlice, dirty map[types.NamespacedName]struct{}) {
	owner, ok := serviceOf(slice)
	if !ok {
		return
	}
	dirty[owner] = struct{}{}
	delete(m.slices[owner], slice.Name)
	if len(m.slices[owner]) == 0 {
		delete(m.slices, owner)
	}
}

func (m *model) addSlice(slice *discoveryv1.EndpointSlice, dirty map[types.NamespacedName]struct{}) {
	owner, ok := serviceOf(slice)
	if !ok {
		return
	}
	dirty[owner] = struct{}{}
	if m.slices[owner] == nil {
		m.slices[owner] = map[string]*discoveryv1.EndpointSlice{}
	}
	m.slices[owner][slice.Name] = slice
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
	if _, ok := parse4(svc.Spec.ClusterIP); !ok {
		return "it has no IPv4 address yet"
	}
	return ""
}

// desired is the state that one Service asks for now, nil for none.
func (m *model) desired(name types.NamespacedName) *desired {
	svc := m.services[name]
	if svc == nil || ignored(svc) != "" {
		return nil
	}
	ip, _ := parse4(svc.Spec.ClusterIP)
	d := &desired{Name: name, ClusterIP: ip, External: externalAddresses(svc)}
	for i := range svc.Spec.Ports {
		d.Ports = append(d.Ports, m.desiredPort(svc, &svc.Spec.Ports[i]))
	}
	return d
}

func (m *model) desiredPort(svc *corev1.Service, port *corev1.ServicePort) desiredPort {
	p := desiredPort{
		Name: port.Name, Protocol: protocolNumber(port.Protocol), Port: uint16(port.Port), NodePort: uint16(port.NodePort),
		Affinity:      affinitySeconds(svc),
		InternalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		p.NodePort = 0
	}
	all := m.candidates(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, port)
	local := m.localOf(all)
	for _, c := range local {
		p.Here = append(p.Here, c.endpoint)
	}
	p.Cluster = used(all)
	if p.InternalLocal || p.ExternalLocal {
		p.Local = used(local)
	}
	return p
}

// localOf copies the candidates of this node.
func (m *model) localOf(all []candidate) []candidate {
	var local []candidate
	for _, c := range all {
		if c.Node == m.node && c.Node != "" {
			local = append(local, c)
		}
	}
	return local
}

// used chooses among candidates and returns the endpoints that get connections.
func used(candidates []candidate) []endpoint {
	choose(candidates)
	var out []endpoint
	for _, c := range candidates {
		if c.Verdict.Used() {
			out = append(out, c.endpoint)
		}
	}
	return out
}

// candidates gathers the endpoints of one service-port over all slices, in order of slice name.
func (m *model) candidates(name types.NamespacedName, port *corev1.ServicePort) []candidate {
	held := m.slices[name]
	var out []candidate
	for _, n := range slices.Sorted(maps.Keys(held)) {
		slice := held[n]
		if _, headless := slice.Labels[labelHeadless]; headless || slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, target := range targetPorts(slice, port) {
			for i := range slice.Endpoints {
				out = appendCandidates(out, slice, &slice.Endpoints[i], target)
			}
		}
	}
	return out
}

// targetPorts are the numbers a slice gives for a service-port.
func targetPorts(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) []uint16 {
	var out []uint16
	for _, p := range slice.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if name == port.Name && protocolNumber(protocol) == protocolNumber(port.Protocol) && p.Port != nil {
			out = append(out, uint16(*p.Port))
		}
	}
	return out
}

func appendCandidates(out []candidate, slice *discoveryv1.EndpointSlice, ep *discoveryv1.Endpoint, port uint16) []candidate {
	c := candidate{
		Ready:       ep.Conditions.Ready == nil || *ep.Conditions.Ready,
		Terminating: ep.Conditions.Terminating != nil && *ep.Conditions.Terminating,
	}
	c.Serving = c.Ready
	if ep.Conditions.Serving != nil {
		c.Serving = *ep.Conditions.Serving
	}
	if ep.NodeName != nil {
		c.Node = *ep.NodeName
	}
	if ep.TargetRef != nil && ep.TargetRef.Kind == "Pod" {
		c.Pod = cmp.Or(ep.TargetRef.Namespace, slice.Namespace) + "/" + ep.TargetRef.Name
	}
	for _, a := range ep.Addresses {
		if ip, ok := parse4(a); ok {
			c.Address = netip.AddrPortFrom(ip, port)
			out = append(out, c)
		}
	}
	return out
}

// choose gives each candidate its verdict: the ready ones, or, when none is ready, those that still serve while they
// terminate. Of several entries with one address and port one counts: ready before not, then staying before terminating,
// then the first.
func choose(candidates []candidate) {
	best := make(map[netip.AddrPort]int, len(candidates))
	for i := range candidates {
		j, seen := best[candidates[i].Address]
		if !seen || rank(&candidates[i]) > rank(&candidates[j]) {
			best[candidates[i].Address] = i
		}
	}
	anyReady := slices.ContainsFunc(candidates, func(c candidate) bool { return c.Ready })
	for i := range candidates {
		c := &candidates[i]
		switch {
		case best[c.Address] != i:
			c.Verdict = VerdictDuplicate
		case c.Ready:
			c.Verdict = VerdictReady
		case c.Serving && c.Terminating && anyReady:
			c.Verdict = VerdictLeaving
		case c.Serving && c.Terminating:
			c.Verdict = VerdictTerminating
		default:
			c.Verdict = VerdictNotReady
		}
	}
}

// rank orders entries of one address and port.
func rank(c *candidate) int {
	r := 0
	if c.Ready {
		r += 4
	}
	if !c.Terminating {
		r += 2
	}
	if c.Serving {
		r++
	}
	return r
}

// externalAddresses are the addresses from outside that this node serves for a Service: spec.externalIPs and, for type
// LoadBalancer, the addresses in its status unless their ipMode is Proxy.
func externalAddresses(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	add := func(s string) {
		if ip, ok := parse4(s); ok && !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	for _, s := range svc.Spec.ExternalIPs {
		add(s)
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return out
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			add(in.IP)
		}
	}
	return out
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

func parse4(s string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(s)
	return ip, err == nil && ip.Is4()
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

// all is the desired state of every Service that has one, in order of name.
func (m *model) all() []*desired {
	names := make(map[types.NamespacedName]struct{}, len(m.services))
	for n := range m.services {
		names[n] = struct{}{}
	}
	out := make([]*desired, 0, len(names))
	for _, n := range sorted(names) {
		if d := m.desired(n); d != nil {
			out = append(out, d)
		}
	}
	return out
}
