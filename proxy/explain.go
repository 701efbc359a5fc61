package proxy

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Explanation is what this node's table holds for a Service, and why. It comes from the functions that decide.
type Explanation struct {
	Service types.NamespacedName
	Node    string
	// Absent says why the table holds nothing for it; "" when it does.
	Absent string
	Ports  []ExplainedPort
}

// ExplainedPort is one service-port.
type ExplainedPort struct {
	Name     string
	Protocol string // "TCP"
	Port     uint16
	// ID is the service-port's number: the conntrack mark of its connections, with the top bit set under a Local policy.
	ID uint32
	// Affinity is how long a client keeps its endpoint, in seconds; 0: not at all.
	Affinity uint32
	// Ways are the addresses and ports that lead here.
	Ways []Way
	// Endpoints are all candidates of the slices, used or not.
	Endpoints []ExplainedEndpoint
}

// Way is one address and port that leads to a service-port.
type Way struct {
	Address netip.AddrPort
	Kind    string // "ClusterIP", "external" or "NodePort"
	// Local: only endpoints of this node are used on this way.
	Local bool
}

// ExplainedEndpoint is one candidate, with its verdict under the Cluster and under the Local policy.
type ExplainedEndpoint struct {
	Address netip.AddrPort
	Pod     string
	Node    string
	// Handle is the endpoint's number in the table; 0: it is not there.
	Handle  uint32
	Verdict Verdict
	// LocalVerdict is "" for an endpoint of another node.
	LocalVerdict Verdict
}

// Explain tells what the table holds for a Service. Before the first reconcile there are no numbers in it.
func (p *Proxy) Explain(service types.NamespacedName) Explanation {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := Explanation{Service: service, Node: p.cfg.Node}
	svc := p.model.services[service]
	if svc == nil {
		e.Absent = "there is no such Service"
		return e
	}
	if e.Absent = ignored(svc); e.Absent != "" {
		return e
	}
	for i := range svc.Spec.Ports {
		e.Ports = append(e.Ports, p.explainPort(svc, &svc.Spec.Ports[i]))
	}
	return e
}

// explainPort tells of a service-port in all the families that its Service has.
func (p *Proxy) explainPort(svc *corev1.Service, port *corev1.ServicePort) ExplainedPort {
	out := ExplainedPort{
		Name: port.Name, Protocol: string(protocolName(protocolNumber(port.Protocol))), Port: uint16(port.Port),
		Affinity: affinitySeconds(svc),
	}
	for _, ip := range clusterIPs(svc) {
		for _, s := range p.sides {
			if s.network.has(ip) {
				p.explainSide(&out, s, svc, port)
			}
		}
	}
	return out
}

func (p *Proxy) explainSide(out *ExplainedPort, s *side, svc *corev1.Service, port *corev1.ServicePort) {
	f, name := s.network.family, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	want := p.model.desiredPort(svc, port, f)
	var planned *plannedService
	if s.planner != nil {
		planned = s.planner.services[name]
	}
	held := planned.port(portKey{want.Name, want.Protocol})
	if held == nil {
		held = &plannedPort{desiredPort: want}
	}
	if out.ID == 0 {
		out.ID = held.id
	}
	out.Ways = append(out.Ways, p.ways(f, svc, held)...)
	all := p.model.candidates(name, port, f)
	here := p.model.localOf(all)
	choose(all)
	p.model.heedHints(all)
	choose(here)
	for _, c := range all {
		h, _ := held.handle(c.endpoint)
		e := ExplainedEndpoint{Address: c.Address, Pod: c.Pod, Node: c.Node, Handle: h, Verdict: c.Verdict}
		if c.Node == p.cfg.Node && len(here) > 0 { // here holds this node's candidates in the same order
			e.LocalVerdict, here = here[0].Verdict, here[1:]
		}
		out.Endpoints = append(out.Endpoints, e)
	}
}

// ways are the addresses of a family that lead to a service-port.
func (p *Proxy) ways(f family, svc *corev1.Service, port *plannedPort) []Way {
	var out []Way
	for _, ip := range clusterIPs(svc) {
		if f.has(ip) {
			out = append(out, Way{netip.AddrPortFrom(ip, port.Port), "ClusterIP", port.mark(port.InternalLocal) != port.id})
		}
	}
	external := port.mark(port.ExternalLocal) != port.id
	for _, a := range externalAddresses(svc, f) {
		out = append(out, Way{netip.AddrPortFrom(a, port.Port), "external", external})
	}
	if port.NodePort == 0 {
		return out
	}
	for _, e := range p.constant(f) {
		out = append(out, Way{netip.AddrPortFrom(unpackAddr(e.Key), port.NodePort), "NodePort", external})
	}
	return out
}

// String is one line for a way: "10.96.0.10:80 (ClusterIP)".
func (w Way) String() string {
	s := fmt.Sprintf("%s (%s", w.Address, w.Kind)
	if w.Local {
		s += ", endpoints of this node only"
	}
	return s + ")"
}
