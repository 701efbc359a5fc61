package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/store"
)

func sampleEndpoints(service, n int) []endpoint {
	var out []endpoint
	for i := range n {
		out = append(out, endpoint{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(service), byte(i + 1)}), 8080),
			Pod:     fmt.Sprintf("default/web-%d-%d", service, i),
		})
	}
	return out
}

// sampleServices are Services of all shapes.
func sampleServices() []*desired {
	one := &desired{
		Name: types.NamespacedName{Namespace: "default", Name: "web"}, ClusterIP: netip.MustParseAddr("10.96.0.20"),
		Ports: []desiredPort{
			{Name: "http", Protocol: protoTCP, Port: 80, NodePort: 30080, Cluster: sampleEndpoints(1, 3), Here: sampleEndpoints(1, 1)},
			{Name: "dns", Protocol: protoUDP, Port: 53, Cluster: sampleEndpoints(2, 1)},
		},
	}
	two := &desired{
		Name: types.NamespacedName{Namespace: "default", Name: "sticky"}, ClusterIP: netip.MustParseAddr("10.96.0.21"),
		External: []netip.Addr{netip.MustParseAddr("172.31.0.1")},
		Ports: []desiredPort{{
			Protocol: protoTCP, Port: 443, NodePort: 30443, Affinity: 10800, ExternalLocal: true,
			Cluster: sampleEndpoints(3, 6), Local: sampleEndpoints(3, 2), Here: sampleEndpoints(3, 2),
		}},
	}
	three := &desired{
		Name: types.NamespacedName{Namespace: "default", Name: "empty"}, ClusterIP: netip.MustParseAddr("10.96.0.22"),
		Ports: []desiredPort{{Protocol: protoSCTP, Port: 99, InternalLocal: true}},
	}
	return []*desired{one, two, three}
}

// random is a random state of a random one of a few Services, which share NodePorts and external addresses; nil: gone.
func random(r *rand.Rand) (types.NamespacedName, *desired) {
	i := r.IntN(5)
	name := types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("svc-%d", i)}
	if r.IntN(6) == 0 {
		return name, nil
	}
	d := &desired{Name: name, ClusterIP: netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(4)*5 + i)})}
	for a := range r.IntN(3) {
		d.External = append(d.External, netip.AddrFrom4([4]byte{172, 31, 0, byte(a)}))
	}
	for n := range r.IntN(3) {
		p := desiredPort{
			Name: fmt.Sprint(n), Protocol: []uint8{protoTCP, protoUDP}[n%2], Port: uint16(80 + r.IntN(2)),
			Affinity: []uint32{0, 0, 10800, uint32(1 + r.IntN(30))}[r.IntN(4)], InternalLocal: r.IntN(3) == 0, ExternalLocal: r.IntN(3) == 0,
		}
		if r.IntN(2) == 0 {
			p.NodePort = uint16(30000 + r.IntN(3))
		}
		for _, e := range slices.Concat(sampleEndpoints(i, 24), sampleEndpoints(5, 3)) { // the last ones are every Service's
			if r.IntN(3) > 0 {
				continue
			}
			if r.IntN(8) == 0 { // not chosen, and maybe of the same address as another that is
				p.Here = append(p.Here, endpoint{e.Address, e.Pod + "-old"})
			}
			p.Cluster = append(p.Cluster, e)
			if r.IntN(2) == 0 {
				p.Here = append(p.Here, e)
				if p.InternalLocal || p.ExternalLocal {
					p.Local = append(p.Local, e)
				}
			}
		}
		d.Ports = append(d.Ports, p)
	}
	return name, d
}

