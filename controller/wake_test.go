package controller

import (
	"errors"
	"testing"
	"testing/synctest"
)

// What the manager wrote is told in order, once it is durable; it goes two turns ahead and no further, and a turn that fails ends it.
func TestTheManagerGoesTwoTurnsAheadOfTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Manager{}
		w := newWake(m)
		disk := map[uint64]chan error{1: make(chan error), 2: make(chan error), 3: make(chan error)}
		turn := func(n uint64) error {
			return w.add(turned{last: n, durable: func() error { return <-disk[n] }}, 10*n)
		}
		if err := errors.Join(turn(1), turn(2), w.add(turned{}, 25)); err != nil {
			t.Fatal(err)
		}
		third := make(chan error, 1)
		go func() { third <- turn(3) }()
		synctest.Wait()
		if len(third) > 0 || m.progress.Reached() != 0 {
			t.Errorf("a third turn went ahead, or progress %d was told before it is durable", m.progress.Reached())
		}
		disk[2] <- nil // the disk keeps the order: the first is there too
		synctest.Wait()
		if len(third) != 1 || m.progress.Reached() != 25 || m.written.Load() != 2 {
			t.Errorf("progress %d, written %d, want 25 and 2", m.progress.Reached(), m.written.Load())
		}
		full := errors.New("no space left on device")
		disk[1] <- nil
		disk[3] <- full
		w.end()
		if err := w.add(turned{}, 40); !errors.Is(err, full) || m.progress.Reached() != 25 {
			t.Errorf("got %v, progress %d", err, m.progress.Reached())
		}
	})
}
