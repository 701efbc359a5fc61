package dns

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func numbered(i int) *name { return &name{key: fmt.Sprintf("n%d.", i)} }

func nodeOf(n *name) *node {
	made := compile(n.key, nil)
	made.owner = n
	return made
}

// Whatever came and went, the table holds what a map would hold, and does not grow without need.
func TestATableHoldsWhatAMapWouldHold(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	tab, model := newTable(), map[string]*node{}
	for range 100000 {
		n := numbered(rnd.IntN(500))
		switch rnd.IntN(3) {
		case 0:
			tab.remove(n.key)
			delete(model, n.key)
		default:
			model[n.key] = nodeOf(n)
			tab.put(model[n.key])
		}
	}
	for i := range 500 {
		key := numbered(i).key
		if got := tab.get(key); got != model[key] {
			t.Errorf("%s: got %p, want %p", key, got, model[key])
		}
	}
	seen := 0
	for range tab.all {
		seen++
	}
	if tab.held != len(model) || seen != len(model) {
		t.Errorf("%d names are held and %d seen, want %d", tab.held, seen, len(model))
	}
	if size := len(*tab.slots.Load()); size > 2048 {
		t.Errorf("500 names that come and go take %d slots", size)
	}
}

// D-24: readers find every name that stays, and none that never was, while others come and go and the table grows.
func TestReadersOfATableMissNothingWhileItChanges(t *testing.T) {
	t.Parallel()
	tab := newTable()
	const stay = 100
	for i := range stay {
		tab.put(nodeOf(numbered(i)))
	}
	var ended atomic.Bool
	var readers sync.WaitGroup
	for r := range 2 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(r), 5))
			for !ended.Load() {
				key := numbered(rnd.IntN(stay)).key
				if n := tab.get(key); n == nil || n.key != key {
					t.Errorf("%s is there all the time, and was not found", key)
					return
				}
				if tab.get("never.") != nil {
					t.Error("a name was found that never was")
					return
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(1, 6))
	for i := range 200000 {
		n := numbered(rnd.IntN(1 + i/20))
		if rnd.IntN(2) == 0 && len(n.key) > len("n99.") {
			tab.remove(n.key)
			continue
		}
		tab.put(nodeOf(n))
	}
	ended.Store(true)
	readers.Wait()
}