// consistent fails unless the table gives each service-port exactly its endpoints, and nothing hangs loose.
func consistent(t *testing.T, table elements, planned map[types.NamespacedName]*plannedService, asked map[types.NamespacedName]*desired) {
	t.Helper()
	handles, slots := map[uint32]bool{}, 0
	for name, d := range asked {
		for i, want := range d.Ports {
			p := planned[name].ports[i]
			for id, want := range map[uint32][]endpoint{p.id: want.Cluster, p.id | localBit: want.Local} {
				got := map[netip.AddrPort]bool{}
				for i := range want {
					h, ok := table[elemKey{mapSlots, packMark(id, uint32(i))}]
					e, there := table[elemKey{mapEndpoints, h.Value}]
					if !ok || !there {
						t.Fatalf("%s: slot %d of %#x is %v, its endpoint %v", name, i, id, ok, there)
					}
					slots++
					handles[unpackMark(h.Value, 0)] = true
					got[unpackEndpoint(e.Value)] = true
				}
				for _, e := range want {
					if !got[e.Address] {
						t.Fatalf("%s: %s has no slot under %#x", name, e.Address, id)
					}
				}
				size, ok := table[elemKey{mapSizes, packMark(id)}]
				if ok != (len(want) > 0) || ok && unpackMark(size.Value, 0) != uint32(len(want)) {
					t.Fatalf("%s: the size of %#x is %v, want %d", name, id, size, len(want))
				}
			}
		}
	}
	for k, v := range table {
		switch k.Map {
		case mapEndpoints:
			if !handles[unpackMark(k.Key, 0)] {
				t.Fatalf("handle %#x has no slot", unpackMark(k.Key, 0))
			}
			if class := unpackMark(k.Key, 0) >> classShift; class > 0 {
				if _, ok := table[timeoutKey(int(class))]; !ok {
					t.Fatalf("class %d has no timeout", class)
				}
			}
		case mapSlots:
			slots--
		case mapSizes:
			if _, ok := table[elemKey{mapDraws, v.Value}]; !ok {
				t.Fatalf("nothing draws of %d", unpackMark(v.Value, 0))
			}
		}
	}
	if slots != 0 {
		t.Fatalf("%d slots are too many", -slots)
	}
}

// unbroken fails if an id that has a size lacks a slot, or a slot its endpoint, as it must not between the parts of a change.
func unbroken(t *testing.T, table elements) {
	t.Helper()
	for k, v := range table {
		if k.Map != mapSizes {
			continue
		}
		for i := range unpackMark(v.Value, 0) {
			h, ok := table[elemKey{mapSlots, k.Key + packMark(i)}]
			if _, there := table[elemKey{mapEndpoints, h.Value}]; !ok || !there {
				t.Fatalf("slot %d of %#x: %v, its endpoint: %v", i, unpackMark(k.Key, 0), ok, there)
			}
		}
	}
}

// Any sequence of changes, in batches of any size, with restarts in between, keeps the table what a plan from nothing would
// make it, never asks the kernel for what it would refuse, and never gives a number to another endpoint.
func TestAnySequenceOfChangesEndsAtThePlan(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, table, given := newPlanner(4, nil), elements{}, map[uint32]elemValue{}
		asked := map[types.NamespacedName]*desired{}
		verbs := p.full(held{}, nil).Verbs
		for step := 0; step < 40; step++ {
			if r.IntN(10) == 0 { // a restart
				next := newPlanner(4, nil)
				var all []*desired
				for _, d := range asked {
					all = append(all, d)
				}
				verbs = next.full(held{Elements: maps.Clone(table)}, all).Verbs
				p = next
				clear(given) // nobody remembers what is not in the table
			}
			for _, part := range split(batch{Verbs: verbs}, 10+r.IntN(100)) {
				if err := check(table, part.Verbs); err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, step, err)
				}
				for _, v := range part.Verbs {
					if v.Op == opDelete {
						delete(table, v.elemKey)
					} else {
						table[v.elemKey] = v.elemValue
					}
				}
				unbroken(t, table)
			}
			if want := p.table(); !maps.Equal(want, table) {
				t.Fatalf("seed %d, step %d: plan (-) and table (+) differ:\n%s", seed, step, cmp.Diff(want, table))
			}
			consistent(t, table, p.services, asked)
			for k, v := range table {
				if k.Map != mapEndpoints {
					continue
				}
				h := unpackMark(k.Key, 0)
				if old, ok := given[h]; ok && old != v {
					t.Fatalf("seed %d, step %d: handle %#x was %v and is %v", seed, step, h, old, v)
				}
				given[h] = v
			}
			for range 1 + r.IntN(4) {
				name, d := random(r)
				if p.set(name, d); d != nil {
					asked[name] = d
				} else {
					delete(asked, name)
				}
			}
			verbs = p.finish().Verbs
		}
	}
}

