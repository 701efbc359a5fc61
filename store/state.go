package store

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/selection"

	"kubarium.dev/api"
)

// degree of the in-memory trees: wide nodes cost more to copy on a write, narrow ones more to walk; 16 keeps both small.
const degree = 16

// entry is one object under its key ("namespace/name").
type entry struct {
	key string
	obj api.Object
}

func less(a, b entry) bool { return a.key < b.key }

// index is a set of lines "value\x00namespace/name". It holds no objects, so that a change that leaves an object's values as they
// were does not touch it.
type index struct {
	values func(api.Object) []string
	lines  *btree.BTreeG[string]
}

// byLabel is the index of every kind that files objects under each label they carry, as "key=value".
const byLabel = "label"

func labelTerm(key, value string) string { return key + "=" + value }

func labelTerms(obj api.Object) []string {
	labels := obj.GetLabels()
	if len(labels) == 0 {
		return nil
	}
	terms := make([]string, 0, len(labels))
	for key, value := range labels {
		terms = append(terms, labelTerm(key, value))
	}
	slices.Sort(terms)
	return terms
}

// table holds the objects of one kind, and its indexes. A table that a snapshot shares is never written: it is cloned first.
type table struct {
	objects *btree.BTreeG[entry]
	indexes map[string]index
}

func newTable(k *api.Kind) *table {
	t := &table{objects: btree.NewG(degree, less), indexes: make(map[string]index, len(k.Indexes)+1)}
	add := func(name string, values func(api.Object) []string) {
		t.indexes[name] = index{values, btree.NewOrderedG[string](degree)}
	}
	add(byLabel, labelTerms)
	for name, values := range k.Indexes {
		add(name, values)
	}
	return t
}

// clone is cheap: the trees are copied on write, node by node.
func (t *table) clone() *table {
	c := &table{objects: t.objects.Clone(), indexes: make(map[string]index, len(t.indexes))}
	for name, x := range t.indexes {
		c.indexes[name] = index{x.values, x.lines.Clone()}
	}
	return c
}

func keyOf(namespace, name string) string { return namespace + "/" + name }

func objectKey(obj api.Object) string { return keyOf(obj.GetNamespace(), obj.GetName()) }

// put files an object, and takes out what was filed under its key; remove is put's other half.
func (t *table) put(obj api.Object) {
	key := objectKey(obj)
	old, _ := t.objects.ReplaceOrInsert(entry{key, obj})
	t.file(key, old.obj, obj)
}

func (t *table) remove(key string) {
	if old, had := t.objects.Delete(entry{key: key}); had {
		t.file(key, old.obj, nil)
	}
}

// file brings the indexes from what they say of old to what they should say of obj; either may be nil.
func (t *table) file(key string, old, obj api.Object) {
	for _, x := range t.indexes {
		var before, after []string
		if old != nil {
			before = x.values(old)
		}
		if obj != nil {
			after = x.values(obj)
		}
		if slices.Equal(before, after) {
			continue
		}
		for _, v := range before {
			x.lines.Delete(v + "\x00" + key)
		}
		for _, v := range after {
			x.lines.ReplaceOrInsert(v + "\x00" + key)
		}
	}
}

func (t *table) get(namespace, name string) (api.Object, bool) {
	e, ok := t.objects.Get(entry{key: keyOf(namespace, name)})
	return e.obj, ok
}

// list costs what it returns when the query names an index, a label's value or a namespace.
func (t *table) list(q Query) []api.Object {
	var items []api.Object
	add := func(e entry) {
		if q.Labels == nil || q.Labels.Matches(labelSet(e.obj.GetLabels())) {
			items = append(items, e.obj)
		}
	}
	if q.Index != "" && t.indexes[q.Index].lines == nil {
		return nil
	}
	if q.Name != "" {
		if e, ok := t.objects.Get(entry{key: keyOf(q.Namespace, q.Name)}); ok {
			add(e)
		}
		return items
	}
	prefix := ""
	if q.Namespace != "" {
		prefix = q.Namespace + "/"
	}
	if lines, value, ok := t.choose(q, prefix); ok {
		ascend(lines, value+prefix, func(line string) bool {
			e, _ := t.objects.Get(entry{key: line[len(value):]})
			add(e)
			return true
		})
		return items
	}
	t.objects.AscendGreaterOrEqual(entry{key: prefix}, func(e entry) bool {
		if !strings.HasPrefix(e.key, prefix) {
			return false
		}
		add(e)
		return true
	})
	return items
}

// choose finds the index that answers a query: the one it names, or else that of the labels, by whichever exact value fewest
// objects below prefix carry. Its lines begin with value.
func (t *table) choose(q Query, prefix string) (lines *btree.BTreeG[string], value string, ok bool) {
	if q.Index != "" {
		return t.indexes[q.Index].lines, q.Value + "\x00", true
	}
	if q.Labels == nil {
		return nil, "", false
	}
	var values []string
	requirements, _ := q.Labels.Requirements()
	for _, r := range requirements {
		if v := r.ValuesUnsorted(); exact(r.Operator()) && len(v) == 1 {
			values = append(values, labelTerm(r.Key(), v[0])+"\x00")
		}
	}
	lines = t.indexes[byLabel].lines
	for limit := 16; len(values) > 1; limit *= 2 { // so none is counted further than twice the shortest
		for _, v := range values {
			if count(lines, v+prefix, limit) < limit {
				return lines, v, true
			}
		}
	}
	if len(values) == 1 {
		value = values[0]
	}
	return lines, value, len(values) == 1
}

func exact(o selection.Operator) bool {
	return o == selection.Equals || o == selection.DoubleEquals || o == selection.In
}

// ascend calls fn for the lines with a prefix, in order, until it is false.
func ascend(lines *btree.BTreeG[string], prefix string, fn func(line string) bool) {
	lines.AscendGreaterOrEqual(prefix, func(line string) bool { return strings.HasPrefix(line, prefix) && fn(line) })
}

// count is how many lines have a prefix, limit at most.
func count(lines *btree.BTreeG[string], prefix string, limit int) int {
	n := 0
	ascend(lines, prefix, func(string) bool { n++; return n < limit })
	return n
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
	fields   fieldSets // of all states of a store
}

func newState() *state {
	s := &state{tables: make(map[*api.Kind]*table, len(api.Kinds)), fields: fieldSets{}}
	for _, k := range api.Kinds {
		s.tables[k] = newTable(k)
	}
	return s
}

// next is a state that may be written without touching s; tables are cloned when they are first written.
func (s *state) next() *state {
	return &state{revision: s.revision, tables: maps.Clone(s.tables), fields: s.fields}
}

// size is how many objects there are.
func (s *state) size() uint64 {
	n := 0
	for _, t := range s.tables {
		n += t.objects.Len()
	}
	return uint64(n)
}
