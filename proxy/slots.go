package proxy

import "slices"

// slot is one place in the draw.
type slot struct {
	endpoint
	handle uint32
	here   bool // the endpoint is this node's
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
	fresh := make([]slot, 0, len(want)-min(len(held), len(want)))
	for _, e := range want {
		if _, ok := held[e]; !ok {
			held[e] = struct{}{}
			fresh = append(fresh, slot{endpoint: e, handle: handle(e)})
		}
	}
	if len(was) == 0 {
		return fresh
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

// markHere marks the slots whose endpoints are this node's. Here keeps those without a slot.
func (p *plannedPort) markHere(here []endpoint) {
	placed := make(map[endpoint]bool, len(here))
	for _, e := range here {
		placed[e] = false
	}
	for _, slots := range [][]slot{p.cluster, p.local} {
		for i := range slots {
			if _, slots[i].here = placed[slots[i].endpoint]; slots[i].here {
				placed[slots[i].endpoint] = true
			}
		}
	}
	p.Here = nil
	for _, e := range here {
		if !placed[e] {
			p.Here = append(p.Here, e)
		}
	}
}
