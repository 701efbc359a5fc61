package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

//
func TestAWatchOlderThanTheHistoryIsGone(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{History: 4, NoSync: true})
	late, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for i := range 10 {
		put(t, s, configMap("a", fmt.Sprint(i)))
	}
	if _, err := late.Next(t.Context()); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watcher that fell behind got %v, want it gone", err)
	}
	if _, err := s.Watch(t.Context(), 5); !apierrors.IsResourceExpired(err) || err.Error() != "too old resource version: 5 (6)" {
		t.Errorf("got %v, want it gone", err)
	}
	w, err := s.Watch(t.Context(), 6, api.ConfigMaps)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b, err := w.Next(t.Context())
	if err != nil || len(b.Events) != 4 || b.Events[0].Revision != 7 || b.Revision != 10 {
		t.Errorf("got %+v %v, want revisions 7 to 10", b, err)
	}
}

//
func TestAWatcherHearsOfOtherKindsOnlyThatTheRevisionMoved(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	w, err := s.Watch(t.Context(), 0, api.Pods)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, configMap("a", "1"))
	b, err := w.Next(t.Context())
	if err != nil || len(b.Events) != 0 || b.Revision != 1 {
		t.Errorf("got %+v %v, want revision 1 and no event", b, err)
	}
	var waiting sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	waiting.Go(func() {
		if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
	cancel()
	waiting.Wait()
	waiting.Go(func() {
		if _, err := w.Next(t.Context()); err == nil {
			t.Error("a closed watcher went on")
		}
	})
	w.Close()
	w.Close()
	waiting.Wait()
}

// picture is what a watcher believes to exist: name to resourceVersion.
type picture map[string]string

// apply takes an event up, and says when it does not follow from what was seen before.
func (p picture) apply(e store.Event) error {
	name, old := e.Object.GetName(), ""
	if e.Old != nil {
		old = e.Old.GetResourceVersion()
	}
	if had := p[name]; had != old || (e.Type == store.Added) != (old == "") {
		return fmt.Errorf("revision %d: %s %s of version %q, but it was %q", e.Revision, e.Type, name, old, had)
	}
	if e.Type == store.Deleted {
		delete(p, name)
	} else {
		p[name] = e.Object.GetResourceVersion()
	}
	if got := e.Object.GetResourceVersion(); got != fmt.Sprint(e.Revision) {
		return fmt.Errorf("revision %d: the object has version %s", e.Revision, got)
	}
	return nil
}

// scene is one run of the property test.
type scene struct {
	s    *store.Store
	mu   sync.Mutex // guards past
	past map[uint64]picture
}

// keep remembers a picture as the one at a revision, so that others may begin there, and compares it with theirs.
func (sc *scene) keep(t *testing.T, revision uint64, p picture) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if known, ok := sc.past[revision]; ok {
		if diff := cmp.Diff(known, p); diff != "" {
			t.Errorf("two watchers disagree on revision %d:\n%s", revision, diff)
		}
		return
	}
	sc.past[revision] = maps.Clone(p)
}

// some returns a picture of the past to begin at: any revision that anybody saw.
func (sc *scene) some() (uint64, picture) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	for revision, p := range sc.past { // maps give a random one
		return revision, maps.Clone(p)
	}
	return 0, picture{}
}

// TestNoWatcherLosesRepeatsOrReordersAnything is A-11's property: many writers; watchers that disconnect, and resume at their
// own or anybody's revision, or list anew when theirs is gone; each one's picture is the store's at every revision.
func TestNoWatcherLosesRepeatsOrReordersAnything(t *testing.T) {
	t.Parallel()
	for _, history := range []int{0, 64} {
		t.Run(fmt.Sprintf("history %d", history), func(t *testing.T) {
			t.Parallel()
			const writers, watchers, writes = 8, 12, 250
			s, _ := open(t, store.Options{NoSync: true, History: history})
			sc := &scene{s: s, past: map[uint64]picture{0: {}}}
			var writing, watching sync.WaitGroup
			for range watchers {
				watching.Go(func() { sc.follow(t) })
			}
			for i := range writers {
				writing.Go(func() { sc.scribble(t, i, writes) })
			}
			writing.Wait()
			put(t, s, configMap("end", "end"))
			watching.Wait()
		})
	}
}

// scribble creates, updates and deletes, several objects at a time.
func (sc *scene) scribble(t *testing.T, writer, writes int) {
	for j := range writes {
		update(t, sc.s, func(tx *store.Tx) error {
			for k := range 1 + rand.IntN(3) {
				name := fmt.Sprintf("c%d", rand.IntN(20))
				_, err := tx.Get(api.ConfigMaps, "default", name)
				switch {
				case err != nil:
					err = tx.Create(configMap(name, "new"))
				case rand.IntN(3) == 0:
					err = tx.Delete(api.ConfigMaps, "default", name, store.DeleteOptions{})
				default:
					err = tx.Update(configMap(name, fmt.Sprint(writer, j, k)))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// follow watches until it sees "end", closing and opening its watch at random.
func (sc *scene) follow(t *testing.T) {
	at, p := uint64(0), picture{}
	for p["end"] == "" {
		switch rand.IntN(4) {
		case 0:
			at, p = sc.some()
		case 1:
			at, p = sc.list(t)
		}
		w, err := sc.s.Watch(t.Context(), at, api.ConfigMaps)
		if err == nil {
			at, err = sc.read(t, w, at, p)
			w.Close()
		}
		switch {
		case apierrors.IsResourceExpired(err):
			at, p = sc.list(t)
		case err != nil:
			t.Error(err)
			return
		}
	}
	end, want := sc.list(t)
	if diff := cmp.Diff(want, p); diff != "" || at != end {
		t.Errorf("at %d of %d the picture differs from the store (-want +got):\n%s", at, end, diff)
	}
}

func (sc *scene) list(t *testing.T) (uint64, picture) {
	l, err := sc.s.List(t.Context(), api.ConfigMaps, store.Query{})
	if err != nil {
		t.Error(err)
	}
	p := picture{}
	for _, obj := range l.Items {
		p[obj.GetName()] = obj.GetResourceVersion()
	}
	sc.keep(t, l.Revision, p)
	return l.Revision, p
}

// read takes a few batches up.
func (sc *scene) read(t *testing.T, w store.Watcher, at uint64, p picture) (uint64, error) {
	for range 1 + rand.IntN(5) {
		if p["end"] != "" {
			break
		}
		b, err := w.Next(t.Context())
		if err != nil {
			return at, err
		}
		for _, e := range b.Events {
			if e.Revision != at+1 {
				return at, fmt.Errorf("after revision %d came %d", at, e.Revision)
			}
			at = e.Revision
			if err := p.apply(e); err != nil {
				return at, err
			}
		}
		if b.Revision != at {
			return at, fmt.Errorf("the batch says %d, its last event %d", b.Revision, at)
		}
		sc.keep(t, at, p)
	}
	return at, nil
}
