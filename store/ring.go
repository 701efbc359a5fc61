package store

import (
	"context"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
)

// ring holds the newest events by revision. Watchers keep a cursor into it; a writer never waits for them.
type ring struct {
	mu     sync.Mutex // guards all below
	size   int
	events []Event // a ring once it has grown to size
	start  int     // index of the oldest
	oldest uint64  // a watch may begin at this revision or later
	newest uint64
	moved  chan struct{} // closed at each append
	closed bool
}

func newRing(size int, revision uint64) *ring {
	return &ring{size: size, oldest: revision, newest: revision, moved: make(chan struct{})}
}

func (r *ring) append(events []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		if len(r.events) < r.size {
			r.events = append(r.events, e)
		} else {
			r.oldest = r.events[r.start].Revision
			r.events[r.start] = e
			r.start = (r.start + 1) % r.size
		}
		r.newest = e.Revision
	}
}

func (r *ring) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		close(r.moved)
		r.moved = make(chan struct{})
	}
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.moved)
	}
}

func gone(from, oldest uint64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", from, oldest))
}

func (r *ring) watch(from uint64, kinds []*api.Kind) (Watcher, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	if from < r.oldest {
		return nil, gone(from, r.oldest)
	}
	return &watcher{ring: r, at: from, kinds: kinds, closed: make(chan struct{})}, nil
}

// watcher is one cursor. Next is for one caller at a time.
type watcher struct {
	ring   *ring
	at     uint64
	kinds  []*api.Kind // empty for all
	once   sync.Once
	closed chan struct{}
}

// Close implements Watcher; a Next that waits returns.
func (w *watcher) Close() { w.once.Do(func() { close(w.closed) }) }

// Next implements Watcher.
func (w *watcher) Next(ctx context.Context) (Batch, error) {
	for {
		batch, moved, err := w.ring.since(w)
		if err != nil || moved == nil {
			return batch, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-w.closed:
			return Batch{}, ErrClosed
		}
	}
}

// since collects what is new to a watcher; if nothing is, it returns the channel that the next write closes.
func (r *ring) since(w *watcher) (Batch, chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return Batch{}, nil, ErrClosed
	case w.at < r.oldest:
		return Batch{}, nil, gone(w.at, r.oldest)
	case w.at >= r.newest:
		return Batch{}, r.moved, nil
	}
	n := len(r.events)
	at := func(i int) Event { return r.events[(r.start+i)%n] }
	lo, hi := 0, n
	for lo < hi { // the first event after w.at
		mid := (lo + hi) / 2
		if at(mid).Revision > w.at {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	batch := Batch{Revision: r.newest}
	for ; lo < n; lo++ {
		if e := at(lo); len(w.kinds) == 0 || slices.Contains(w.kinds, e.Kind) {
			batch.Events = append(batch.Events, e)
		}
	}
	w.at = r.newest
	return batch, nil, nil
}
