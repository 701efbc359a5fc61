package ingress

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// errSlow is a client's that does not send on.
var errSlow = errors.New("the body does not come in time")

// patientBody waits for each part of a body, and no longer.
type patientBody struct {
	io.ReadCloser
	stream *http.ResponseController
	within time.Duration
}

// Read implements io.Reader.
func (b *patientBody) Read(p []byte) (int, error) {
	_ = b.stream.SetReadDeadline(time.Now().Add(b.within))
	n, err := b.ReadCloser.Read(p)
	if isTimeout(err) {
		err = errSlow
	}
	return n, err
}

// watchedBody tells whether any of it was read.
type watchedBody struct {
	io.ReadCloser
	began bool
	wait  atomic.Pointer[patience] // of the attempt under way
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.began = true
	b.wait.Load().hold() // it is the client's turn
	defer func() { b.wait.Load().renew() }()
	return b.ReadCloser.Read(p)
}

// patience runs out when nothing holds, renews or ends it for a time.
type patience struct {
	within time.Duration

	mu    sync.Mutex // guards ended, and that the timer does not run after it
	ended bool
	timer *time.Timer
}

func newPatience(within time.Duration, out func()) *patience {
	p := &patience{within: within}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(within, func() {
		if p.end() {
			out()
		}
	})
	return p
}

func (p *patience) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
}

func (p *patience) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.timer.Reset(p.within)
	}
}

// end is true for the first who calls it: before the time ran out.
func (p *patience) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !p.ended
	p.ended = true
	p.timer.Stop()
	return first
}
