package proxy

import (
	"cmp"
	"iter"
	"maps"
	"slices"
)

// diff lists the verbs that lead from one content to another. It empties from.
func diff(from elements, to iter.Seq[element]) []verb {
	var out []verb
	for e := range to {
		old, held := from[e.elemKey]
		switch {
		case !held:
			out = append(out, verb{opAdd, e})
			continue
		case old != e.elemValue:
			out = append(out, verb{opUpdate, e})
		}
		delete(from, e.elemKey)
	}
	for k, v := range from {
		out = append(out, verb{opDelete, element{k, v}})
	}
	clear(from)
	return ordered(out)
}

// readable is how many verbs are put in order of key too. More are only grouped by map, for the kernel's sake: nobody reads them,
// and sorting half a million takes a second.
const readable = 4096

// ordered sorts verbs by map and key, so that plans print the same each time.
func ordered(verbs []verb) []verb {
	if len(verbs) <= readable {
		slices.SortFunc(verbs, func(a, b verb) int { return cmp.Or(cmp.Compare(a.Map, b.Map), cmp.Compare(a.Key, b.Key)) })
		return verbs
	}
	byMap := map[string][]verb{}
	for _, v := range verbs {
		byMap[v.Map] = append(byMap[v.Map], v)
	}
	out := verbs[:0]
	for _, name := range slices.Sorted(maps.Keys(byMap)) {
		out = append(out, byMap[name]...)
	}
	return out
}
