package proxy

import (
	"iter"
	"maps"
	"net/netip"

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

// plannedPort is one service-port as planned: its id, the class of its handles, and the slots of both variants. The slots hold the
// endpoints: what was desired says nothing of them here.
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
	name    *types.NamespacedName // the same for as long as the Service is planned: claims name it
	desired desired               // without its Ports
	ports   []plannedPort
}

func (s *plannedService) port(k portKey) *plannedPort {
	if s == nil {
		return nil
	}
	for i := range s.ports {
		if p := &s.ports[i]; (portKey{p.Name, p.Protocol}) == k {
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
	asked              struct { // the last answer of valueOf
		service *plannedService
		shared  elements
	}
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
		services: map[types.NamespacedName]*plannedService{}, claims: newClaims(), nextID: firstID, nextHandle: firstHandle,
		shapes: shapes{Indexes: indexes}, changes: map[elemKey]change{}, constant: constant, policies: elements{},
	}
}

// set plans what one Service asks for now; d nil: it is gone.
func (p *planner) set(name types.NamespacedName, d *desired) {
	old := p.services[name]
	var planned *plannedService
	if d != nil {
		planned = p.planService(old, d)
		p.services[name] = planned
	} else {
		delete(p.services, name)
	}
	p.count(old, -1)
	p.count(planned, +1)
	p.noteGone(old, planned)
	p.change(old, planned)
}

func (p *planner) planService(old *plannedService, d *desired) *plannedService {
	planned := &plannedService{desired: *d, ports: make([]plannedPort, len(d.Ports))}
	planned.desired.Ports = nil
	if old != nil {
		planned.name = old.name
	} else {
		name := d.Name
		planned.name = &name
	}
	for i, port := range d.Ports {
		planned.ports[i] = p.planPort(old, d, port)
	}
	return planned
}

// planPort plans one service-port from what it was.
func (p *planner) planPort(old *plannedService, d *desired, want desiredPort) plannedPort {
	was := old.port(portKey{want.Name, want.Protocol})
	if was == nil && p.found != nil {
		was = p.found.port(d, want)
	}
	port := plannedPort{desiredPort: want, class: p.class(want.Affinity)}
	port.Cluster, port.Local = nil, nil
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
	shared := p.handles(was, port.class)
	forCluster, forLocal := shared, shared
	if port.class != 0 { // a choice is remembered by its handle, and each policy must forget its own, whatever the other still uses
		forCluster, forLocal = p.handles(&plannedPort{}, port.class), p.handles(&plannedPort{}, port.class)
	}
	port.cluster = place(was.cluster, want.Cluster, forCluster)
	port.local = place(was.local, want.Local, forLocal)
	port.markHere(want.Here)
	p.noteUDP(before, &port, p.addresses(d, &port))
	return port
}

// handles gives an endpoint the handle that it has, or a new one.
func (p *planner) handles(was *plannedPort, class int) func(endpoint) uint32 {
	fresh := map[endpoint]uint32{}
	return func(e endpoint) uint32 {
		if h, ok := was.handle(e); ok {
			return h
		}
		if h, ok := fresh[e]; ok {
			return h
		}
		h := p.nextHandle | uint32(class)<<classShift
		p.nextHandle++
		fresh[e] = h
		return h
	}
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
	for i := range s.ports {
		p.classUsers[s.ports[i].class] += n
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

// kept is an element as it was, and whether it still is.
type kept struct {
	elemValue
	stays bool
}

// change notes the difference between two states of one Service.
func (p *planner) change(old, new *plannedService) {
	had := p.elementsOf(old)
	was := make(map[elemKey]kept, len(had))
	for _, e := range had {
		was[e.elemKey] = kept{elemValue: e.elemValue}
	}
	for _, e := range p.elementsOf(new) {
		w, held := was[e.elemKey]
		if held {
			was[e.elemKey] = kept{e.elemValue, true}
		}
		switch {
		case !held:
			p.alter(new, e.elemKey, nil, &e.elemValue)
		case w.elemValue != e.elemValue:
			p.alter(new, e.elemKey, &w.elemValue, &e.elemValue)
		}
	}
	for k, w := range was {
		if !w.stays {
			p.alter(old, k, &w.elemValue, nil)
		}
	}
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
	p.changes = map[elemKey]change{} // a map that is cleared keeps the room of its largest day
	p.left, p.joined, p.asked.service, p.asked.shared = nil, nil, nil, nil
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
			for k, v := range p.sharedOf(s) {
				if p.claims.alone(s.name, k) && !yield(element{k, v}) {
					return
				}
			}
		}
		for k, q := range p.claims.contested {
			if !yield(element{k, q.first().value}) {
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
