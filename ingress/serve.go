package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// preface is how an HTTP/2 client without TLS begins (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Serve takes plain HTTP from a listener until ctx ends: HTTP/1.1, and HTTP/2 from clients that know. Then it takes no more
// connections, lets the requests under way finish for the drain timeout, closes the listener and returns nil.
func (c *Controller) Serve(ctx context.Context, ln net.Listener) error {
	return c.serve(ctx, ln, nil)
}

// ServeTLS is Serve for HTTPS.
func (c *Controller) ServeTLS(ctx context.Context, ln net.Listener) error {
	return c.serve(ctx, ln, c.tlsConfig())
}

func (c *Controller) serve(ctx context.Context, ln net.Listener, config *tls.Config) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	f := &front{c: c, ctx: life, tls: config != nil, port: portOfListener(ln.Addr()), mirrors: make(chan struct{}, maxMirrors)}
	fast, full := newHandover(ln.Addr()), newHandover(ln.Addr())
	one := f.server()
	two := &http.Server{
		Handler: f.handler(), ReadHeaderTimeout: c.cfg.HeaderTimeout, IdleTimeout: c.cfg.IdleTimeout, MaxHeaderBytes: c.cfg.MaxHeader,
		ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
	}
	two.Protocols.SetHTTP2(true)
	two.Protocols.SetUnencryptedHTTP2(true)
	var running sync.WaitGroup
	running.Go(func() { _ = one.Serve(fast) })
	running.Go(func() { _ = two.Serve(full) })
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var greeting sync.WaitGroup
	err := accept(ln, func(nc net.Conn) {
		if t, ok := nc.(*net.TCPConn); ok {
			nc = &parting{TCPConn: t, ctx: life}
		}
		greeting.Go(func() { c.greet(ctx, nc, config, fast, full) })
	})
	greeting.Wait()
	f.drain(one, two)
	fast.Close()
	full.Close()
	running.Wait()
	end()
	f.copies.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func portOfListener(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return strconv.Itoa(t.Port)
	}
	return ""
}

// accept hands out connections until the listener closes. What ends by itself (no descriptor is free) is waited for.
func accept(ln net.Listener, take func(net.Conn)) error {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		nc, err := ln.Accept()
		if err == nil {
			take(nc)
			continue
		}
		var ne net.Error
		if errors.Is(err, net.ErrClosed) || !errors.As(err, &ne) || !ne.Temporary() {
			return err
		}
		wait.Reset(5 * time.Millisecond)
		<-wait.C
	}
}

// drain lets what is under way finish.
func (f *front) drain(one interface {
	ShutdownWithContext(context.Context) error
}, two *http.Server,
) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), f.c.cfg.DrainTimeout)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() { _ = one.ShutdownWithContext(ctx) })
	both.Go(func() {
		if two.Shutdown(ctx) != nil {
			two.Close()
		}
	})
	both.Wait()
	f.tunnels.wait(ctx)
	f.tunnels.close()
	last, cancel := context.WithTimeout(context.Background(), partingTime) // one whose client broke off early may never begin
	defer cancel()
	f.tunnels.wait(last)
}

// greet finds out what a connection speaks, and hands it to whom it concerns.
func (c *Controller) greet(ctx context.Context, nc net.Conn, config *tls.Config, fast, full *handover) {
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if err := nc.SetDeadline(time.Now().Add(c.cfg.HeaderTimeout)); err != nil {
		nc.Close()
		return
	}
	to := fast
	if config != nil {
		t := tls.Server(nc, config)
		if err := t.HandshakeContext(ctx); err != nil {
			nc.Close()
			return
		}
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			to = full
		}
		nc = t
	} else {
		head, err := sniff(nc)
		if err != nil && len(head) == 0 {
			nc.Close()
			return
		}
		if string(head) == preface {
			to = full
		}
		nc = &begun{Conn: nc, head: head}
	}
	if !stop() || nc.SetDeadline(time.Time{}) != nil || !to.give(nc) {
		nc.Close()
	}
}

// sniff reads as long as what comes could be the preface of HTTP/2.
func sniff(nc net.Conn) ([]byte, error) {
	b := make([]byte, len(preface))
	n := 0
	for n < len(b) {
		got, err := nc.Read(b[n:])
		n += got
		if err != nil || !bytes.HasPrefix([]byte(preface), b[:n]) {
			return b[:n], err
		}
	}
	return b, nil
}

// begun is a connection of which the first octets were read already.
type begun struct {
	net.Conn
	head []byte
}

// Read gives them first.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// handover is a listener whose connections come from another one.
type handover struct {
	at     net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandover(at net.Addr) *handover {
	return &handover{at: at, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handover) give(nc net.Conn) bool {
	select {
	case h.conns <- nc:
		return true
	case <-h.closed:
		return false
	}
}

// Accept waits for the next connection.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case nc := <-h.conns:
		return nc, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr is that of the listener behind.
func (h *handover) Addr() net.Addr { return h.at }
