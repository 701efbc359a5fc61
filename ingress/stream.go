package ingress

import (
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// copyBuffer is how much of a body is taken at once. It is what one client that stops reading can hold.
const copyBuffer = 32 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// send writes the header, and the body as it comes from the client. Nothing waits for a whole body.
func (x *exchange) send(c *conn) error {
	if x.framing.length == 0 {
		n, err := c.Write(c.out)
		if err != nil && n == 0 {
			return errors.Join(errUnsent, err)
		}
		return err
	}
	// The header leaves before the body is asked for: until it does, the request can go elsewhere.
	if n, err := c.Write(c.out); err != nil {
		if n == 0 {
			return errors.Join(errUnsent, err)
		}
		return err
	}
	x.began = true
	return x.sendBody(c)
}

func (x *exchange) sendBody(c *conn) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var total int64
	f, from := x.filters(), x.ctx.RequestBodyStream()
	for {
		if err := x.ctx.SetReadDeadline(time.Now().Add(x.f.c.cfg.HeaderTimeout)); err != nil {
			return err
		}
		n, err := from.Read(*buffer)
		if total += int64(n); f.MaxBody > 0 && total > f.MaxBody {
			return &refused{http.StatusRequestEntityTooLarge, "the body is too large"}
		}
		if werr := x.sendPart(c, (*buffer)[:n], f); werr != nil {
			return werr
		}
		switch {
		case errors.Is(err, io.EOF):
			return x.sendEnd(c, total)
		case isTimeout(err):
			return &refused{http.StatusRequestTimeout, "the body did not come in time"}
		case err != nil:
			return &refused{http.StatusBadRequest, "the body cannot be read"}
		}
	}
}

func (x *exchange) sendPart(c *conn, part []byte, f *Filters) error {
	if len(part) == 0 {
		return nil
	}
	if x.framing.length < 0 {
		c.out = append(strconv.AppendInt(c.out[:0], int64(len(part)), 16), "\r\n"...)
		c.out = append(append(c.out, part...), "\r\n"...)
		part = c.out
	}
	return c.writePart(part, x.timeout(f.Send, defaultRead))
}

// sendEnd ends the body: a chunked one with its trailers.
func (x *exchange) sendEnd(c *conn, total int64) error {
	if x.framing.length > 0 {
		if total != x.framing.length {
			return &refused{http.StatusBadRequest, "the body is shorter than it was told"}
		}
		return nil
	}
	c.out = append(c.out[:0], "0\r\n"...)
	h := &x.ctx.Request.Header
	for name := range h.Trailers() {
		value := h.PeekBytes(name)
		if !hopByHop(name) && validName(name) && validValue(value) {
			c.out = append(append(append(append(c.out, name...), ": "...), value...), "\r\n"...)
		}
	}
	c.out = append(c.out, "\r\n"...)
	_, err := c.Write(c.out)
	return err
}

// answerBody is an answer's body on its way from the backend to the client.
type answerBody struct {
	x      *exchange
	f      *front
	ctx    *fasthttp.RequestCtx
	e      *endpoint
	c      *conn
	from   io.Reader
	left   int64 // of a known length
	length int
	keep   bool
	ended  bool
	sent   int64
}

func newAnswerBody(x *exchange, e *endpoint, c *conn, length int, keep bool) *answerBody {
	b := &answerBody{x: x, f: x.f, ctx: x.ctx, e: e, c: c, length: length, keep: keep}
	switch {
	case length >= 0:
		b.from, b.left = io.LimitReader(c.br, int64(length)), int64(length)
	case length == -1:
		b.from = httputil.NewChunkedReader(c.br)
	default: // until the backend closes
		b.from, b.keep = c.br, false
	}
	return b
}

// Read takes what has come. An end before its time is an error, on which the client's connection is closed: it must not take
// half an answer for a whole one.
func (b *answerBody) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	n, err := b.from.Read(p)
	b.sent += int64(n)
	b.left -= int64(n)
	if n > 0 {
		// The answer may take long as a whole, as long as the client takes part after part.
		if derr := b.ctx.Conn().SetWriteDeadline(time.Now().Add(defaultRead)); derr != nil {
			return n, derr
		}
	}
	if err == nil && b.length >= 0 && b.left == 0 {
		b.ended = true
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if b.length >= 0 && b.left > 0 {
		return n, io.ErrUnexpectedEOF
	}
	if b.length == -1 {
		if terr := b.ctx.Response.Header.ReadTrailer(b.c.br); terr != nil && !errors.Is(terr, io.EOF) {
			return n, terr
		}
	}
	b.ended = true
	return n, err
}

// Close gives the connection back if the answer came whole, and counts the request.
func (b *answerBody) Close() error {
	if b.c == nil {
		return nil
	}
	b.e.giveBack(b.c, b.ended && b.keep)
	b.c = nil
	b.x.done(b.sent)
	return nil
}