// Removing endpoint k of n moves the last slot into k: the verbs, as nft would be told.
func TestRemovingAnEndpointMovesTheLastSlot(t *testing.T) {
	t.Parallel()
	p := newPlanner(4, nil)
	web := sampleServices()[0]
	web.Ports = web.Ports[:1]
	web.Ports[0].Here, web.Ports[0].NodePort = nil, 0
	p.set(web.Name, web)
	p.finish()
	two := *web
	two.Ports = []desiredPort{web.Ports[0]}
	two.Ports[0].Cluster = web.Ports[0].Cluster[1:]
	p.set(two.Name, &two)
	want := `delete element ip kubarium endpoints { 0x00100000 comment "default/web-1-0 pod" : 10.244.1.1 . 8080 }
delete element ip kubarium sizes { 0x00000001 }; add element ip kubarium sizes { 0x00000001 comment "default/web:http" : 0x00000002 }
delete element ip kubarium slots { 0x00000001 . 0x00000000 }; add element ip kubarium slots { 0x00000001 . 0x00000000 comment "default/web:http" : 0x00100002 }
delete element ip kubarium slots { 0x00000001 . 0x00000002 comment "default/web:http" : 0x00100002 }
`
	if d := cmp.Diff(want, p.finish().text(ipv4)); d != "" {
		t.Errorf("want (-) got (+):\n%s", d)
	}
}

// Services that share a pod share its hairpin element: the first to come holds it, whoever leaves, until the last has left.
func TestASharedElementIsHeldInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	c, k := newClaims(), elemKey{mapHairpin, "pod"}
	names, wishes := map[int]*types.NamespacedName{}, map[*types.NamespacedName]elemValue{}
	valueOf := func(owner *types.NamespacedName, _ elemKey) elemValue { return wishes[owner] }
	set := func(i int, comment string) (was, is string, changed bool) {
		if names[i] == nil {
			names[i] = &types.NamespacedName{Name: fmt.Sprint(i)}
		}
		w := claim{owner: names[i], key: k}
		if before, held := wishes[names[i]]; held {
			w.before = &before
		}
		if delete(wishes, names[i]); comment != "" {
			w.now = &elemValue{Comment: comment}
			wishes[names[i]] = *w.now
		}
		text := func(v *elemValue) string {
			if v == nil {
				return ""
			}
			return v.Comment
		}
		before, after, changed := c.set(w, valueOf)
		return text(before), text(after), changed
	}
	for n, step := range []struct {
		owner            int
		comment, was, is string
	}{
		{0, "0", "", "0"}, {0, "0 again", "0", "0 again"}, {0, "0", "0 again", "0"},
		{1, "1", "0", "0"}, {2, "2", "0", "0"}, {3, "3", "0", "0"}, {4, "4", "0", "0"}, {3, "3 again", "0", "0"},
		{2, "", "0", "0"}, {0, "", "0", "1"}, {1, "", "1", "3 again"}, {4, "", "3 again", "3 again"},
		{5, "5", "3 again", "3 again"}, {3, "", "3 again", "5"}, {5, "5 again", "5", "5 again"}, {5, "", "5 again", ""},
	} {
		if was, is, changed := set(step.owner, step.comment); !changed || was != step.was || is != step.is {
			t.Errorf("step %d: %q becomes %q (%v), want %q and %q", n, was, is, changed, step.was, step.is)
		}
	}
	if _, _, changed := set(9, ""); changed { // never came
		t.Error("a wish that never was is withdrawn")
	}
	if len(c.holders)+len(c.contested) != 0 {
		t.Errorf("left behind: %v", c)
	}
}

// P-43: a list made anew, because events were lost, is compared with the plan: what changed in between is programmed, what is gone is
// taken away, and the kernel is not asked for what it holds.
func TestAListMadeAnewProgramsTheDifference(t *testing.T) {
	t.Parallel()
	p, f := load(t, 200)
	dirty := map[types.NamespacedName]struct{}{}
	m := newModel(p.cfg.Node)
	for i := 50; i < 250; i++ { // 50 are gone, 50 are new, one has two endpoints more
		m.take(event(store.Added, numbered(i), nil), dirty)
		n := 1
		if i == 60 {
			n = 3
		}
		m.take(event(store.Added, numberedSlice(i, n), nil), dirty)
	}
	p.model = m
	if err := p.refresh(); err != nil {
		t.Fatal(err)
	}
	if got := p.Stats().Reconciles; got != 1 {
		t.Errorf("got %d reconciles, want the one of the start", got)
	}
	if d := cmp.Diff(p.sides[0].planner.table(), f.table.Elements); d != "" {
		t.Errorf("plan (-) and table (+) differ:\n%s", d)
	}
	fresh := newPlanner(indexesAhead, p.constant(ipv4))
	for _, d := range m.all(ipv4) {
		fresh.set(d.Name, d)
	}
	if got, want := len(f.table.Elements), len(fresh.table()); got != want {
		t.Errorf("the table has %d elements, want %d", got, want)
	}
	p.stats.Behind = true
	if p.refresh() == nil {
		t.Error("a table that may not be as planned was not compared")
	}
}
