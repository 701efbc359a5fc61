package store

import (
	"maps"
	"strings"

	"github.com/google/btree"

	"kubarium.dev/api"
)

// degree of the in-memory trees: wide nodes cost more to copy on a write, narrow ones more to walk; 16 keeps both small.
const degree = 16

// entry is one object under its key ("namespace/name"), or one line of an index ("value\x00namespace/name").
type entry struct {
	key string
	obj api.Object
}

func less(a, b entry) bool { return a.key < b.key }

// table holds the objects of one kind, and its indexes. A table that a snapshot shares is never written: it is cloned first.
type table struct {
	objects *btree.BTreeG[entry]
	indexes map[string]*btree.BTreeG[entry]
}

func newTable(k *api.Kind) *table {
	t := &table{objects: btree.NewG(degree, less), indexes: map[string]*btree.BTreeG[entry]{}}
	for name := range k.Indexes {
		t.indexes[name] = btree.NewG(degree, less)
	}
	return t
}

// clone is cheap: the trees are copied on write, node by node.
func (t *table) clone() *table {
	c := &table{objects: t.objects.Clone(), indexes: make(map[string]*btree.BTreeG[entry], len(t.indexes))}
	for name, tree := range t.indexes {
		c.indexes[name] = tree.Clone()
	}
	return c
}

func keyOf(namespace, name string) string { return namespace + "/" + name }

func objectKey(obj api.Object) string { return keyOf(obj.GetNamespace(), obj.GetName()) }

// put files an object, and takes out what was filed under its key; remove is put's other half.
func (t *table) put(k *api.Kind, obj api.Object) {
	key := objectKey(obj)
	old, had := t.objects.ReplaceOrInsert(entry{key, obj})
	for name, values := range k.Indexes {
		if had {
			for _, v := range values(old.obj) {
				t.indexes[name].Delete(entry{key: v + "\x00" + key})
			}
		}
		for _, v := range values(obj) {
			t.indexes[name].ReplaceOrInsert(entry{v + "\x00" + key, obj})
		}
	}
}

func (t *table) remove(k *api.Kind, key string) {
	old, had := t.objects.Delete(entry{key: key})
	if !had {
		return
	}
	for name, values := range k.Indexes {
		for _, v := range values(old.obj) {
			t.indexes[name].Delete(entry{key: v + "\x00" + key})
		}
	}
}

func (t *table) get(namespace, name string) (api.Object, bool) {
	e, ok := t.objects.Get(entry{key: keyOf(namespace, name)})
	return e.obj, ok
}

// list costs what it returns when the query names an index or a namespace.
func (t *table) list(q Query) []api.Object {
	tree, prefix := t.objects, ""
	switch {
	case q.Index != "":
		tree, prefix = t.indexes[q.Index], q.Value+"\x00"
		if q.Namespace != "" {
			prefix += q.Namespace + "/"
		}
	case q.Namespace != "":
		prefix = q.Namespace + "/"
	}
	if tree == nil {
		return nil
	}
	var items []api.Object
	tree.AscendGreaterOrEqual(entry{key: prefix}, func(e entry) bool {
		if !strings.HasPrefix(e.key, prefix) {
			return false
		}
		if q.Labels == nil || q.Labels.Matches(labelSet(e.obj.GetLabels())) {
			items = append(items, e.obj)
		}
		return true
	})
	return items
}

// labelSet lets a selector look at labels without a conversion.
type labelSet map[string]string

func (l labelSet) Has(k string) bool              { _, ok := l[k]; return ok }
func (l labelSet) Get(k string) string            { return l[k] }
func (l labelSet) Lookup(k string) (string, bool) { v, ok := l[k]; return v, ok }

// state is everything at one revision. It is immutable once another state was made from it.
type state struct {
	revision uint64
	tables   map[*api.Kind]*table
}

func newState() *state {
	s := &state{tables: make(map[*api.Kind]*table, len(api.Kinds))}
	for _, k := range api.Kinds {
		s.tables[k] = newTable(k)
	}
	return s
}

// next is a state that may be written without touching s; tables are cloned when they are first written.
func (s *state) next() *state {
	return &state{revision: s.revision, tables: maps.Clone(s.tables)}
}

// size is how many objects there are.
func (s *state) size() uint64 {
	n := 0
	for _, t := range s.tables {
		n += t.objects.Len()
	}
	return uint64(n)
}
