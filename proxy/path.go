package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Packet is the first packet of a connection, as it comes to a node.
type Packet struct {
	Protocol corev1.Protocol // TCP, UDP or SCTP
	Source   netip.Addr
	To       netip.AddrPort
	// Inside: it comes from a pod of the node, or from the node itself.
	Inside bool
}

// Step is a rule that a packet meets and that matters for it, and what it finds there.
type Step struct {
	Chain string `json:"chain"`
	Rule  string `json:"rule"` // as nft prints it
	Found string `json:"found"`
}

// Path tells which rules the first packet of a connection would meet in this node's table, and where that would lead it, from the
// plan that the kernel's table is made of. NetworkPolicies judge it afterwards. Errors: ErrNotRunning before the first
// programming; an address of a family that the node has no table for.
func (p *Proxy) Path(k Packet) ([]Step, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sides {
		if !s.network.has(k.To.Addr()) {
			continue
		}
		if s.planner == nil {
			return nil, ErrNotRunning
		}
		w := walk{Packet: k, network: s.network, planner: s.planner, chains: ruleset(s.network, s.planner.shapes)}
		w.dispatch()
		return w.steps, nil
	}
	return nil, errors.New("the node has no table for " + k.To.String())
}

// walk follows a packet.
type walk struct {
	Packet
	network network
	planner *planner
	chains  []chain
	mark    uint32 // conntrack's: the service-port's id
	service *plannedService
	steps   []Step
}

// meet notes the rule of a chain that has these words.
func (w *walk) meet(chain, words, format string, args ...any) {
	for _, c := range w.chains {
		if c.name != chain {
			continue
		}
		for _, r := range c.rules {
			if strings.Contains(r.text, words) {
				w.steps = append(w.steps, Step{chain, r.text, fmt.Sprintf(format, args...)})
				return
			}
		}
	}
	panic(fmt.Sprintf("proxy: chain %s has no rule with %q", chain, words))
}

// dispatch finds the service-port.
func (w *walk) dispatch() {
	at := packService(w.To.Addr(), protocolNumber(w.Protocol), w.To.Port())
	switch {
	case w.network.dns.IsValid() && w.To.Addr() == w.network.dns:
		w.meet("untracked-out", "daddr", "the node itself answers at the cluster DNS address: nothing is translated")
		return
	case w.look(mapServices, at, "daddr . meta l4proto . th dport map @services"):
	case w.look(mapExternal, at, "daddr . meta l4proto . th dport map @external"):
		if !w.inRange(at) {
			return
		}
		w.inside()
	case slices.Contains(w.planner.nodeAddresses(), w.To.Addr()):
		if w.look(mapNodePorts, packNodePort(protocolNumber(w.Protocol), w.To.Port()), "@nodeaddrs") {
			w.inside()
		} else {
			w.meet("dispatch", "@nodeaddrs", "no Service has this NodePort: the packet is the node's own")
			return
		}
	}
	if w.mark == 0 {
		w.refuse()
		return
	}
	w.balance()
}

// look finds the element that leads to a service-port.
func (w *walk) look(name, key, words string) bool {
	k := elemKey{name, key}
	owner := w.planner.claims.holders[k]
	if owner == nil {
		return false
	}
	w.service = w.planner.services[*owner]
	v := w.planner.valueOf(owner, k)
	w.mark = unpackMark(v.Value, 0)
	w.meet("dispatch", words, "%s", element{k, v})
	return true
}

// inside takes the Local policy off, which does not apply within the cluster.
func (w *walk) inside() {
	if w.Inside && w.mark&localBit != 0 {
		w.mark &^= localBit
		w.meet("dispatch", "saddr type local", "from within the cluster the Local policy does not apply")
	}
}

