package cli

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent is how much garbage the daemon lets lie beside what it holds, in percent of that. Go's own 100 makes a cluster of 20,000
// Services half as large again; less makes writes slower. GOGC in the environment wins.
const gcPercent = 50

const (
	// tidyEvery is how often the daemon looks whether memory is worth giving back. A collection of 20,000 Services takes a tenth of
	// a second of both cores, so it waits until a burst of writes is over.
	tidyEvery = 5 * time.Second
	// quiet is how many bytes are allocated between two looks at the most when nothing much happens.
	quiet = 16 << 20
	// worthwhile is how many bytes must come back.
	worthwhile = 32 << 20
)

// heap is what the runtime tells of its memory, in bytes.
type heap struct {
	allocated uint64 // since the process began
	objects   uint64 // in use or garbage
	live      uint64 // in use at the last collection
	free      uint64 // held, and not returned to the system
}

func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return heap{s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Uint64()}
}

// untidy tells whether it is quiet since a look before, and memory is worth giving back.
func (h heap) untidy(before heap) bool {
	return h.allocated-before.allocated < quiet && h.objects-min(h.live, h.objects)+h.free > worthwhile
}

// tidy keeps the daemon small until ctx ends: what a start or a burst of writes leaves behind goes back to the system when it is over.
func tidy(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for before := readHeap(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := readHeap()
		if now.untidy(before) {
			debug.FreeOSMemory()
		}
		before = now
	}
}
