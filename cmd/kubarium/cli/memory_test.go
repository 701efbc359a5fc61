package cli

import (
	"runtime"
	"testing"
)

// Memory goes back when it is quiet and much of it is garbage, and not while somebody writes.
func TestMemoryGoesBackWhenABurstIsOver(t *testing.T) {
	before := heap{allocated: 1 << 30, objects: 400 << 20, live: 200 << 20}
	for _, test := range []struct {
		what string
		now  heap
		want bool
	}{
		{"after a burst", heap{1<<30 + 1<<20, 300 << 20, 200 << 20, 0}, true},
		{"when it was collected, and is held", heap{1<<30 + 1<<20, 200 << 20, 200 << 20, 100 << 20}, true},
		{"during a burst", heap{1<<30 + 100<<20, 300 << 20, 200 << 20, 0}, false},
		{"when it is tidy", heap{1<<30 + 1<<20, 210 << 20, 200 << 20, 10 << 20}, false},
		{"before the first collection", heap{1<<30 + 1<<20, 10 << 20, 20 << 20, 0}, false},
	} {
		if got := test.now.untidy(before); got != test.want {
			t.Errorf("%s: got %v", test.what, got)
		}
	}
	waste := make([]byte, 2*worthwhile)
	defer runtime.KeepAlive(waste)
	if h := readHeap(); h.objects < worthwhile || h.allocated < 2*worthwhile {
		t.Errorf("the runtime tells of %+v", h)
	}
}
