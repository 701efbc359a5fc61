package proxy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// mark is what the address of a port is mapped to: its id, or the Local variant. With no endpoint anywhere Local makes no
// difference, and callers are refused, not left waiting.
func (p *plannedPort) mark(local bool) uint32 {
	if local && len(p.cluster) > 0 {
		return p.id | localBit
	}
	return p.id
}

// elementsOf lists what one Service holds in the table.
func (p *planner) elementsOf(s *plannedService) []element {
	if s == nil {
		return nil
	}
	n := 1 + len(s.desired.External)
	for i := range s.ports {
		port := &s.ports[i]
		n += 4 + 3*len(port.cluster) + 2*len(port.local) + len(port.Here) // most of the time all there is
	}
	out := make([]element, 0, n)
	add := func(name, key, value, note string) {
		out = append(out, element{elemKey{name, key}, elemValue{value, comment(note)}})
	}
	d, name := &s.desired, s.desired.Name.String()
	if d.ClusterIP.IsValid() {
		add(mapClusterIPs, packAddr(d.ClusterIP), "", name)
	}
	for _, a := range d.External {
		add(mapExternalIPs, packAddr(a), "", name)
	}
	for i := range s.ports {
		p.addWays(add, d, &s.ports[i])
	}
	for i := range s.ports {
		p := &s.ports[i]
		label := name + portSuffix(p.Name)
		addVariant(add, p.id, p.cluster, label)
		addVariant(add, p.id|localBit, p.local, label+" local")
		for _, s := range p.all() {
			add(mapEndpoints, packMark(s.handle), packEndpoint(s.Address), endpointComment(s.endpoint, label))
			if s.here {
				addHairpin(add, s.endpoint)
			}
		}
		for _, e := range p.Here {
			addHairpin(add, e)
		}
	}
	return out
}

// addWays lists what leads to a service-port.
func (p *planner) addWays(add func(name, key, value, note string), d *desired, port *plannedPort) {
	label := d.Name.String() + portSuffix(port.Name)
	internal, external := packMark(port.mark(port.InternalLocal)), packMark(port.mark(port.ExternalLocal))
	if d.ClusterIP.IsValid() {
		add(mapServices, packService(d.ClusterIP, port.Protocol, port.Port), internal, label)
	}
	for _, a := range d.External {
		add(mapExternal, packService(a, port.Protocol, port.Port), external, label)
	}
	for _, a := range d.Guarded {
		add(mapGuarded, packService(a, port.Protocol, port.Port), "", label)
		for _, r := range withOwn(d.Ranges, a, p.nodeAddresses()) {
			add(mapRanges, external+packPrefix(r), "", label)
		}
	}
	switch {
	case port.NodePort == 0:
	case port.HostIP.IsValid():
		add(mapExternal, packService(port.HostIP, port.Protocol, port.NodePort), external, label)
	default:
		add(mapNodePorts, packNodePort(port.Protocol, port.NodePort), external, label)
	}
}

// nodeAddresses are the node's own addresses, those that answer on NodePorts.
func (p *planner) nodeAddresses() []netip.Addr {
	var out []netip.Addr
	for _, e := range p.constant {
		if e.Map == mapNodeAddrs {
			out = append(out, unpackAddr(e.Key))
		}
	}
	return out
}

func addVariant(add func(name, key, value, note string), id uint32, slots []slot, label string) {
	if len(slots) == 0 {
		return
	}
	add(mapSizes, packMark(id), packMark(uint32(len(slots))), label)
	for i, s := range slots {
		add(mapSlots, packMark(id, uint32(i)), packMark(s.handle), label)
	}
}

func addHairpin(add func(name, key, value, note string), e endpoint) {
	add(mapHairpin, packAddr(e.Address.Addr(), e.Address.Addr()), "", hairpinComment(e))
}

