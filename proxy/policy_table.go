package proxy

import (
	"maps"
	mathbits "math/bits"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// policyTable is what the policies ask of one family's table.
type policyTable struct {
	family  family
	all     *policies
	held    elements
	changed map[elemKey]struct{} // since the last drain
	byPod   map[types.NamespacedName][]elemKey
	names   map[string]struct{} // named ports that rules use
	terms   []policyPeer        // all distinct peers
	targets map[string]*targetClass
	peers   map[string]*peerClass
	taken   map[uint32]struct{}
}

// targetClass is isolated pods that the same policies select for one direction.
type targetClass struct {
	id    uint32
	rules []policyRule
	out   bool
	ports string // its pods' named ports
	label string
}

// peerClass is peers that the same terms match.
type peerClass struct {
	id    uint32
	terms map[string]struct{}
	ports string
	label string
}

func newPolicyTable(f family, all *policies) *policyTable {
	return &policyTable{
		family: f, all: all, held: elements{}, changed: map[elemKey]struct{}{}, byPod: map[types.NamespacedName][]elemKey{},
		names: map[string]struct{}{}, targets: map[string]*targetClass{}, peers: map[string]*peerClass{}, taken: map[uint32]struct{}{},
	}
}

// drain returns what is asked now, and what changed in it since the last time.
func (t *policyTable) drain() (elements, []elemKey) {
	out := slices.Collect(maps.Keys(t.changed))
	clear(t.changed)
	return t.held, out
}

// forget notes the elements of an older table, so that those that are no more are taken away.
func (t *policyTable) forget(older elements) {
	for k := range older {
		t.changed[k] = struct{}{}
	}
}

// replace fills a new table in place of an old one, whose unseen changes it takes over.
func (t *policyTable) replace(old *policyTable) {
	seen := map[string]struct{}{}
	for _, name := range sortedKeys(t.all.policies) {
		p := t.all.policies[name]
		for _, r := range slices.Concat(p.in, p.out) {
			for _, port := range r.ports {
				if port.Port != nil && port.Port.StrVal != "" {
					t.names[port.Port.StrVal] = struct{}{}
				}
			}
			for _, peer := range r.peers {
				if _, twice := seen[peer.term]; !twice {
					seen[peer.term] = struct{}{}
					t.terms = append(t.terms, peer)
				}
			}
		}
	}
	t.blocks()
	for _, name := range sortedKeys(t.all.pods) {
		t.setPod(name, t.all.pods[name])
	}
	t.changed = old.changed
	for k, v := range old.held {
		if now, is := t.held[k]; !is || now != v {
			t.changed[k] = struct{}{}
		}
	}
	for k := range t.held {
		if _, was := old.held[k]; !was {
			t.changed[k] = struct{}{}
		}
	}
}

func (t *policyTable) put(name, key, value, note string) elemKey {
	k, v := elemKey{name, key}, elemValue{value, comment(note)}
	if old, is := t.held[k]; !is || old != v {
		t.held[k] = v
		t.changed[k] = struct{}{}
	}
	return k
}

// blocks puts an element for each prefix that a block or an exception names: the longest that holds an address tells exactly
// which blocks hold it.
func (t *policyTable) blocks() {
	prefixes := map[netip.Prefix]struct{}{}
	add := func(p netip.Prefix) {
		if !t.family.has(p.Addr()) {
			return
		}
		if p.Bits() > 0 {
			prefixes[p] = struct{}{}
			return
		}
		half, _ := p.Addr().Prefix(1) // no mask of no bits: the two halves of everything
		prefixes[half] = struct{}{}
		upper := p.Addr().AsSlice()
		upper[0] = 0x80
		a, _ := netip.AddrFromSlice(upper)
		prefixes[netip.PrefixFrom(a, 1)] = struct{}{}
	}
	for _, term := range t.terms {
		add(term.cidr)
		for _, e := range term.except {
			add(e)
		}
	}
	for p := range prefixes {
		var matched []string
		for i := range t.terms {
			term := &t.terms[i]
			if term.cidr.IsValid() && covers(term.cidr, p) && !slices.ContainsFunc(term.except, func(e netip.Prefix) bool { return covers(e, p) }) {
				matched = append(matched, term.term)
			}
		}
		c := t.peer(matched, "")
		t.put(mapBlocks, packPrefix(p), packMark(c.id), c.label)
	}
}

// covers tells whether a prefix holds all of another.
func covers(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// setPod plans one pod anew; nil: it is gone.
func (t *policyTable) setPod(name types.NamespacedName, pod *corev1.Pod) {
	for _, k := range t.byPod[name] {
		delete(t.held, k)
		t.changed[k] = struct{}{}
	}
	delete(t.byPod, name)
	if pod == nil || len(t.all.policies) == 0 {
		return
	}
	var keys []elemKey
	for _, ip := range podIPs(pod, t.family) {
		note := pod.Namespace + "/" + pod.Name + " pod"
		if pod.Spec.NodeName == t.all.node {
			if c := t.target(pod, false); c != nil {
				keys = append(keys, t.put(mapIsolatedIn, packAddr(ip), packMark(c.id), note))
			}
			if c := t.target(pod, true); c != nil {
				keys = append(keys, t.put(mapIsolatedOut, packAddr(ip), packMark(c.id), note))
			}
		}
		var matched []string
		for i := range t.terms {
			if t.terms[i].selects(pod, ip, t.all.namespaces) {
				matched = append(matched, t.terms[i].term)
			}
		}
		if len(matched) > 0 || len(t.names) > 0 || t.inBlock(ip) {
			c := t.peer(matched, namedPorts(pod, t.names))
			keys = append(keys, t.put(mapPeers, packAddr(ip), packMark(c.id), note))
		}
	}
	if len(keys) > 0 {
		t.byPod[name] = keys
	}
}

// inBlock tells whether the blocks' elements would speak for a pod that no term selects.
func (t *policyTable) inBlock(ip netip.Addr) bool {
	return slices.ContainsFunc(t.terms, func(p policyPeer) bool { return p.cidr.IsValid() && p.cidr.Contains(ip) })
}

// target returns the class of a pod of this node for one direction; nil: it is not isolated.
func (t *policyTable) target(pod *corev1.Pod, out bool) *targetClass {
	var names []string
	var rules []policyRule
	for _, name := range sortedKeys(t.all.policies) {
		p := t.all.policies[name]
		if name.Namespace != pod.Namespace || !p.pods.Matches(labels.Set(pod.Labels)) || out && !p.isOut || !out && !p.isIn {
			continue
		}
		names = append(names, name.String())
		if out {
			rules = append(rules, p.out...)
		} else {
			rules = append(rules, p.in...)
		}
	}
	if len(names) == 0 {
		return nil
	}
	ports := ""
	if !out {
		ports = namedPorts(pod, t.names)
	}
	direction := map[bool]string{false: "to ", true: "from "}[out]
	signature := direction + strings.Join(names, ",") + "\n" + ports
	if c := t.targets[signature]; c != nil {
		return c
	}
	c := &targetClass{id: t.number(signature), rules: rules, out: out, ports: ports, label: direction + strings.Join(names, ",")}
	t.targets[signature] = c
	t.permit(c.id, t.allowed(c, nil), c.label)
	for _, peer := range t.peers {
		t.pair(c, peer)
	}
	return c
}

// peer returns the class of what the terms match.
func (t *policyTable) peer(matched []string, ports string) *peerClass {
	signature := "peer " + strings.Join(matched, ",") + "\n" + ports
	if c := t.peers[signature]; c != nil {
		return c
	}
	c := &peerClass{id: t.number(signature), terms: map[string]struct{}{}, ports: ports, label: strings.Join(matched, ", ")}
	for _, m := range matched {
		c.terms[m] = struct{}{}
	}
	t.peers[signature] = c
	for _, target := range t.targets {
		t.pair(target, c)
	}
	return c
}

func (t *policyTable) number(signature string) uint32 {
	n := number(signature, func(n uint32) bool { _, is := t.taken[n]; return is })
	t.taken[n] = struct{}{}
	return n
}

// pair puts what a peer class may do beyond what everyone may.
func (t *policyTable) pair(target *targetClass, peer *peerClass) {
	ports := t.allowed(target, peer)
	if maps.Equal(ports, t.allowed(target, nil)) {
		return
	}
	label := target.label + " / " + peer.label
	id := t.number("pair " + string(packMark(target.id, peer.id)))
	t.put(mapPairs, packMark(target.id, peer.id), packMark(id), label)
	t.permit(id, ports, label)
}

// portRange is ports of a protocol; protocol 0: all of all.
type portRange struct {
	protocol uint8
	from, to uint16
}

// allowed is what a target allows a class of peers; nil: one that nothing is known of.
func (t *policyTable) allowed(target *targetClass, peer *peerClass) map[portRange]struct{} {
	out := map[portRange]struct{}{}
	for _, r := range target.rules {
		meant := len(r.peers) == 0 || peer != nil && slices.ContainsFunc(r.peers, func(p policyPeer) bool {
			_, is := peer.terms[p.term]
			return is
		})
		if !meant {
			continue
		}
		if len(r.ports) == 0 {
			out[portRange{}] = struct{}{}
		}
		named := target.ports
		if target.out {
			named = ""
			if peer != nil {
				named = peer.ports
			}
		}
		for _, p := range r.ports {
			if ports, ok := readPort(p, named); ok {
				out[ports] = struct{}{}
			}
		}
	}
	return out
}

// readPort reads one port of a rule; named are the named ports of the pod it is a port of. A name that the pod does not have
// allows nothing.
func readPort(p networkingv1.NetworkPolicyPort, named string) (portRange, bool) {
	protocol := uint8(protoTCP)
	if p.Protocol != nil {
		protocol = protocolNumber(*p.Protocol)
	}
	switch {
	case p.Port == nil:
		return portRange{protocol, 0, 65535}, true
	case p.Port.StrVal != "":
		for _, line := range strings.Split(named, "\n") {
			name, packed, _ := strings.Cut(line, "=")
			if name == p.Port.StrVal && len(packed) == 8 && packed[0] == protocol {
				port := unpackPort(packed[4:])
				return portRange{protocol, port, port}, true
			}
		}
		return portRange{}, false
	}
	r := portRange{protocol, uint16(p.Port.IntVal), uint16(p.Port.IntVal)}
	if p.EndPort != nil {
		r.to = uint16(*p.EndPort)
	}
	return r, true
}

// permit puts the permissions of one number. A range of ports becomes the fewest prefixes, at most thirty.
func (t *policyTable) permit(id uint32, ports map[portRange]struct{}, label string) {
	for r := range ports {
		switch {
		case r.protocol == 0:
			t.put(mapPermitAll, packMark(id), "", label)
		case r.from == 0 && r.to == 65535:
			t.put(mapPermitProtocol, packMark(id)+string([]byte{r.protocol, 0, 0, 0}), "", label)
		default:
			for _, p := range portPrefixes(r.from, r.to) {
				t.put(mapPermitPort, packMark(id, uint32(p.bits))+packNodePort(r.protocol, p.port), "", label)
			}
		}
	}
}

// portPrefix is the ports that share their first bits with port.
type portPrefix struct {
	port uint16
	bits int
}

func portPrefixes(from, to uint16) []portPrefix {
	var out []portPrefix
	for at, end := uint32(from), uint32(to); at <= end; {
		free := min(16, mathbits.TrailingZeros32(at|1<<16))
		for at+1<<free-1 > end {
			free--
		}
		out = append(out, portPrefix{uint16(at), 16 - free})
		at += 1 << free
	}
	return out
}
