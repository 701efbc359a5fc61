package controller

import (
	"context"
	"errors"
	"time"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	// turnWrites bounds one transaction: other writers wait while it runs (about 10 us a write) and a commit of the disk costs the
	// same for one write as for 256. More makes other writers wait longer, less makes a big Deployment slower.
	turnWrites = 256
	// turnWork bounds the objects looked at in one transaction, whether written or not.
	turnWork = 2048
	// retryWork is after how long work that failed is tried again.
	retryWork = time.Second
)

// controller is one subject of decisions. It may keep state in memory that follows from the events; when a transaction fails, it is
// made anew and shown everything.
type controller interface {
	// touched files the work that an event makes, by t.todo.
	touched(t *turn, ev store.Event)
	// reconcile brings what name stands for to its desired state. An error is logged and the work tried again later.
	reconcile(t *turn, name string) error
}

// engine shows events to the controllers and does their work.
type engine struct {
	o Config
	// controllers in the order of their work: each comes before those that use what it decides, endpoints last, so that a
	// Service's slices are written once for all that changed.
	controllers []controller
	queues      map[controller]*queue
	alarms      alarms
	barred      barred
	reads       int    // objects read so far: the measure of what a change costs
	beginning   bool   // what is shown is everything that there is
	own         []span // the engine's own writes that the watch has yet to repeat
}

// span is the revisions of one transaction's writes, both ends included.
type span struct{ first, last uint64 }

func newEngine(o Config) *engine {
	e := &engine{o: o, beginning: true, queues: map[controller]*queue{}, barred: barred{}}
	e.controllers = []controller{
		&collector{}, &namespaces{}, newNodeLife(), newEvictions(), &orphanPods{}, newDisruptions(), &accounts{}, newQuotas(),
		&adoption{}, &replicaSets{}, &deployments{},
		newLoadBalancers(o.LoadBalancers), newJobs(), newDaemonSets(), &statefulSets{},
		newScheduler(), &eventExpiry{}, newEndpoints(),
	}
	for _, c := range e.controllers {
		e.queues[c] = &queue{waiting: map[string]bool{}}
	}
	return e
}

// everything is what the store holds, as if it had just been written.
func (e *engine) everything(ctx context.Context) ([]store.Event, error) {
	var events []store.Event
	for _, k := range api.Kinds {
		list, err := e.o.Store.Ahead().List(ctx, k, store.Query{})
		if err != nil {
			return nil, err
		}
		for _, obj := range list.Items {
			events = append(events, store.Event{Type: store.Added, Kind: k, Object: obj, Revision: list.Revision})
		}
	}
	return events, nil
}

func (e *engine) idle() bool {
	for _, q := range e.queues {
		if len(q.waiting) > 0 {
			return false
		}
	}
	return true
}

// next waits for events, or for the next alarm; without either it returns an empty batch when ctx has ended and there is still
// work to do.
func (e *engine) next(ctx context.Context, w store.Watcher) (store.Batch, error) {
	wait, stop := ctx, context.CancelFunc(func() {})
	if at, ok := e.alarms.first(); ok {
		wait, stop = context.WithTimeout(ctx, max(at.Sub(e.o.Now()), 0))
	}
	defer stop()
	batch, err := w.Next(wait)
	for name, c := range e.alarms.due(e.o.Now()) {
		e.queues[c].add(name)
	}
	switch {
	case err == nil:
	case !e.idle() && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return store.Batch{}, nil
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return store.Batch{}, nil
	default:
		return batch, err
	}
	batch.Events = e.foreign(batch)
	return batch, nil
}

// foreign is a batch without the engine's own writes, which it has answered when it made them.
func (e *engine) foreign(b store.Batch) []store.Event {
	var events []store.Event
	for _, ev := range b.Events {
		for len(e.own) > 0 && e.own[0].last < ev.Revision {
			e.own = e.own[1:]
		}
		if len(e.own) > 0 && e.own[0].first <= ev.Revision {
			continue
		}
		events = append(events, ev)
	}
	return events
}

// turned is what a turn came to.
type turned struct {
	last    uint64       // the revision of its last write, 0 for none
	durable func() error // waits until that is on the disk; nil for a turn that had nothing to do
}

// turn shows events to the controllers and does work, in one transaction.
func (e *engine) turn(ctx context.Context, events []store.Event) (turned, error) {
	defer func() { e.beginning = false }()
	if len(events) == 0 && e.idle() {
		return turned{}, nil
	}
	var mine span
	durable, err := e.o.Store.Ahead().Update(ctx, func(tx *store.Tx) error {
		t := &turn{engine: e, tx: tx, now: e.o.Now()}
		mine.first = tx.Revision() + 1
		for _, ev := range events {
			t.show(ev)
		}
		for n := 0; n < turnWork && tx.Revision() < mine.first+turnWrites; n++ {
			if !t.work(e.controllers) {
				break
			}
		}
		// Whatever else is left for the next turn: the traffic must follow what this one decided. Only where that is the traffic of
		// thousands of Services, as in a start, do others get in between.
		for n := 0; n < turnWork && t.work(e.controllers[len(e.controllers)-1:]); n++ {
			continue
		}
		mine.last = tx.Revision()
		return nil
	})
	if err != nil || mine.last < mine.first {
		return turned{}, err
	}
	e.own = append(e.own, mine)
	return turned{mine.last, durable}, nil
}

// queue is a controller's work, in order, each name once.
type queue struct {
	order   []string
	waiting map[string]bool
}

func (q *queue) add(name string) {
	if !q.waiting[name] {
		q.waiting[name] = true
		q.order = append(q.order, name)
	}
}

func (q *queue) take() (string, bool) {
	if len(q.order) == 0 {
		return "", false
	}
	name := q.order[0]
	q.order = q.order[1:]
	delete(q.waiting, name)
	return name, true
}