// inRange tells whether the source may use a guarded address.
func (w *walk) inRange(at string) bool {
	d := &w.service.desired
	if !slices.Contains(d.Guarded, w.To.Addr()) || w.planner.claims.holders[elemKey{mapGuarded, at}] == nil {
		return true
	}
	for _, r := range withOwn(d.Ranges, w.To.Addr(), w.planner.nodeAddresses()) {
		if r.Contains(w.Source) {
			w.meet("dispatch", "@guarded", "the source is in %s, which spec.loadBalancerSourceRanges lets in", r)
			return true
		}
	}
	w.meet(chainRanges, "drop", "the source is in none of spec.loadBalancerSourceRanges: dropped")
	return false
}

// balance names the endpoints among which the packet's is drawn.
func (w *walk) balance() {
	slots, port := w.slots()
	if len(slots) == 0 {
		w.meet("balance", "map @sizes", "no endpoint")
		w.refuse()
		return
	}
	if seconds := w.planner.shapes.Timeouts[port.class]; seconds > 0 && port.class > 0 {
		w.meet("balance", "map @affinity", "the endpoint that this client had in the last %d s, if it is still there; else:", seconds)
	}
	w.meet("balance", "map @sizes", "%d: one of so many is drawn", len(slots))
	for _, s := range slots {
		pod := s.Pod
		if pod == "" {
			pod = "no pod"
		}
		w.meet("deliver", "dnat", "%s (%s), with a chance of 1 in %d", s.Address, pod, len(slots))
	}
	w.masquerade(slots)
}

func (w *walk) slots() ([]slot, *plannedPort) {
	for i := range w.service.ports {
		port := &w.service.ports[i]
		switch {
		case port.id != w.mark&^localBit:
		case w.mark&localBit != 0:
			return port.local, port
		default:
			return port.cluster, port
		}
	}
	return nil, nil
}

// masquerade tells whose address the endpoint sees.
func (w *walk) masquerade(slots []slot) {
	for _, s := range slots {
		if s.Address.Addr() == w.Source {
			w.meet("postrouting", "@hairpin", "when it is the client itself that is drawn, it sees the node's address")
		}
	}
	switch {
	case w.network.masqueradeAll:
		w.meet("postrouting", "masquerade", "the endpoint sees the node's address")
	case w.mark&localBit != 0:
		w.meet("postrouting", "ct mark & 0x80000000 != 0 return", "the endpoint sees %s: the Local policy keeps it", w.Source)
	case !w.network.podCIDR.Contains(w.Source):
		w.meet("postrouting", "saddr != "+w.network.podCIDR.String(), "the endpoint sees the node's address: the client is no pod")
	case !w.network.serviceCIDR.Contains(w.To.Addr()):
		w.meet("postrouting", "ct original", "the endpoint sees the node's address: it was not a ClusterIP that was called")
	default:
		w.steps = append(w.steps, Step{"postrouting", "policy accept", "the endpoint sees " + w.Source.String()})
	}
}

// refuse answers a packet that found no endpoint.
func (w *walk) refuse() {
	address := packAddr(w.To.Addr())
	refused := func(set string) {
		if w.Protocol == corev1.ProtocolTCP {
			w.meet("refuse", "@"+set+" meta l4proto tcp", "refused at once")
			return
		}
		w.meet("refuse", "@"+set+" reject", "refused: port unreachable")
	}
	switch held := w.planner.claims.holders; {
	case w.mark&localBit != 0:
		w.meet("refuse", "ct mark & 0x80000000 != 0 drop", "dropped: this node has no endpoint, and the policy is Local")
	case held[elemKey{mapClusterIPs, address}] != nil:
		refused(mapClusterIPs)
	case held[elemKey{mapExternalIPs, address}] != nil:
		refused(mapExternalIPs)
	case w.network.serviceCIDR.Contains(w.To.Addr()):
		w.meet("refuse", w.network.serviceCIDR.String()+" drop", "dropped: no Service has this address")
	case w.mark != 0:
		w.steps = append(w.steps, Step{"refuse-input", "policy accept", "no endpoint: the node's own sockets refuse it"})
	default:
		w.steps = append(w.steps, Step{"dispatch", "policy accept", "no Service has this address: the packet is routed as it is"})
	}
}
