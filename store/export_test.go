package store

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"kubarium.dev/api"
)

// Check holds the invariants of a store at rest: the file says what memory says, and every index what its objects say. Of a
// closed store it knows nothing.
func Check(s *Store) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if s.closed {
		return nil
	}
	st := s.durable.Load()
	fresh := newState()
	if err := s.disk.db.View(func(tx *bbolt.Tx) error { return loadAll(tx, fresh) }); err != nil {
		return err
	}
	if fresh.revision != st.revision {
		return fmt.Errorf("the file is at revision %d, memory at %d", fresh.revision, st.revision)
	}
	for _, k := range api.Kinds {
		if got, want := fresh.tables[k].lines(), st.tables[k].lines(); !slices.Equal(got, want) {
			return fmt.Errorf("%s: the file gives %v, memory %v", k, got, want)
		}
	}
	return nil
}

// lines is everything a table holds, a line an entry.
func (t *table) lines() []string {
	var all []string
	t.objects.Ascend(func(e entry) bool {
		all = append(all, fmt.Sprintf("%q %s", e.key, e.obj.GetResourceVersion()))
		return true
	})
	for _, name := range slices.Sorted(maps.Keys(t.indexes)) {
		t.indexes[name].lines.Ascend(func(line string) bool {
			all = append(all, fmt.Sprintf("%s %q", name, line))
			return true
		})
	}
	return all
}

// FailSync leaves s as a commit does whose last page was written and then not synced.
func FailSync(s *Store, cause error) { s.disk.doubt(cause, s.Revision()-1) }
