package proxy

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// op is what happens to an element. The values are nft's own words, but for update: nft has none, the kernel is told to
// delete and add in one batch.
type op string

const (
	opAdd    op = "add"
	opDelete op = "delete"
	opUpdate op = "update"
)

// verb is one change of one element.
type verb struct {
	Op op
	element
}

// shapes are the chains that depend on what is in use: index-1 to index-Indexes, and for each class of handles its affinity
// timeout in seconds (0: class not in use).
type shapes struct {
	Indexes  int
	Timeouts [classCount]uint32
	prefixes
}

// portKey names a service-port within its Service, whatever its number is.
type portKey struct {
	name     string
	protocol uint8
}

// slot is one place in the draw.
type slot struct {
	endpoint
	handle uint32
}

// plannedPort is one service-port as planned: its id, the class of its handles, and the slots of both variants.
type plannedPort struct {
	desiredPort
	id             uint32
	class          int
	cluster, local []slot
}

// handle returns the handle that an endpoint of the port has already.
func (p *plannedPort) handle(e endpoint) (uint32, bool) {
	for _, s := range p.cluster {
		if s.endpoint == e {
			return s.handle, true
		}
	}
	for _, s := range p.local {
		if s.endpoint == e {
			return s.handle, true
		}
	}
	return 0, false
}

// plannedService is a Service as planned.
type plannedService struct {
	desired *desired
	ports   []*plannedPort
}

func (s *plannedService) port(k portKey) *plannedPort {
	if s == nil {
		return nil
	}
	for _, p := range s.ports {
		if (portKey{p.Name, p.Protocol}) == k {
			return p
		}
	}
	return nil
}

// planner turns desired state into elements. It is pure: it never fails and touches nothing but itself. Usage: any number of
// set, then finish for the verbs since the last finish.
type planner struct {
	services           map[types.NamespacedName]*plannedService
	claims             claims
	nextID, nextHandle uint32
	shapes             shapes
	classUsers         [classCount]int
	found              *adoption          // numbers to take over at a start; nil later
	changes            map[elemKey]change // since the last finish
	left               []leftEndpoint
	joined             []netip.AddrPort
	constant           []element
	policies           elements // what the NetworkPolicies ask for
	rewrite            bool     // a prefix length came into use
}

// change is an element before and after; nil: it is not there.
type change struct{ before, after *elemValue }

// plan is what has to be done: the verbs for the kernel's table, in order of map and key, and what happened to UDP, whose
// conntrack entries outlive the elements they were made by.
type plan struct {
	Verbs    []verb
	Prefixes bool             // the chains that look for prefixes must be written anew
	Left     []leftEndpoint   // UDP endpoints that get no more packets
	Joined   []netip.AddrPort // UDP addresses that lead somewhere only now
}

// leftEndpoint is an endpoint that one UDP service-port does not use any more.
type leftEndpoint struct {
	ID      uint32
	Address netip.AddrPort
}

// newPlanner makes a planner with the elements that never change. indexes is the number of draw chains made ahead.
func newPlanner(indexes int, constant []element) *planner {
	return &planner{
		services: map[types.NamespacedName]*plannedService{}, claims: claims{}, nextID: firstID, nextHandle: firstHandle,
		shapes: shapes{Indexes: indexes}, changes: map[elemKey]change{}, constant: constant, policies: elements{},
	}
}

// set plans what one Service asks for now; d nil: it is gone.
func (p *planner) set(name types.NamespacedName, d *desired) {
	old := p.services[name]
	var planned *plannedService
	if d != nil {
		planned = &plannedService{desired: d}
		for _, port := range d.Ports {
			planned.ports = append(planned.ports, p.planPort(old, d, port))
		}
		p.services[name] = planned
	} else {
		delete(p.services, name)
	}
	p.count(old, -1)
	p.count(planned, +1)
	p.noteGone(old, planned)
	p.change(name, p.elementsOf(old), p.elementsOf(planned))
}

