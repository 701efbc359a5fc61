package ingress

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// partingTime is how long a client may go on sending after the ingress has ended a connection; nginx's between two reads.
const partingTime = 5 * time.Second

// parting is a client's connection that ends in two steps (RFC 9112, 9.6): first for writing, and for reading when the client has ended it
// too. What the kernel gets for a closed connection it answers with a reset, on which clients forget answers that they have not read:
// such as why their body is not taken.
type parting struct {
	*net.TCPConn
	ctx  context.Context // at its end nobody is waited for
	over atomic.Bool

	reading sync.Mutex // held by whoever reads
}

// Read implements net.Conn.
func (p *parting) Read(b []byte) (int, error) {
	p.reading.Lock()
	defer p.reading.Unlock()
	if p.over.Load() {
		return 0, net.ErrClosed
	}
	n, err := p.TCPConn.Read(b)
	if err != nil && p.over.Load() {
		return n, net.ErrClosed
	}
	return n, err
}

// SetReadDeadline implements net.Conn.
func (p *parting) SetReadDeadline(t time.Time) error {
	if p.over.Load() {
		return net.ErrClosed
	}
	return p.TCPConn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (p *parting) SetDeadline(t time.Time) error {
	if p.over.Load() {
		return net.ErrClosed
	}
	return p.TCPConn.SetDeadline(t)
}

// WriteTo implements io.WriterTo, which must not go past Read.
func (p *parting) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{p})
}

// Close implements net.Conn. It waits for nobody.
func (p *parting) Close() error {
	if p.over.Swap(true) {
		return net.ErrClosed
	}
	if p.ctx.Err() != nil || hungUp(p.TCPConn) || p.CloseWrite() != nil {
		return p.TCPConn.Close()
	}
	if err := p.TCPConn.SetReadDeadline(time.Unix(1, 0)); err != nil { // wakes whoever reads
		return p.TCPConn.Close()
	}
	go p.seeOff()
	return nil
}

// seeOff reads what still comes.
func (p *parting) seeOff() {
	stop := context.AfterFunc(p.ctx, func() { p.TCPConn.Close() })
	defer p.TCPConn.Close()
	defer stop()
	p.reading.Lock() // who read has gone, and nobody else begins
	err := p.TCPConn.SetReadDeadline(time.Now().Add(partingTime))
	p.reading.Unlock()
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, p.TCPConn)
}
