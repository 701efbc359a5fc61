package controller

import (
	"maps"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// maxEndpoints is how many endpoints one slice holds at most, Kubernetes' default (E-10).
const maxEndpoints = 100

// planSlices is the slices that hold groups: those that exist keep their names and, as far as it goes, their endpoints; new ones have
// no name. There is always one, if only an empty one (E-5). existing is not changed.
func planSlices(family discoveryv1.AddressType, existing []*discoveryv1.EndpointSlice, groups []group) []*discoveryv1.EndpointSlice {
	spare := map[string][]*discoveryv1.EndpointSlice{} // by ports
	for _, s := range existing {
		changed, key := *s, portsKey(s.Ports) // whatever changes of it is replaced, not written into
		spare[key] = append(spare[key], &changed)
	}
	var plan []*discoveryv1.EndpointSlice
	rest := make([][]discoveryv1.Endpoint, len(groups)) // what did not go into slices of the same ports
	for i, g := range groups {
		key := portsKey(g.ports)
		var used []*discoveryv1.EndpointSlice
		used, rest[i] = refill(spare[key], g.endpoints)
		for _, s := range used {
			if len(s.Endpoints) > 0 {
				plan = append(plan, s)
				spare[key] = slices.DeleteFunc(spare[key], func(o *discoveryv1.EndpointSlice) bool { return o == s })
			}
		}
	}
	var free []*discoveryv1.EndpointSlice
	for _, key := range slices.Sorted(maps.Keys(spare)) {
		free = append(free, spare[key]...)
	}
	take := func() *discoveryv1.EndpointSlice {
		if len(free) == 0 {
			return &discoveryv1.EndpointSlice{AddressType: family}
		}
		s := free[0]
		free = free[1:]
		return s
	}
	for i, g := range groups {
		for chunk := range slices.Chunk(rest[i], maxEndpoints) {
			s := take()
			s.Ports, s.Endpoints = g.ports, slices.Clone(chunk)
			plan = append(plan, s)
		}
	}
	if len(plan) == 0 {
		s := take()
		s.Ports, s.Endpoints = nil, nil
		plan = append(plan, s)
	}
	return plan
}

// refill puts endpoints into slices of their ports, so that few slices change, as Kubernetes does: each stays where it is; new ones
// go where something changes anyway, the fullest slice first; and the rest, if one more slice can take it all, into that which it
// fills best. It returns the slices, some perhaps empty now, and the endpoints that need a slice of their own.
func refill(into []*discoveryv1.EndpointSlice, want []discoveryv1.Endpoint) (filled []*discoveryv1.EndpointSlice, rest []discoveryv1.Endpoint) {
	missing := make(map[string]discoveryv1.Endpoint, len(want))
	for _, e := range want {
		missing[endpointKey(e)] = e
	}
	var changed, same []*discoveryv1.EndpointSlice
	for _, s := range into {
		if keep(s, missing) {
			same = append(same, s)
		} else {
			changed = append(changed, s)
		}
	}
	for _, e := range want {
		if _, ok := missing[endpointKey(e)]; ok {
			delete(missing, endpointKey(e))
			rest = append(rest, e)
		}
	}
	slices.SortStableFunc(changed, func(a, b *discoveryv1.EndpointSlice) int { return len(b.Endpoints) - len(a.Endpoints) })
	for _, s := range changed {
		n := min(maxEndpoints-len(s.Endpoints), len(rest))
		if len(s.Endpoints) > 0 {
			s.Endpoints, rest = append(s.Endpoints, rest[:n]...), rest[n:]
		}
	}
	whole := len(rest) / maxEndpoints * maxEndpoints
	if tail := rest[whole:]; len(tail) > 0 {
		if s := fullest(same, len(tail)); s != nil {
			s.Endpoints, rest = append(s.Endpoints, tail...), rest[:whole]
		}
	}
	return slices.Clone(into), rest
}

// keep takes what is not wanted any more out of a slice, and what it holds off what is missing; it tells whether nothing changed.
func keep(s *discoveryv1.EndpointSlice, missing map[string]discoveryv1.Endpoint) (same bool) {
	kept := make([]discoveryv1.Endpoint, 0, len(s.Endpoints)+1)
	same = true
	for _, e := range s.Endpoints {
		now, ok := missing[endpointKey(e)]
		same = same && ok && sameEntry(&e, &now)
		if ok {
			kept = append(kept, now)
			delete(missing, endpointKey(e))
		}
	}
	s.Endpoints = kept
	return same
}

// fullest is the slice that n more endpoints fill best; nil when there is none that can take them.
func fullest(among []*discoveryv1.EndpointSlice, n int) (best *discoveryv1.EndpointSlice) {
	for _, s := range among {
		if len(s.Endpoints)+n <= maxEndpoints && (best == nil || len(s.Endpoints) > len(best.Endpoints)) {
			best = s
		}
	}
	return best
}

// endpointKey tells which endpoint is the same one as before: the same pod at the same address.
func endpointKey(e discoveryv1.Endpoint) string {
	uid := ""
	if e.TargetRef != nil {
		uid = string(e.TargetRef.UID)
	}
	return uid + "/" + strings.Join(e.Addresses, ",")
}
