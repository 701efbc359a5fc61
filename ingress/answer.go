package ingress

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// headReader gives a header to the library, which reads it from a buffer that holds all of it.
type headReader struct {
	from bytes.Reader
	br   *bufio.Reader
}

var headReaders = sync.Pool{New: func() any {
	r := &headReader{}
	r.br = bufio.NewReaderSize(&r.from, upstreamBuffer+1<<10) // more than the fields that the ingress adds
	return r
}}

// adopt makes the library's header from the backend's, so that the library never sees what the strict reader would not have taken.
func (x *exchange) adopt(c *conn, h *head) error {
	c.out = h.appendTo(c.out[:0], x.verdict.fields)
	if h.length == -1 && !x.http10 {
		c.out = append(c.out, "Transfer-Encoding: chunked\r\n"...)
	}
	c.out = append(c.out, "\r\n"...)
	if _, err := c.br.Discard(h.size); err != nil {
		return err
	}
	r := headReaders.Get().(*headReader)
	defer headReaders.Put(r)
	r.from.Reset(c.out)
	r.br.Reset(&r.from)
	to := &x.ctx.Response.Header
	if err := to.Read(r.br); err != nil {
		to.Reset()
		to.DisableNormalizing()
		return &refused{http.StatusBadGateway, "the backend's answer cannot be read"}
	}
	to.ResetConnectionClose()
	to.SetNoDefaultContentType(true)
	x.dress()
	return nil
}

// receive makes the answer from the backend's: its header without what belongs to one connection, and its body as it comes.
func (x *exchange) receive(e *endpoint, c *conn, h *head) error {
	if err := x.adopt(c, h); err != nil {
		return err
	}
	length := int(h.length)
	switch {
	case length == 0:
		x.ctx.Response.SkipBody = true
		e.giveBack(c, h.keep)
	case length > 0 && length <= c.br.Buffered():
		text, _ := c.br.Peek(length)
		x.ctx.Response.SetBody(text)
		_, _ = c.br.Discard(length)
		e.giveBack(c, h.keep)
	case length < 0 && x.http10:
		if !x.f.tunnels.add(c) {
			return errStopping
		}
		x.untilClose(newAnswerBody(x, e, c, length, h.keep), c)
	default:
		stream := newAnswerBody(x, e, c, length, h.keep)
		x.sentLater = true
		x.ctx.Response.ImmediateHeaderFlush = true
		x.ctx.Response.SetBodyStream(stream, max(length, -1))
	}
	return nil
}

// giveBack puts a connection whose answer was read whole back, or ends it.
func (e *endpoint) giveBack(c *conn, keep bool) {
	if keep && c.br.Buffered() == 0 {
		e.pool.put(c, time.Now())
		return
	}
	c.Close() // what came too much would be taken for the next answer
}

// untilClose sends a body of unknown length to a client of HTTP/1.0, which knows no chunks: it ends where the connection does (RFC 9112,
// 6.1). The library would write chunks. from is where the body comes from, and is one of the tunnels.
func (x *exchange) untilClose(body io.ReadCloser, from io.Closer) {
	f := x.f
	x.ctx.Response.Header.SetConnectionClose()
	head := append([]byte(nil), x.ctx.Response.Header.Header()...)
	x.sentLater = true
	x.ctx.HijackSetNoResponse(true)
	x.ctx.Hijack(func(client net.Conn) {
		defer f.tunnels.remove(from)
		defer body.Close()
		if _, err := client.Write(head); err == nil {
			_, _ = io.Copy(client, body)
		}
	})
}
