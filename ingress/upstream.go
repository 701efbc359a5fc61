package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxIdle is how many connections an endpoint keeps for later. More would hold descriptors of pods that are idle; fewer makes
	// bursts dial anew.
	maxIdle = 128
	// idleLife is after how long an idle connection is no longer used: below the 60 seconds and more after which servers close
	// theirs, so that a request seldom meets a closing one.
	idleLife = 30 * time.Second
	// upstreamBuffer holds an answer's header; a longer one is refused with 502.
	upstreamBuffer = 16 << 10
)

// pool is the idle connections of one endpoint, the last used on top.
type pool struct {
	mu     sync.Mutex // guards the rest
	idle   []*conn
	closed bool
}

// conn is one connection to an endpoint, of HTTP/1.1.
type conn struct {
	net.Conn
	raw    syscall.RawConn // nil when there is none
	br     *bufio.Reader
	out    []byte    // the header that is being written; kept for its memory
	fields rawFields // of the answer that was read last; kept for its memory
	since  time.Time
	reused bool
	// patience is how long a Read may wait; 0: for ever.
	patience time.Duration
	// watched is the client that waits: when it has gone, so has the reason to read. nil: nobody is watched.
	watched net.Conn
	gone    bool // it went
	// The deadlines that are set.
	readBy, writeBy time.Time
}

// watchEvery is how often a wait for the backend looks whether its client is still there.
const watchEvery = time.Second

// errGone is a client that has gone away before its answer.
var errGone = errors.New("the client has gone")

// Read waits as long as patience says, in pieces, so that it can look after the client in between. Moving a deadline costs a turn
// of the runtime's timers, so one that has half of its piece left stays.
func (c *conn) Read(p []byte) (int, error) {
	if c.patience == 0 {
		return c.Conn.Read(p)
	}
	now := time.Now()
	until := now.Add(c.patience)
	for {
		piece := min(until.Sub(now), watchEvery)
		if left := c.readBy.Sub(now); left > piece || left < piece/2 {
			c.readBy = now.Add(piece)
			if err := c.SetReadDeadline(c.readBy); err != nil {
				return 0, err
			}
		}
		n, err := c.Conn.Read(p)
		if n > 0 || err == nil || !isTimeout(err) {
			return n, err
		}
		if now = time.Now(); !now.Before(until) {
			return 0, err
		}
		if c.watched != nil && hungUp(c.watched) {
			c.gone = true
			return 0, errGone
		}
	}
}

// watch looks after a client until ctx ends, and tells when it has gone.
func watch(ctx context.Context, client net.Conn, gone func()) {
	var look func()
	look = func() {
		switch {
		case ctx.Err() != nil:
		case hungUp(client):
			gone()
		default:
			time.AfterFunc(watchEvery, look)
		}
	}
	time.AfterFunc(watchEvery, look)
}

// hungUp asks the kernel whether a connection was closed by its other side.
func hungUp(nc net.Conn) bool {
	if b, ok := nc.(*begun); ok {
		nc = b.Conn
	}
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && !errors.Is(err, syscall.EAGAIN)
	})
	return gone || err != nil
}

func newConn(nc net.Conn) *conn {
	c := &conn{Conn: nc}
	c.br = bufio.NewReaderSize(c, upstreamBuffer)
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	return c
}

// take returns an idle connection that still stands, or nil.
func (p *pool) take(now time.Time) *conn {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if now.Sub(c.since) < idleLife && c.stands() {
			c.reused = true
			return c
		}
		c.Close()
	}
}

// stands asks the kernel whether the other side has closed, or has sent what nobody asked for. It costs a system call and spares
// requests that cannot be repeated.
func (c *conn) stands() bool {
	if c.raw == nil || c.br.Buffered() > 0 {
		return c.br.Buffered() == 0
	}
	if t, ok := c.Conn.(*tls.Conn); ok && !c.silent(t) {
		return false
	}
	stands := true
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		stands = n <= 0 && errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && stands
}

// silent tells whether TLS holds nothing that it has read already, where the kernel does not know of it.
func (c *conn) silent(t *tls.Conn) bool {
	c.readBy = time.Unix(1, 0) // long ago: whatever is not here yet is not waited for
	if t.SetReadDeadline(c.readBy) != nil {
		return false
	}
	n, err := t.Read(make([]byte, 1))
	return n == 0 && isTimeout(err)
}

// put keeps a connection for later.
func (p *pool) put(c *conn, now time.Time) {
	c.since, c.watched = now, nil
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < maxIdle
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.Close()
	}
}

// close ends the idle connections; those in use end after their answer.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// connect takes an idle connection or makes one.
func (e *endpoint) connect(ctx context.Context, dial DialFunc, timeout time.Duration) (*conn, error) {
	if c := e.pool.take(time.Now()); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nc, err := dial(ctx, "tcp", e.address)
	if err != nil {
		return nil, err
	}
	c := newConn(nc)
	if !e.secure {
		return c, nil
	}
	host, _, _ := net.SplitHostPort(e.address)
	t := tls.Client(nc, backendTLS(host))
	if err := t.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	c.Conn = t // raw stays the connection below: what it holds unasked is no answer of either
	return c, nil
}

// backendTLS: pods' certificates are their own, as in ingress-nginx without proxy-ssl-verify.
func backendTLS(host string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: host, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
}

// writeWithin gives the next writes this long. A deadline that has more than nine tenths of its time left stays.
func (c *conn) writeWithin(d time.Duration) error {
	now := time.Now()
	if left := c.writeBy.Sub(now); left <= d && left > d-d/10 {
		return nil
	}
	c.writeBy = now.Add(d)
	return c.SetWriteDeadline(c.writeBy)
}

// answerLook is how long a backend may take nothing of a body before it is looked whether it answers instead.
const answerLook = 50 * time.Millisecond

// errAnswered is a backend's that answers, or ends, and takes no more.
var errAnswered = errors.New("the backend answers and takes no more")

// writePart writes a part of a body. The backend has to take some of it within the time, unless it answers: errAnswered.
func (c *conn) writePart(p []byte, within time.Duration) error {
	look := within
	if _, ok := c.Conn.(*tls.Conn); !ok { // TLS does not outlive a write that timed out
		look = min(within, answerLook)
	}
	taken := time.Now()
	for {
		if err := c.writeWithin(look); err != nil {
			return err
		}
		n, err := c.Write(p)
		if p = p[n:]; err == nil || !isTimeout(err) {
			return err
		}
		now := time.Now()
		if n > 0 {
			taken = now
		}
		switch {
		case !c.stands():
			return errAnswered
		case now.Sub(taken) >= within:
			return err
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, fasthttp.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &ne) && ne.Timeout())
}

// closed tells of a connection that ended, in whichever way.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
