package dns

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxStreams bounds the TCP connections of one listener, and so what idle clients hold: some 20 KiB each. Pods need TCP for
	// the odd large answer only.
	maxStreams = 256
	// writeTime is how long an answer may wait for a client that does not read.
	writeTime = 2 * time.Second
)

// streams is a listener of so many connections at most: for one more, the one that said nothing for the longest is closed.
// Nobody can keep others out by being connected.
type streams struct {
	net.Listener
	mu   sync.Mutex
	open map[*stream]struct{} // guarded by mu
}

// stream is one of the connections. Its writes end in time.
type stream struct {
	net.Conn
	of    *streams
	heard atomic.Int64 // when it last said something, in Unix nanoseconds
}

func newStreams(l net.Listener) *streams { return &streams{Listener: l, open: map[*stream]struct{}{}} }

// Accept waits for a connection.
func (l *streams) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: c, of: l}
	s.heard.Store(time.Now().UnixNano())
	if silent := l.add(s); silent != nil {
		silent.Close()
	}
	return s, nil
}

// add takes s in, and returns the connection that has to go for it, or nil.
func (l *streams) add(s *stream) (silent *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= maxStreams {
		for o := range l.open {
			if silent == nil || o.heard.Load() < silent.heard.Load() {
				silent = o
			}
		}
		delete(l.open, silent)
	}
	l.open[s] = struct{}{}
	return silent
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	n, err := s.Conn.Write(p)
	if err != nil {
		s.Close() // what came of the answer is of no use, and whatever would follow it neither
	}
	return n, err
}

func (s *stream) Close() error {
	s.of.mu.Lock()
	delete(s.of.open, s)
	s.of.mu.Unlock()
	return s.Conn.Close()
}
