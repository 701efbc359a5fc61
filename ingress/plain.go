package ingress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"sync/atomic"
	"time"
)

// unreached is an endpoint to which no connection could be made: the request can go to another.
type unreached struct{ error }

// Unwrap is the cause.
func (u unreached) Unwrap() error { return u.error }

// plain sends a request that came by HTTP/2 to an endpoint that speaks HTTP/1.1, over the same connections and read as strictly as
// those of the other engine. net/http's own transport takes answers with two lengths, and keeps the connections of those who
// say too much. The body that it returns must be closed.
func (a *attempt) plain(r *http.Request, e *endpoint) (*http.Response, error) {
	c, err := e.connect(r.Context(), a.p.c.cfg.Dial, a.connect)
	if err != nil {
		return nil, unreached{err}
	}
	c.patience, c.watched = 0, nil // the attempt's own patience and context end the wait for the header
	c.readBy = time.Time{}
	if err := c.SetReadDeadline(c.readBy); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	p := &plainBody{e: e, c: c, wake: a.wake, sent: make(chan struct{})}
	p.stop = context.AfterFunc(r.Context(), func() { c.Close() })
	if err := a.begin(r, c); err != nil {
		close(p.sent)
		_ = p.abandon()
		return nil, a.stale(err, r, c)
	}
	if r.Body == nil || r.Body == http.NoBody {
		close(p.sent)
	} else {
		go func() {
			defer close(p.sent)
			p.failed = a.pass(r, p)
		}()
	}
	h, err := answerHead(c.br, r.Method, c.fields, interim(r.Context()))
	c.fields = h.fields
	if cut := p.cut.Load(); cut != nil {
		err = *cut // an answer to half a request is none
	} else if err == nil && h.status == http.StatusSwitchingProtocols {
		err = errSwitched
	}
	var answer *http.Response
	if err == nil {
		// What is strict has been checked; the rest is the library's, with the body and its trailers.
		answer, err = http.ReadResponse(c.br, r)
	}
	if err != nil {
		_ = p.abandon()
		return nil, errors.Join(p.failed, a.stale(err, r, c)) // a client that does not send on is why the backend has no answer
	}
	p.from, p.keep, c.patience = answer.Body, h.keep, a.read
	answer.Body = p
	return answer, nil
}

// errStale is a connection that was kept and had ended: another one may be tried.
var errStale = errors.New("a kept connection has ended")

// stale tells of a failure that is not the endpoint's, after which the request can be sent once more.
func (a *attempt) stale(err error, r *http.Request, c *conn) error {
	if c.reused && closed(err) && idempotent(r.Method) {
		return errors.Join(errStale, err)
	}
	return err
}

// begin writes the request's header: a backend may answer before a body comes.
func (a *attempt) begin(r *http.Request, c *conn) error {
	b := bytes.NewBuffer(c.out[:0])
	b.WriteString(r.Method + " " + a.v.target + " HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	if err := r.Header.WriteSubset(b, map[string]bool{"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}); err != nil {
		return err
	}
	switch {
	case r.ContentLength < 0:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case r.ContentLength > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		b.WriteString("Content-Length: " + strconv.FormatInt(r.ContentLength, 10) + "\r\n")
	}
	b.WriteString("\r\n")
	c.out = b.Bytes()
	if err := c.writeWithin(a.send); err != nil {
		return err
	}
	_, err := c.Write(c.out)
	return err
}

// pass sends the body as it comes, and its trailers.
func (a *attempt) pass(r *http.Request, p *plainBody) error {
	c := p.c
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var total int64
	for {
		n, err := r.Body.Read(*buffer)
		total += int64(n)
		if n > 0 {
			part := (*buffer)[:n]
			if r.ContentLength < 0 {
				part = chunk(part)
			}
			werr := c.writeWithin(a.send)
			if werr == nil {
				_, werr = c.Write(part)
			}
			if isTimeout(werr) {
				return errors.Join(werr, c.Close()) // nor is an answer waited for
			} else if werr != nil {
				return werr // an answer may have come before
			}
		}
		switch {
		case err == nil:
			continue
		case !errors.Is(err, io.EOF) || (r.ContentLength >= 0 && total != r.ContentLength):
			err = errors.Join(errors.New("the body cannot be read"), err)
			p.cut.Store(&err)
			return errors.Join(err, c.Close()) // half a body is none: the backend must not wait for the rest
		case r.ContentLength >= 0:
			return nil
		}
		_, err = c.Write(a.lastChunk())
		return err
	}
}

func chunk(part []byte) []byte {
	b := append(strconv.AppendInt(make([]byte, 0, len(part)+16), int64(len(part)), 16), "\r\n"...)
	return append(append(b, part...), "\r\n"...)
}

// lastChunk ends a body, with the trailers that came with it.
func (a *attempt) lastChunk() []byte {
	b := []byte("0\r\n")
	for name, values := range a.trailer {
		for _, value := range values {
			if !hopByHop([]byte(name)) && validName(name) && validValue(value) {
				b = append(b, name+": "+value+"\r\n"...)
			}
		}
	}
	return append(b, "\r\n"...)
}

// interim passes 1xx answers to whom the request's context says.
func interim(ctx context.Context) func(head) {
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil || trace.Got1xxResponse == nil {
		return nil
	}
	return func(h head) {
		fields := textproto.MIMEHeader{}
		for i := range h.fields {
			if name := h.fields[i].name; !h.dropped(name) && !equalFold(name, "Content-Length") {
				fields.Add(string(name), string(h.fields[i].value))
			}
		}
		_ = trace.Got1xxResponse(h.status, fields)
	}
}

// plainBody is an answer's body. Its Close gives the connection back when both messages came whole, and waits until nothing reads the
// request's body any more: that ends with the request.
type plainBody struct {
	e      *endpoint
	c      *conn
	from   io.ReadCloser
	wake   func() // ends a read of the request's body
	stop   func() bool
	sent   chan struct{}         // closed when the request has been sent, or will not be
	failed error                 // why not; to be read after sent
	cut    atomic.Pointer[error] // why the client's body ended early; set before the backend can know of it
	keep   bool
	ended  bool
	done   bool
}

// Read implements io.Reader.
func (p *plainBody) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	p.ended = p.ended || errors.Is(err, io.EOF)
	return n, err
}

// Close implements io.Closer.
func (p *plainBody) Close() error {
	if p.done {
		return nil
	}
	p.done = true
	select {
	case <-p.sent:
		if p.ended = p.ended || p.empty(); p.stop() && p.ended && p.failed == nil {
			p.e.giveBack(p.c, p.keep)
			return nil
		}
	default:
	}
	return p.abandon()
}

// empty tells whether there is no body to read: nobody need have tried.
func (p *plainBody) empty() bool { return p.from == http.NoBody }

// abandon ends the connection, and with it the sending.
func (p *plainBody) abandon() error {
	p.stop()
	err := p.c.Close()
	select {
	case <-p.sent:
	default:
		p.wake()
		<-p.sent
	}
	return err
}
