package controller

import "sync"

// mostAhead is how many turns may be on their way to the disk: the first event after a turn is answered although the disk is slow,
// and when there are many, what comes while the disk is written is answered in one turn.
const mostAhead = 2

// wake is the turns behind the manager that are not durable yet. The manager's progress is told once they are: who waits for it finds
// in the store what the controllers wrote.
type wake struct {
	m    *Manager
	left sync.WaitGroup

	mu    sync.Mutex // guards all below
	moved *sync.Cond
	turns []behind // in their order
	err   error    // why a turn could not be written; nothing after it is in the store
}

// behind is a turn, and the revision up to which everything is answered with it; 0 for none.
type behind struct {
	turned
	seen uint64
}

func newWake(m *Manager) *wake {
	w := &wake{m: m}
	w.moved = sync.NewCond(&w.mu)
	return w
}

// add takes a turn, and waits while too many are there. It fails when one could not be written.
func (w *wake) add(t turned, seen uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.durable != nil {
		for len(w.turns) >= mostAhead && w.err == nil {
			w.moved.Wait()
		}
		w.turns = append(w.turns, behind{t, seen})
		w.left.Go(func() { w.settle(t.last, t.durable()) })
	} else if n := len(w.turns); n > 0 {
		w.turns[n-1].seen = max(w.turns[n-1].seen, seen)
	} else {
		w.m.progress.Reach(seen)
	}
	return w.err
}

// settle lets go of a turn that is durable, or has failed, and of those before it: the disk keeps their order.
func (w *wake) settle(last uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.moved.Broadcast()
	if err != nil {
		w.err = err
	}
	for w.err == nil && len(w.turns) > 0 && w.turns[0].last <= last {
		w.m.written.Store(w.turns[0].last)
		w.m.progress.Reach(w.turns[0].seen)
		w.turns = w.turns[1:]
	}
}

// end returns when the disk has no turn left to write.
func (w *wake) end() { w.left.Wait() }
