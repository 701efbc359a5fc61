package store

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
)

// EventType says what happened to an object.
type EventType string

// What can happen to an object; the words of a Kubernetes watch.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

// Event is one write. Object is the state after it (for Deleted: the last state, carrying the revision of the deletion), Old
// the state before it (nil for Added). Both are shared and must not be changed.
type Event struct {
	Type     EventType
	Kind     *api.Kind
	Object   api.Object
	Old      api.Object
	Revision uint64
}

// Query selects objects. The zero Query selects all of a kind.
type Query struct {
	Namespace string          // "" for all namespaces
	Name      string          // with a Namespace, or of a cluster-wide kind; "" for all
	Labels    labels.Selector // nil for any
	// Index and Value select by one of the kind's indexes (api.Kind.Indexes); "" for none.
	Index, Value string
}

// List is an answer: the objects in order of namespace and name, and the revision at which they were read.
type List struct {
	Items    []api.Object
	Revision uint64
}

// Batch is what a Watcher has seen: the events of its kinds, in order, up to and including Revision. Events may be empty:
// then other kinds were written, and Revision alone has moved.
type Batch struct {
	Events   []Event
	Revision uint64
	// Fresh says that Events is all that exists, as Added: what was seen before is to be forgotten. Only Follow sets it.
	Fresh bool
}

// Reader is how every role sees the cluster. The store satisfies it in process.
type Reader interface {
	List(ctx context.Context, kind *api.Kind, q Query) (List, error)
	// Watch sees every write after revision from. It fails with a Gone error (apierrors.IsResourceExpired) when from is
	// older than the events still held.
	Watch(ctx context.Context, from uint64, kinds ...*api.Kind) (Watcher, error)
}

// Watcher hands out writes in order.
type Watcher interface {
	// Next blocks until the revision has moved past the last batch, then returns everything since. It fails when ctx ends,
	// when the store closes, or with a Gone error when the watcher fell so far behind that events are no longer held.
	Next(ctx context.Context) (Batch, error)
	Close()
}

// Progress is a revision that only rises: how far a consumer of the store has come. Its zero value is ready, at 0.
type Progress struct {
	mu      sync.Mutex
	reached uint64
	moved   chan struct{} // closed when reached rises; nil while nobody waits
}

// Reach records that everything up to and including revision is in effect. An older revision changes nothing.
func (p *Progress) Reach(revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision <= p.reached {
		return
	}
	p.reached = revision
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// Reached returns the last revision recorded.
func (p *Progress) Reached() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reached
}

// Wait returns when revision has been reached, or with ctx's error.
func (p *Progress) Wait(ctx context.Context, revision uint64) error {
	for {
		p.mu.Lock()
		if p.reached >= revision {
			p.mu.Unlock()
			return nil
		}
		if p.moved == nil {
			p.moved = make(chan struct{})
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