// planPort plans one service-port from what it was.
func (p *planner) planPort(old *plannedService, d *desired, want desiredPort) *plannedPort {
	was := old.port(portKey{want.Name, want.Protocol})
	if was == nil && p.found != nil {
		was = p.found.port(d, want)
	}
	port := &plannedPort{desiredPort: want, class: p.class(want.Affinity)}
	if was != nil {
		port.id = was.id
	} else {
		port.id = p.nextID
		p.nextID++
		was = &plannedPort{class: port.class}
	}
	before := was
	if was.class != port.class { // the class is part of a handle: all endpoints begin anew
		was = &plannedPort{}
	}
	p.growTo(max(len(want.Cluster), len(want.Local)))
	fresh := map[endpoint]uint32{}
	handle := func(e endpoint) uint32 {
		if h, ok := was.handle(e); ok {
			return h
		}
		if h, ok := fresh[e]; ok {
			return h
		}
		h := p.nextHandle | uint32(port.class)<<classShift
		p.nextHandle++
		fresh[e] = h
		return h
	}
	port.cluster = place(was.cluster, want.Cluster, handle)
	port.local = place(was.local, want.Local, handle)
	p.noteUDP(before, port, p.addresses(d, port))
	return port
}

// place keeps every slot whose endpoint stays, gives the holes to new endpoints, and fills what holes are left with the last
// slots: the fewest elements change.
func place(was []slot, want []endpoint, handle func(endpoint) uint32) []slot {
	wanted := make(map[endpoint]struct{}, len(want))
	for _, e := range want {
		wanted[e] = struct{}{}
	}
	held := make(map[endpoint]struct{}, len(was))
	for _, s := range was {
		if _, ok := wanted[s.endpoint]; ok {
			held[s.endpoint] = struct{}{}
		}
	}
	var fresh []slot
	for _, e := range want {
		if _, ok := held[e]; !ok {
			held[e] = struct{}{}
			fresh = append(fresh, slot{e, handle(e)})
		}
	}
	out := slices.Clone(was)
	for i := 0; i < len(out); {
		if _, ok := wanted[out[i].endpoint]; ok {
			i++
			continue
		}
		if len(fresh) > 0 {
			out[i], fresh = fresh[0], fresh[1:]
			i++
			continue
		}
		out[i] = out[len(out)-1]
		out = out[:len(out)-1]
	}
	return append(out, fresh...)
}

// class returns the class of handles for an affinity timeout: the one that has it, else a free one. With all fifteen in use by
// other timeouts it is the class with the nearest one.
func (p *planner) class(seconds uint32) int {
	if seconds == 0 {
		return 0
	}
	free, nearest := 0, 1
	for c := 1; c < classCount; c++ {
		t := p.shapes.Timeouts[c]
		switch {
		case t == seconds:
			return c
		case p.classUsers[c] == 0 && (free == 0 || t == 0 && p.shapes.Timeouts[free] != 0):
			free = c
		case distance(t, seconds) < distance(p.shapes.Timeouts[nearest], seconds):
			nearest = c
		}
	}
	if free == 0 {
		return nearest
	}
	p.put(timeoutKey(free), timeoutValue(p.shapes.Timeouts[free]), timeoutValue(seconds))
	p.shapes.Timeouts[free] = seconds
	return free
}

func distance(a, b uint32) uint32 { return max(a, b) - min(a, b) }

func (p *planner) count(s *plannedService, n int) {
	if s == nil {
		return
	}
	for _, port := range s.ports {
		p.classUsers[port.class] += n
	}
}

// setPolicies plans what the NetworkPolicies ask for: changed elements of what they asked before.
func (p *planner) setPolicies(now elements, changed []elemKey) {
	for _, k := range changed {
		v, is := now[k]
		old, was := p.policies[k]
		switch {
		case is && was:
			p.put(k, &old, &v)
		case is:
			p.put(k, nil, &v)
		case was:
			p.put(k, &old, nil)
		}
		if is {
			p.policies[k] = v
		} else {
			delete(p.policies, k)
		}
	}
}

// takePolicies takes over all that the NetworkPolicies ask for, at a start.
func (p *planner) takePolicies(t *policyTable) {
	t.drain()
	p.policies = maps.Clone(t.held)
	for k := range p.policies {
		p.useLength(k)
	}
}

// useLength notes a prefix length in use, which the chains have to try.
func (p *planner) useLength(k elemKey) {
	var used *lengths
	at := len(k.Key) - 4
	switch k.Map {
	case mapRanges:
		used = &p.shapes.Ranges
	case mapBlocks:
		used = &p.shapes.Blocks
	case mapPermitPort:
		used, at = &p.shapes.Ports, 4
	default:
		return
	}
	if n := unpackMark(k.Key[at:], 0); !used[n] {
		used[n], p.rewrite = true, true
	}
}

