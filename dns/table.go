package dns

import (
	"hash/maphash"
	"sync/atomic"
)

// table finds names: a hash table for one writer and any number of readers, who take no lock and see each name either before
// or after a change. It never shrinks: a new list of the store makes a new table.
//
// With 20,000 Services the names are far more than a processor's caches hold, and what an answer costs is the number of places
// in memory that it leads to, one after the other. These are three: the slot, the node, and its records beside its name.
type table struct {
	seed  maphash.Seed
	slots atomic.Pointer[[]slot]
	held  int // names held; the writer's
	used  int // slots that hold a name or held one; the writer's
}

// slot is where a name is found; a name that finds its slot taken is in one of those behind. Growing the table makes new slots.
type slot struct {
	hash atomic.Uint64        // of the name; 0: there never was one, and the search ends
	node atomic.Pointer[node] // nil: the name is gone
}

// name is one owner name, in lower case and fully qualified, and what only the writer needs to know of it: who says what about
// it, and how many names lie directly below. A name without parts and children is dropped.
type name struct {
	key      string
	parts    []part
	children int
}

// firstSlots suits a fresh cluster: a few dozen names. The table doubles as names come.
const firstSlots = 256

func newTable() *table {
	t := &table{seed: maphash.MakeSeed()}
	s := make([]slot, firstSlots)
	t.slots.Store(&s)
	return t
}

func (t *table) hash(key string) uint64 { return max(maphash.String(t.seed, key), 1) }

// get returns what is known under a name, or nil.
func (t *table) get(key string) *node {
	return t.look(t.hash(key), key)
}

// look is get for a key whose hash is known.
func (t *table) look(hash uint64, key string) *node {
	n, _ := find(*t.slots.Load(), hash, key)
	return n
}

// warm makes the processor fetch what the names of these hashes lead to, for all of them at the same time instead of one place
// after the other. It returns nothing of meaning.
func (t *table) warm(hashes []uint64) (sum int) {
	slots := *t.slots.Load()
	var nodes [burstSize]*node
	for i, h := range hashes {
		nodes[i] = slots[h&uint64(len(slots)-1)].node.Load()
	}
	for _, n := range nodes[:len(hashes)] {
		if n != nil {
			sum += len(n.records)
		}
	}
	for _, n := range nodes[:len(hashes)] {
		if n == nil {
			continue
		}
		sum += int(n.key[0])
		if len(n.records) > 0 {
			sum += int(n.records[0].typ)
		}
	}
	return sum
}

func find(slots []slot, hash uint64, key string) (*node, *slot) {
	for i := hash; ; i++ {
		s := &slots[i&uint64(len(slots)-1)]
		switch s.hash.Load() {
		case 0:
			return nil, nil
		case hash:
			if n := s.node.Load(); n != nil && n.key == key {
				return n, s
			}
		}
	}
}

// put adds a name, or replaces what is known under it.
func (t *table) put(n *node) {
	slots, hash := *t.slots.Load(), t.hash(n.key)
	if _, s := find(slots, hash, n.key); s != nil {
		s.node.Store(n)
		return
	}
	// A quarter of the slots stays empty, so that searches end soon.
	if t.used >= len(slots)/4*3 {
		slots = t.renew(slots)
	}
	t.insert(slots, hash, n)
	t.held++
}

func (t *table) insert(slots []slot, hash uint64, n *node) {
	i := hash
	at := func() *slot { return &slots[i&uint64(len(slots)-1)] }
	for at().node.Load() != nil {
		i++
	}
	s := at()
	if s.hash.Load() == 0 {
		t.used++
	}
	s.hash.Store(hash) // before the node: who reads in between finds a name that is gone
	s.node.Store(n)
}

// renew makes new slots, without those of names that are gone, and twice as many when they would soon be used up.
func (t *table) renew(old []slot) []slot {
	size := len(old)
	if t.held >= size/2 {
		size *= 2
	}
	slots := make([]slot, size)
	t.used = 0
	for i := range old {
		if n := old[i].node.Load(); n != nil {
			t.insert(slots, old[i].hash.Load(), n)
		}
	}
	t.slots.Store(&slots)
	return slots
}

// remove takes a name out.
func (t *table) remove(key string) {
	if _, s := find(*t.slots.Load(), t.hash(key), key); s != nil {
		s.node.Store(nil)
		t.held--
	}
}

// all walks what is known under every name, in no order.
func (t *table) all(yield func(*node) bool) {
	slots := *t.slots.Load()
	for i := range slots {
		if n := slots[i].node.Load(); n != nil && !yield(n) {
			return
		}
	}
}
