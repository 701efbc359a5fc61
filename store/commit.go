package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// errInterrupted is what a group hears whose commit panicked.
var errInterrupted = errors.New("the commit was interrupted")

// group is the Updates that share one commit of the disk. The Update that made it leads: it commits for all.
type group struct {
	state  *state  // after the group's last write
	writes []write // in order of revision
	err    error   // the outcome; guarded by Store.commit until done
	done   chan struct{}
}

// outcome is what an Update's function came to: what it returned, and the group its answer depends on.
type outcome struct {
	group    *group // nil when all it saw was durable and it wrote nothing
	leads    bool
	revision uint64
	err      error
	// meanwhile is what the function left to be done while another Update writes the disk, or nil.
	meanwhile func()
}

// Update runs fn alone and makes its writes durable, all or none. It returns the revision of the last write (the current
// revision if fn wrote nothing). fn must not block and must not keep tx; ctx is looked at before fn runs, not after. Errors:
// fn's own; ErrClosed; a failed disk, in which case nothing was written, and the store goes on if the disk does.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	out := s.run(fn)
	if out.leads {
		s.lead(out.group)
	} else if out.meanwhile != nil {
		out.meanwhile()
	}
	if err := out.durable(); err != nil {
		return 0, err
	}
	return out.revision, out.err
}

// durable waits for what the answer depends on.
func (o outcome) durable() error {
	if o.group == nil {
		return nil
	}
	<-o.group.done
	return o.group.err
}

// run executes fn on the newest state and adds what it wrote to the next group. fn may have seen writes that are not durable
// yet; then its answer, be it an error such as AlreadyExists or nothing at all, waits for them.
func (s *Store) run(fn func(*Tx) error) outcome {
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return outcome{err: ErrClosed}
	}
	tx := newTx(s.head.Load(), s.o.Now)
	if err := fn(tx); err != nil {
		return outcome{group: s.last, err: err}
	}
	if len(tx.writes) == 0 {
		if s.last == nil {
			return outcome{revision: s.Revision()}
		}
		return outcome{group: s.last, revision: tx.state.revision}
	}
	leads := s.next == nil
	if leads {
		s.next = &group{done: make(chan struct{})}
		s.last = s.next
	}
	s.head.Store(tx.state)
	s.ahead.append(tx.writes)
	s.next.state = tx.state
	s.next.writes = append(s.next.writes, tx.writes...)
	return outcome{group: s.next, leads: leads, revision: tx.state.revision, meanwhile: tx.meanwhile}
}

// lead commits a group: it waits for the commit before it, while which the group grows, then writes the disk once.
func (s *Store) lead(g *group) {
	runtime.Gosched() // who reads ahead goes first: a thread that waits for the disk holds up who waits for its processor
	s.commit.Lock()
	defer s.commit.Unlock()
	if !s.seal(g) {
		close(g.done)
		return
	}
	err := errInterrupted
	defer func() { s.settle(g, err) }()
	if err = s.hook(); err == nil {
		err = s.disk.persist(g, s.Revision())
	}
}

func (s *Store) hook() error {
	if s.o.BeforeCommit == nil {
		return nil
	}
	return s.o.BeforeCommit()
}

// seal lets no more Updates into a group. It is false for a group that was built on a failed one.
func (s *Store) seal(g *group) bool {
	s.write.Lock()
	defer s.write.Unlock()
	if g.err != nil {
		return false
	}
	s.next = nil
	return true
}

// settle makes a durable group visible, or fails it together with the group that was built on it meanwhile.
func (s *Store) settle(g *group, err error) {
	defer close(g.done)
	if err == nil {
		s.durable.Store(g.state)
		s.log.append(g.writes)
		g.state, g.writes = nil, nil // s.last may hold g for long
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	g.err = fmt.Errorf("write the store: %w", err)
	if s.next != nil {
		s.next.err = g.err
	}
	s.next, s.last = nil, nil
	s.undo()
}

// undo goes back to the durable state. Revisions that were given out are not used again in this process: some reader ahead of the disk
// may have seen what they stood for.
func (s *Store) undo() {
	back := s.durable.Load().next()
	back.revision = s.head.Load().revision + 1
	s.head.Store(back)
	s.ahead.restart(back.revision)
}
