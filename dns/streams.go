package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxStreams bounds the TCP connections of one listener, and so what idle clients hold: some 20 KiB each. Pods need TCP for
	// the odd large answer only.
	maxStreams = 256
	// firstTime is how long a client may take from its connection to its first question, idleTime from one to the next (RFC 7766
	// 6.2.3 wants seconds), writeTime how long an answer may wait for a client that does not read.
	firstTime = 2 * time.Second
	idleTime  = 8 * time.Second
	writeTime = 2 * time.Second
	// maxPipelined is how many questions of one connection may wait for upstream servers. No more are read until one of them is
	// answered, so that one client can make the server hold that much and no more.
	maxPipelined = 16
	// acceptPause is for a process without file descriptors left: another one may be free then.
	acceptPause = 10 * time.Millisecond
)

// serveStreams answers over the connections of a listener until ctx ends.
func (s *Server) serveStreams(ctx context.Context, listener net.Listener) error {
	l := newStreams(listener)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var talking sync.WaitGroup
	defer talking.Wait()
	for {
		c, err := l.Accept()
		var passing interface{ Temporary() bool }
		switch {
		case err == nil:
			talking.Go(func() { s.talk(ctx, c) })
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &passing) && passing.Temporary():
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		default:
			return errors.Join(fmt.Errorf("dns: serve: %w", err), l.Close())
		}
	}
}

// talk answers the questions of a connection until it ends. What the index knows is answered in order; a question for upstream
// servers is answered when they have, and those behind it do not wait (RFC 7766, 6.2.1.1).
func (s *Server) talk(ctx context.Context, c *stream) {
	var asking sync.WaitGroup
	defer func() {
		asking.Wait() // they end with ctx, or soon by themselves
		c.Close()
	}()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	from := addressOf(c.RemoteAddr())
	places := make(chan struct{}, maxPipelined)
	for patience := firstTime; ; patience = idleTime {
		packet, err := c.next(ctx, patience)
		if err != nil {
			return
		}
		req, m := parse(packet)
		if req == nil {
			s.counts.malformed.Add(1)
			s.say(c, m)
			continue
		}
		m, wait := s.start(asked{protocol: overTCP, from: from, began: time.Now()}, req, dns.MaxMsgSize)
		if wait == nil {
			s.say(c, m)
			continue
		}
		places <- struct{}{}
		asking.Go(func() {
			s.say(c, s.resume(ctx, wait))
			<-places
		})
	}
}

// say sends a message over a connection; nil is nothing to be said.
func (s *Server) say(c *stream, m *dns.Msg) {
	if m == nil {
		return
	}
	p, err := m.Pack()
	if err != nil {
		s.log.Error("dns: pack answer", "err", err)
		return
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)); err != nil {
		s.log.Debug("dns: send answer", "to", c.RemoteAddr().String(), "err", err)
	}
}

// streams is a listener of so many connections at most: for one more, the one that said nothing for the longest is closed.
// Nobody can keep others out by being connected.
type streams struct {
	net.Listener
	mu   sync.Mutex
	open map[*stream]struct{} // guarded by mu
}

// stream is one of the connections.
type stream struct {
	net.Conn
	of    *streams
	heard atomic.Int64 // when it last said something, in Unix nanoseconds
	in    *bufio.Reader

	writing sync.Mutex // held for one answer, so that each has its own time
}

func newStreams(l net.Listener) *streams { return &streams{Listener: l, open: map[*stream]struct{}{}} }

// Accept waits for a connection.
func (l *streams) Accept() (*stream, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: c, of: l}
	s.in = bufio.NewReader(s)
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

// next is the next message, as it came. It fails when none is complete in time, or ctx ends.
func (s *stream) next(ctx context.Context, wait time.Duration) ([]byte, error) {
	err := s.SetReadDeadline(time.Now().Add(wait))
	if err = errors.Join(err, ctx.Err()); err != nil { // whoever ends ctx after that look takes the time back
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err = io.ReadFull(s.in, message)
	return message, err
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// Write ends in time: with everything sent, or with the connection.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
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
