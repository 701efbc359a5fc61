package dns

import (
	"hash/maphash"
	"sync/atomic"
)

// table finds names: a hash table for one writer and any number of readers, who take no lock and see each name either before
// or after a change. It never shrinks: a new list of the store makes a new table.
type table struct {
	seed    maphash.Seed
	buckets atomic.Pointer[[]bucket]
	held    int // names held; the writer's
}

type bucket = atomic.Pointer[link]

// link is one step of a bucket's chain. name never changes; growing the table makes new links to the same names.
type link struct {
	name *name
	next atomic.Pointer[link]
}

// name is one owner name, in lower case and fully qualified, and what is known under it.
type name struct {
	key  string
	node atomic.Pointer[node] // what readers answer from; never nil

	// The writer's own: who says what about the name, and how many names lie directly below it. A name without parts and
	// children is dropped.
	parts    []part
	children int
}

// firstBuckets suits a fresh cluster: a few dozen names. The table doubles as names come.
const firstBuckets = 256

func newTable() *table {
	t := &table{seed: maphash.MakeSeed()}
	b := make([]bucket, firstBuckets)
	t.buckets.Store(&b)
	return t
}

func (t *table) bucket(b []bucket, key string) *bucket {
	return &b[maphash.String(t.seed, key)&uint64(len(b)-1)]
}

// get returns the name, or nil.
func (t *table) get(key string) *name {
	for l := t.bucket(*t.buckets.Load(), key).Load(); l != nil; l = l.next.Load() {
		if l.name.key == key {
			return l.name
		}
	}
	return nil
}

// add puts a name in that is not there yet.
func (t *table) add(n *name) {
	b := *t.buckets.Load()
	if t.held >= len(b) {
		b = t.grow(b)
	}
	insert(t.bucket(b, n.key), n)
	t.held++
}

func insert(b *bucket, n *name) {
	l := &link{name: n}
	l.next.Store(b.Load())
	b.Store(l)
}

func (t *table) grow(old []bucket) []bucket {
	b := make([]bucket, 2*len(old))
	for i := range old {
		for l := old[i].Load(); l != nil; l = l.next.Load() {
			insert(t.bucket(b, l.name.key), l.name)
		}
	}
	t.buckets.Store(&b)
	return b
}

// remove takes a name out. A reader that stands on its link still finds the rest of the chain.
func (t *table) remove(key string) {
	at := t.bucket(*t.buckets.Load(), key)
	for l := at.Load(); l != nil; l = at.Load() {
		if l.name.key == key {
			at.Store(l.next.Load())
			t.held--
			return
		}
		at = &l.next
	}
}