// all lists the slots of both variants, each handle once.
func (p *plannedPort) all() []slot {
	out := p.cluster
	for _, s := range p.local {
		if !slices.Contains(p.cluster, s) {
			out = append(slices.Clip(out), s)
		}
	}
	return out
}

func portSuffix(name string) string {
	if name == "" {
		return ""
	}
	return ":" + name
}

// endpointComment names the pod, or, when the slice names none, the service-port.
func endpointComment(e endpoint, label string) string {
	if e.Pod == "" {
		return "endpoint of " + label
	}
	return e.Pod + " pod"
}

func hairpinComment(e endpoint) string {
	if e.Pod == "" {
		return "endpoint of this node"
	}
	return e.Pod + " pod"
}

func indexChain(n int) string { return "index-" + strconv.Itoa(n) }

const rememberPrefix = "remember-"

func rememberChain(seconds uint32) string { return rememberPrefix + strconv.Itoa(int(seconds)) }

func timeoutKey(class int) elemKey {
	return elemKey{mapTimeouts, packMark(uint32(class) << classShift)}
}

// timeoutValue is the jump of a class to the chain that remembers for so long; nil for 0 seconds.
func timeoutValue(seconds uint32) *elemValue {
	if seconds == 0 {
		return nil
	}
	return &elemValue{Value: rememberChain(seconds)}
}

// addresses are all the addresses and ports that lead to a service-port.
func (p *planner) addresses(d *desired, port *plannedPort) []netip.AddrPort {
	var out []netip.AddrPort
	if d.ClusterIP.IsValid() {
		out = append(out, netip.AddrPortFrom(d.ClusterIP, port.Port))
	}
	for _, a := range d.External {
		out = append(out, netip.AddrPortFrom(a, port.Port))
	}
	if port.NodePort == 0 {
		return out
	}
	for _, a := range p.nodeAddresses() {
		out = append(out, netip.AddrPortFrom(a, port.NodePort))
	}
	return out
}

// noteUDP notes what a change of a UDP service-port means for conntrack: entries of endpoints that left it, and entries that
// were made while its addresses led nowhere.
func (p *planner) noteUDP(was, now *plannedPort, addresses []netip.AddrPort) {
	if now.Protocol != protoUDP {
		return
	}
	before, after := was.all(), now.all()
	serving := make(map[netip.AddrPort]struct{}, len(after))
	for _, s := range after {
		serving[s.Address] = struct{}{}
	}
	for _, s := range before {
		if _, ok := serving[s.Address]; !ok {
			p.left = append(p.left, leftEndpoint{now.id, s.Address})
		}
	}
	moved := was.Port != now.Port || was.NodePort != now.NodePort
	if len(after) > 0 && (len(before) == 0 || moved) {
		p.joined = append(p.joined, addresses...)
	}
}

// noteGone notes the UDP endpoints of service-ports that are no more.
func (p *planner) noteGone(old, now *plannedService) {
	if old == nil {
		return
	}
	for i := range old.ports {
		port := &old.ports[i]
		if port.Protocol != protoUDP || now.port(portKey{port.Name, port.Protocol}) != nil {
			continue
		}
		for _, s := range port.all() {
			p.left = append(p.left, leftEndpoint{port.id, s.Address})
		}
	}
}

// adoption finds the numbers that a table read back from the kernel already gives to service-ports and endpoints.
type adoption struct {
	held  elements
	taken map[uint32]struct{}
}

