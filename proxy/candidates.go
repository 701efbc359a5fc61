package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// candidate is an endpoint as the slices tell of it, with the verdict of choose.
type candidate struct {
	endpoint
	Node                        string
	Ready, Serving, Terminating bool
	Hints                       *discoveryv1.EndpointHints
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
	VerdictElsewhere   Verdict = "ready, but its hints keep it for other nodes or zones"
)

// Used tells whether an endpoint with this verdict gets connections.
func (v Verdict) Used() bool { return v == VerdictReady || v == VerdictTerminating }

// localOf copies the candidates of this node.
func (m *model) localOf(all []candidate) []candidate {
	var local []candidate
	for _, c := range all {
		if c.Node == m.node && c.Node != "" {
			if local == nil {
				local = make([]candidate, 0, len(all))
			}
			local = append(local, c)
		}
	}
	return local
}

// used returns the endpoints that get connections.
func used(candidates []candidate) []endpoint {
	var out []endpoint
	for _, c := range candidates {
		if c.Verdict.Used() {
			if out == nil {
				out = make([]endpoint, 0, len(candidates)) // they are kept: no room to spare
			}
			out = append(out, c.endpoint)
		}
	}
	return out
}

// candidates gathers the endpoints of one service-port over all slices, in order of slice name.
func (m *model) candidates(name types.NamespacedName, port *corev1.ServicePort, f family) []candidate {
	all := 0
	for _, slice := range m.slices[name] {
		all += len(slice.Endpoints)
	}
	out := make([]candidate, 0, all) // one address each, as a rule
	for _, slice := range m.slices[name] {
		if _, headless := slice.Labels[labelHeadless]; headless || slice.AddressType != f.slices() {
			continue
		}
		for _, target := range targetPorts(slice, port) {
			for i := range slice.Endpoints {
				out = appendCandidates(out, slice, &slice.Endpoints[i], target, f)
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

// appendCandidates appends an endpoint as a candidate, once for each of its addresses.
func appendCandidates(to []candidate, slice *discoveryv1.EndpointSlice, ep *discoveryv1.Endpoint, port uint16, f family) []candidate {
	c := candidate{
		Hints:       ep.Hints,
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
		if ip, ok := f.parse(a); ok {
			c.Address = netip.AddrPortFrom(ip, port)
			to = append(to, c)
		}
	}
	return to
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

// heedHints leaves of the ready endpoints those whose hints name this node, or else this node's zone; all of them when any lacks
// a hint, or when none is meant for here.
func (m *model) heedHints(candidates []candidate) {
	for _, meant := range []func(*candidate) (given, here bool){m.hintedNode, m.hintedZone} {
		given, here := true, false
		for i := range candidates {
			if c := &candidates[i]; c.Verdict == VerdictReady {
				g, h := meant(c)
				given, here = given && g, here || h
			}
		}
		if !given || !here {
			continue
		}
		for i := range candidates {
			c := &candidates[i]
			if _, h := meant(c); c.Verdict == VerdictReady && !h {
				c.Verdict = VerdictElsewhere
			}
		}
		return
	}
}

func (m *model) hintedNode(c *candidate) (given, here bool) {
	if c.Hints == nil {
		return false, false
	}
	return len(c.Hints.ForNodes) > 0, slices.ContainsFunc(c.Hints.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == m.node })
}

func (m *model) hintedZone(c *candidate) (given, here bool) {
	if c.Hints == nil {
		return false, false
	}
	in := func(z discoveryv1.ForZone) bool { return m.zone != "" && z.Name == m.zone }
	return len(c.Hints.ForZones) > 0, slices.ContainsFunc(c.Hints.ForZones, in)
}