// growTo makes draw chains for n endpoints, doubling, so that a growing Service seldom needs new ones.
func (p *planner) growTo(n int) {
	for p.shapes.Indexes < n {
		for i := p.shapes.Indexes + 1; i <= 2*p.shapes.Indexes; i++ {
			p.put(elemKey{mapDraws, packMark(uint32(i))}, nil, &elemValue{Value: indexChain(i)})
		}
		p.shapes.Indexes *= 2
	}
}

// change notes the difference between two states of what one Service holds.
func (p *planner) change(owner types.NamespacedName, old, new []element) {
	was := make(elements, len(old))
	for _, e := range old {
		was[e.elemKey] = e.elemValue
	}
	for _, e := range new {
		v, held := was[e.elemKey]
		delete(was, e.elemKey)
		switch {
		case held && v == e.elemValue:
		case shared(e.Map):
			p.claim(owner, e.elemKey, &e.elemValue)
		case held:
			p.put(e.elemKey, &v, &e.elemValue)
		default:
			p.put(e.elemKey, nil, &e.elemValue)
		}
	}
	for k, v := range was {
		if shared(k.Map) {
			p.claim(owner, k, nil)
			continue
		}
		p.put(k, &v, nil)
	}
}

// claim enters (v nil: withdraws) a Service's claim to an element that several may claim.
func (p *planner) claim(owner types.NamespacedName, k elemKey, v *elemValue) {
	old := p.claims.holder(k)
	p.claims.set(owner, k, v)
	p.put(k, old, p.claims.holder(k))
}

// put notes that an element went from one value to another; nil: it is not there.
func (p *planner) put(k elemKey, old, new *elemValue) {
	if new != nil {
		p.useLength(k)
	}
	if p.found != nil {
		return // full compares tables
	}
	c, noted := p.changes[k]
	if !noted {
		c.before = old
	}
	c.after = new
	p.changes[k] = c
}

// finish returns what has to be done about everything set since the last finish.
func (p *planner) finish() plan {
	out := plan{Prefixes: p.rewrite, Left: p.left, Joined: p.joined, Verbs: make([]verb, 0, len(p.changes))}
	p.rewrite = false
	for k, c := range p.changes {
		switch {
		case c.before == nil && c.after == nil || c.before != nil && c.after != nil && *c.before == *c.after:
		case c.before == nil:
			out.Verbs = append(out.Verbs, verb{opAdd, element{k, *c.after}})
		case c.after == nil:
			out.Verbs = append(out.Verbs, verb{opDelete, element{k, *c.before}})
		default:
			out.Verbs = append(out.Verbs, verb{opUpdate, element{k, *c.after}})
		}
	}
	out.Verbs = ordered(out.Verbs)
	clear(p.changes)
	p.left, p.joined = nil, nil
	return out
}

// all yields the whole content that the kernel should hold, each element once.
func (p *planner) all() iter.Seq[element] {
	return func(yield func(element) bool) {
		for _, list := range [][]element{p.constant, p.shapes.jumps()} {
			for _, e := range list {
				if !yield(e) {
					return
				}
			}
		}
		for k, v := range p.policies {
			if !yield(element{k, v}) {
				return
			}
		}
		for _, s := range p.services {
			for _, e := range p.elementsOf(s) {
				if !shared(e.Map) && !yield(e) {
					return
				}
			}
		}
		for k := range p.claims {
			if !yield(element{k, *p.claims.holder(k)}) {
				return
			}
		}
	}
}

// jumps are the elements that lead to the chains of the shapes.
func (s shapes) jumps() []element {
	var out []element
	for i := 1; i <= s.Indexes; i++ {
		out = append(out, element{elemKey{mapDraws, packMark(uint32(i))}, elemValue{Value: indexChain(i)}})
	}
	for c, seconds := range s.Timeouts {
		if v := timeoutValue(seconds); v != nil {
			out = append(out, element{timeoutKey(c), *v})
		}
	}
	return out
}

// table is all as a map.
func (p *planner) table() elements {
	out := elements{}
	for e := range p.all() {
		out[e.elemKey] = e.elemValue
	}
	return out
}

// full plans everything at once: the numbers that the kernel's table holds are taken over, and the verbs lead from that table
// to what is desired. The flows that were left come from the same comparison.
func (p *planner) full(was held, all []*desired) plan {
	p.found = adopt(was, p)
	for _, d := range all {
		p.set(d.Name, d)
	}
	p.left = append(p.left, p.found.rest()...)
	p.found = nil
	out := p.finish()
	out.Verbs = diff(was.Elements, p.all())
	return out
}