// adopt makes the planner go on counting where the table stopped.
func adopt(was held, p *planner) *adoption {
	for k, v := range was.Remembered {
		p.nextID = max(p.nextID, unpackMark(k.Key[len(k.Key)-4:], 0)&^localBit+1)
		p.nextHandle = max(p.nextHandle, unpackMark(v.Value, 0)&^classMask+1)
	}
	for k, v := range was.Elements {
		switch k.Map {
		case mapServices, mapExternal, mapNodePorts:
			p.nextID = max(p.nextID, unpackMark(v.Value, 0)&^localBit+1)
		case mapSizes, mapSlots:
			p.nextID = max(p.nextID, unpackMark(k.Key, 0)&^localBit+1)
		case mapEndpoints:
			p.nextHandle = max(p.nextHandle, unpackMark(k.Key, 0)&^classMask+1)
		case mapTimeouts:
			seconds, err := strconv.ParseUint(strings.TrimPrefix(v.Value, rememberPrefix), 10, 32)
			if class := unpackMark(k.Key, 0) >> classShift; err == nil && class > 0 {
				p.shapes.Timeouts[class] = uint32(seconds)
			}
		}
	}
	for indexes := p.shapes.Indexes; ; indexes *= 2 {
		if _, ok := was.Elements[elemKey{mapDraws, packMark(uint32(indexes))}]; !ok {
			break
		}
		p.shapes.Indexes = indexes
	}
	return &adoption{held: was.Elements, taken: map[uint32]struct{}{}}
}

// port returns what the table knows of a service-port, by the address that leads to it; nil for nothing.
func (a *adoption) port(d *desired, want desiredPort) *plannedPort {
	at := elemKey{mapNodePorts, packNodePort(want.Protocol, want.NodePort)}
	if d.ClusterIP.IsValid() {
		at = elemKey{mapServices, packService(d.ClusterIP, want.Protocol, want.Port)}
	}
	v, ok := a.held[at]
	if !ok {
		return nil
	}
	id := unpackMark(v.Value, 0) &^ localBit
	if _, taken := a.taken[id]; taken || id == 0 {
		return nil
	}
	a.taken[id] = struct{}{}
	label := d.Name.String() + portSuffix(want.Name)
	known := map[elemValue]endpoint{}
	for _, e := range slices.Concat(want.Cluster, want.Local) {
		known[elemValue{packEndpoint(e.Address), comment(endpointComment(e, label))}] = e
	}
	p := &plannedPort{desiredPort: desiredPort{Port: want.Port, Protocol: want.Protocol, NodePort: want.NodePort}, id: id}
	p.cluster = a.slots(id, known)
	p.local = a.slots(id|localBit, known)
	if all := p.all(); len(all) > 0 {
		p.class = int(all[0].handle >> classShift)
	}
	return p
}

// slots reads one variant's slots. An endpoint that is not known any more keeps its place, with an identity no slice can name.
func (a *adoption) slots(id uint32, known map[elemValue]endpoint) []slot {
	var out []slot
	seen := map[uint32]struct{}{}
	for i := uint32(0); ; i++ {
		v, ok := a.held[elemKey{mapSlots, packMark(id, i)}]
		if !ok {
			return out
		}
		h := unpackMark(v.Value, 0)
		e, ok := a.held[elemKey{mapEndpoints, packMark(h)}]
		if _, twice := seen[h]; !ok || twice {
			return out
		}
		seen[h] = struct{}{}
		ep, ok := known[e]
		if !ok {
			ep = endpoint{Address: unpackEndpoint(e.Value), Pod: "\x00" + e.Comment}
		}
		out = append(out, slot{endpoint: ep, handle: h})
	}
}

// rest lists the endpoints of ids that nobody took over.
func (a *adoption) rest() []leftEndpoint {
	var out []leftEndpoint
	for k, v := range a.held {
		if k.Map != mapSlots {
			continue
		}
		id := unpackMark(k.Key, 0) &^ localBit
		if _, taken := a.taken[id]; taken {
			continue
		}
		if e, ok := a.held[elemKey{mapEndpoints, v.Value}]; ok {
			out = append(out, leftEndpoint{id, unpackEndpoint(e.Value)})
		}
	}
	return out
}

// nodeAddress is the element that makes an address of the node answer on NodePorts.
func nodeAddress(a netip.Addr) element {
	return element{elemKey{mapNodeAddrs, packAddr(a)}, elemValue{Comment: "this node"}}
}
