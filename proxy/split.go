package proxy

import (
	"cmp"
	"slices"
)

// batchVerbs is how many verbs one netlink batch carries. A batch is one datagram, and without privilege over the host it must
// fit the socket buffer that any process may have (net.core.wmem_max, by default 208 KiB, which the kernel doubles): 1,500
// elements with the longest comments do.
const batchVerbs = 1500

// enoughVerbs fill a batch when a start programs Service by Service: the last one, if it is of the usual size, still fits.
const enoughVerbs = batchVerbs * 3 / 4

// The phases of a large change, in order. At the end of each every address leads to complete Services.
const (
	phaseSupport = iota // what is looked up only through something else: endpoints, jumps, sets of addresses
	phaseSlots          // sizes and slots; those of one id stay in one batch
	phaseReach          // what leads to ids
	phaseRemains        // what nothing leads to any more
)

func phase(v verb) int {
	switch v.Map {
	case mapSizes, mapSlots:
		return phaseSlots
	case mapServices, mapExternal, mapNodePorts:
		return phaseReach
	}
	if v.Op == opDelete {
		return phaseRemains
	}
	return phaseSupport
}

// group is what must not be torn apart within a phase; 0 for what may.
func group(v verb) uint32 {
	if phase(v) != phaseSlots {
		return 0
	}
	return unpackMark(v.Key, 0) &^ localBit
}

// split makes batches of at most limit verbs of one; a single Service's slots may be more. A small batch stays whole, and
// takes effect at once.
func split(b batch, limit int) []batch {
	if len(b.Verbs) <= limit {
		return []batch{b}
	}
	verbs := slices.Clone(b.Verbs)
	slices.SortStableFunc(verbs, func(x, y verb) int {
		return cmp.Or(cmp.Compare(phase(x), phase(y)), cmp.Compare(group(x), group(y)))
	})
	var out []batch
	for len(verbs) > 0 {
		n := min(limit, len(verbs))
		for n < len(verbs) && group(verbs[n]) != 0 && group(verbs[n]) == group(verbs[n-1]) {
			n++
		}
		out = append(out, batch{Verbs: ordered(slices.Clone(verbs[:n]))})
		verbs = verbs[n:]
	}
	out[0].Reset, out[0].Declare, out[0].Chains = b.Reset, b.Declare, b.Chains
	last := &out[len(out)-1]
	last.DropChains, last.DropSets = b.DropChains, b.DropSets
	return out
}
