package proxy

import (
	"container/list"

	"k8s.io/apimachinery/pkg/types"
)

// shared tells the maps in which several Services may claim one element: the first to claim holds it, and when it withdraws
// the next one does.
func shared(name string) bool {
	switch name {
	case mapServices, mapExternal, mapNodePorts, mapClusterIPs, mapExternalIPs, mapHairpin, mapGuarded, mapRanges:
		return true
	}
	return false
}

// claims holds who wishes for each shared element. Nearly every one has one wish: of that only whose it is is kept, and what it says
// follows from its Service's plan.
type claims struct {
	holders   map[elemKey]*types.NamespacedName // whose wish counts
	contested map[elemKey]*queue                // all wishes of the elements that have several
}

func newClaims() claims {
	return claims{map[elemKey]*types.NamespacedName{}, map[elemKey]*queue{}}
}

// claim is what a Service wishes of an element, before and now; nil: nothing.
type claim struct {
	owner       *types.NamespacedName
	key         elemKey
	before, now *elemValue
}

// alone tells whether a Service's wish is the only one.
func (c claims) alone(owner *types.NamespacedName, k elemKey) bool {
	return c.holders[k] == owner && c.contested[k] == nil
}

// set enters or withdraws a wish, and returns what the element was and is because of it. changed is false when it stays what it is.
// valueOf tells the wish of the one Service that had one so far.
func (c claims) set(w claim, valueOf func(*types.NamespacedName, elemKey) elemValue) (was, is *elemValue, changed bool) {
	holder, q := c.holders[w.key], c.contested[w.key]
	switch {
	case holder == nil && w.now == nil:
		return nil, nil, false
	case holder == nil:
		c.holders[w.key] = w.owner
		return nil, w.now, true
	case q == nil && holder == w.owner:
		if w.now == nil {
			delete(c.holders, w.key)
		}
		return w.before, w.now, true
	case q == nil && w.now == nil:
		return nil, nil, false
	case q == nil:
		q = newQueue()
		q.set(holder, new(valueOf(holder, w.key)))
		c.contested[w.key] = q
	}
	first := q.first()
	q.set(w.owner, w.now)
	next := q.first()
	c.holders[w.key] = next.owner
	if q.order.Len() == 1 {
		delete(c.contested, w.key)
	}
	return &first.value, &next.value, true
}

// wish is what one Service asks of a contested element.
type wish struct {
	owner *types.NamespacedName
	value elemValue
}

// queue is wishes in the order they came, found by owner: a pod of thousands of Services has one of each for its hairpin element,
// and none of them may cost the more for the others.
type queue struct {
	order list.List
	at    map[*types.NamespacedName]*list.Element
}

func newQueue() *queue { return &queue{at: map[*types.NamespacedName]*list.Element{}} }

func (q *queue) first() wish { return q.order.Front().Value.(wish) }

// set enters or withdraws a wish; v nil withdraws it.
func (q *queue) set(owner *types.NamespacedName, v *elemValue) {
	e := q.at[owner]
	switch {
	case v != nil && e != nil:
		e.Value = wish{owner, *v}
	case v != nil:
		q.at[owner] = q.order.PushBack(wish{owner, *v})
	case e != nil:
		q.order.Remove(e)
		delete(q.at, owner)
	}
}

// alter notes what a Service asks of one element, before and now; nil: nothing.
func (p *planner) alter(s *plannedService, k elemKey, before, now *elemValue) {
	if !shared(k.Map) {
		p.put(k, before, now)
		return
	}
	if was, is, changed := p.claims.set(claim{s.name, k, before, now}, p.valueOf); changed {
		p.put(k, was, is)
	}
}

// valueOf is what a Service asks of a shared element. It is asked for one element of a Service after the other, and remembers all of
// the last one.
func (p *planner) valueOf(owner *types.NamespacedName, k elemKey) elemValue {
	s := p.services[*owner]
	if p.asked.service != s {
		p.asked.service, p.asked.shared = s, p.sharedOf(s)
	}
	return p.asked.shared[k]
}

// sharedOf is what a Service asks of elements that others may ask for too.
func (p *planner) sharedOf(s *plannedService) elements {
	out := elements{}
	for _, e := range p.elementsOf(s) {
		if shared(e.Map) {
			out[e.elemKey] = e.elemValue
		}
	}
	return out
}
