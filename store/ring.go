package store

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
)

const (
	// defaultHistory is how many events are held for watchers that resume: at a thousand writes a second, 16 seconds.
	defaultHistory = 16384
	// historyBytes bounds the same events by their encoded size; in memory they take two to four times as much. Fewer means
	// that a watcher which was away finds its revision gone sooner, and lists again.
	historyBytes = 12 << 20
)

// ring holds the newest events by revision. Watchers keep a cursor into it; a writer never waits for them.
type ring struct {
	mu     sync.Mutex // guards all below
	limit  int
	events []held // oldest first
	bytes  int    // the sum of their sizes
	oldest uint64 // a watch may begin at this revision or later
	newest uint64
	moved  chan struct{} // closed at each append
	closed bool
}

// held is an event in the ring, and what it counts towards historyBytes.
type held struct {
	Event
	size int
}

func newRing(limit int, revision uint64) *ring {
	return &ring{limit: limit, oldest: revision, newest: revision, moved: make(chan struct{})}
}

// append adds a commit's events and wakes the watchers.
func (r *ring) append(writes []write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range writes {
		r.events = append(r.events, held{w.Event, w.size})
		r.bytes += w.size
		r.newest = w.Revision
		for len(r.events) > r.limit || r.bytes > historyBytes && len(r.events) > 1 {
			r.drop()
		}
	}
	if !r.closed {
		close(r.moved)
		r.moved = make(chan struct{})
	}
}

// drop forgets the oldest event. The slice moves on; append copies what is left to a new one when its room is used up.
func (r *ring) drop() {
	r.oldest = r.events[0].Revision
	r.bytes -= r.events[0].size
	r.events[0] = held{}
	r.events = r.events[1:]
}

// restart forgets all events and tells every watcher that its revision is gone.
func (r *ring) restart(revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events, r.bytes, r.oldest, r.newest = nil, 0, revision, revision
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
	first := sort.Search(len(r.events), func(i int) bool { return r.events[i].Revision > w.at })
	batch := Batch{Revision: r.newest}
	for _, e := range r.events[first:] {
		if len(w.kinds) == 0 || slices.Contains(w.kinds, e.Kind) {
			batch.Events = append(batch.Events, e.Event)
		}
	}
	w.at = r.newest
	return batch, nil, nil
}
