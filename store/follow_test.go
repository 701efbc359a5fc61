package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// busy is a reader between whose answers somebody writes.
type busy struct {
	*store.Store
	between func()
}

func (b busy) List(ctx context.Context, k *api.Kind, q store.Query) (store.List, error) {
	defer b.between()
	return b.Store.List(ctx, k, q)
}

// briefly is a batch in a line.
func briefly(t *testing.T, f store.Watcher) string {
	t.Helper()
	b, err := f.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	if b.Fresh {
		text = "fresh "
	}
	for _, e := range b.Events {
		text += fmt.Sprintf("%s %s, ", e.Type, e.Object.GetName())
	}
	return text + fmt.Sprint("at ", b.Revision)
}

func TestFollowingBeginsWithEverythingAndRepeatsNothingThatALaterListSaw(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	put(t, s, configMap("a", "1"))
	n := 0
	f := store.Follow(busy{s, func() { // after each of the two lists
		n++
		put(t, s, pod(fmt.Sprint("p", n), "n1"))
		put(t, s, configMap("a", fmt.Sprint("after list ", n)))
	}}, api.ConfigMaps, api.Pods)
	defer f.Close()
	for _, want := range []string{"fresh ADDED a, ADDED p1, at 1", "MODIFIED a, ADDED p2, MODIFIED a, at 5"} {
		if got := briefly(t, f); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if l, _ := s.List(t.Context(), api.ConfigMaps, store.Query{}); len(l.Items) != 1 || l.Revision != 5 {
		t.Errorf("the store came to %d", l.Revision)
	}
}

func TestAFollowerThatFellBehindBeginsAnew(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true, History: 4})
	f := store.Follow(s, api.ConfigMaps)
	defer f.Close()
	put(t, s, configMap("a", "1"))
	put(t, s, configMap("b", "1"))
	got := []string{briefly(t, f)}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := f.Next(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	put(t, s, configMap("a", "2"))
	got = append(got, briefly(t, f))
	remove(t, s, api.ConfigMaps, "a", store.DeleteOptions{})
	for i := range 5 {
		put(t, s, configMap("b", fmt.Sprint("again ", i)))
	}
	got = append(got, briefly(t, f))
	want := []string{"fresh ADDED a, ADDED b, at 2", "MODIFIED a, at 3", "fresh ADDED b, at 9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	s.Close()
	if _, err := f.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// A-11 for the roles in process: whatever is written and however short the history, a follower ends with the store's picture.
func TestAFollowersPictureIsTheStores(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true, History: 8})
	sc := &scene{s: s}
	var writing sync.WaitGroup
	for i := range 4 {
		writing.Go(func() { sc.scribble(t, i, 200) })
	}
	done := make(chan struct{})
	go func() { writing.Wait(); put(t, s, configMap("end", "end")); close(done) }()
	f, p, fresh := store.Follow(s, api.ConfigMaps), picture{}, 0
	defer f.Close()
	for p["end"] == "" {
		b, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.Fresh {
			fresh++
			p = picture{}
		}
		for _, e := range b.Events {
			if b.Fresh {
				p[e.Object.GetName()] = e.Object.GetResourceVersion()
			} else if err := p.apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if rand.IntN(10) == 0 { // fall behind
			if w, err := s.Watch(t.Context(), s.Revision()); err == nil && s.Revision()+20 < 4*200 {
				w.Next(t.Context())
				w.Close()
			}
		}
	}
	<-done
	l, err := s.List(t.Context(), api.ConfigMaps, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	want := picture{}
	for _, obj := range l.Items {
		want[obj.GetName()] = obj.GetResourceVersion()
	}
	if diff := cmp.Diff(want, p); diff != "" || fresh == 0 {
		t.Errorf("begun %d times (-want +got):\n%s", fresh, diff)
	}
}
