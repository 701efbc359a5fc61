package ingress

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// front is one listener's HTTP/1.1 side.
type front struct {
	c    *Controller
	ctx  context.Context // ends when the listener's drain does
	tls  bool
	port string
	// tunnels are the upgraded connections.
	tunnels tunnels
	mirrors chan struct{} // one for each copy under way
	copies  sync.WaitGroup
}

// exchange is one request and its answer. It is used again for the next.
type exchange struct {
	f       *front
	ctx     *fasthttp.RequestCtx
	fields  rawFields
	framing framing
	request Request
	verdict verdict
	entry   entry
	http10  bool
	tried   []*endpoint
	began   bool // a part of the body has been taken from the client
	// sentLater: the answer's body is sent, and the request counted, by another than serve.
	sentLater bool
}

var exchanges = sync.Pool{New: func() any { return &exchange{} }}

// server makes the fasthttp server of a listener.
func (f *front) server() *fasthttp.Server {
	cfg := &f.c.cfg
	return &fasthttp.Server{
		Handler: f.serve, ErrorHandler: f.broken, Logger: silent{}, Name: "", NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true,
		DisableHeaderNamesNormalizing: true, DisablePreParseMultipartForm: true, StreamRequestBody: true, CloseOnShutdown: true,
		ReadBufferSize: cfg.MaxHeader, ReadTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, WriteTimeout: defaultRead,
		// The routes decide how long a body may be; this is only above all of them.
		MaxRequestBodySize: 1 << 50, Concurrency: 1 << 20,
	}
}

// silent drops what fasthttp would print: each such request is in the access log.
type silent struct{}

func (silent) Printf(string, ...any) {}

// broken answers what could not be read as a request.
func (f *front) broken(ctx *fasthttp.RequestCtx, err error) {
	status := http.StatusBadRequest
	var small *fasthttp.ErrSmallBuffer
	var ne net.Error
	switch {
	case errors.As(err, &small):
		status = http.StatusRequestHeaderFieldsTooLarge
	case errors.As(err, &ne) && ne.Timeout():
		status = http.StatusRequestTimeout
	}
	ctx.Response.Reset()
	ctx.Response.SetStatusCode(status)
	ctx.Response.SetConnectionClose()
	ctx.Response.SetBodyString(body(status, "the request cannot be read"))
	f.c.metrics.of("", "").count(status, 0, 0)
	f.c.access.write(&entry{at: f.c.cfg.Now(), client: ctx.RemoteIP().String(), method: "-", proto: "-", status: status, ingress: "-", service: "-", endpoint: "-", request: "-"})
}

func body(status int, reason string) string {
	return strconv.Itoa(status) + " " + http.StatusText(status) + ": " + reason + "\n"
}

// serve takes one request.
func (f *front) serve(ctx *fasthttp.RequestCtx) {
	x := exchanges.Get().(*exchange)
	*x = exchange{f: f, ctx: ctx, fields: x.fields[:0], tried: x.tried[:0]}
	x.entry.at = time.Now()
	status, reason := x.read()
	switch {
	case status != 0:
		x.verdict.answer(status, reason)
		ctx.Response.SetConnectionClose()
	default:
		f.c.decide(&x.request, x.framing.length, &x.verdict)
	}
	if x.verdict.rule != nil && x.verdict.status == 0 && x.filters().Mirror != "" {
		x.f.mirror(x.filters(), x.entry.method, x.request.Path+x.request.Query, x.fields.header())
	}
	switch v := &x.verdict; {
	case v.status != 0:
		x.answer()
	case v.places.speak == speakH2C || v.places.speak == speakH2:
		x.full()
	case x.framing.upgrade:
		x.offer(x.upgrade)
	default:
		x.offer(x.exchange)
	}
	if x.framing.length == -1 {
		// The library takes a line feed alone for the end of a chunked body's trailers, and of a line of theirs, and takes folded
		// lines: where another reader sees the beginning of the next request. So there is no next request.
		ctx.Response.SetConnectionClose()
	}
	if x.sentLater {
		return
	}
	x.done(int64(len(ctx.Response.Body())))
}

// done counts the request, and frees the exchange.
func (x *exchange) done(sent int64) {
	x.entry.status = x.ctx.Response.StatusCode()
	x.count(sent)
	x.ctx, x.f = nil, nil
	exchanges.Put(x)
}

func (x *exchange) count(sent int64) {
	e, v := &x.entry, &x.verdict
	e.took, e.sent = time.Since(e.at), sent
	finish(x.f.c, e, v)
}

// finish completes a line of the access log and counts the request.
func finish(c *Controller, e *entry, v *verdict) {
	e.ingress, e.service = "-", "-"
	if v.rule != nil {
		e.ingress = v.rule.Ingress
	}
	if v.service != nil {
		e.service = v.service.name
	}
	stats := v.stats
	if stats == nil {
		stats = c.metrics.of("", "")
	}
	if e.endpoint == "" {
		e.endpoint = "-"
	}
	stats.count(e.status, e.took, e.sent)
	c.access.write(e)
}

// read checks the request strictly and fills in what routing looks at. It returns the status of a refusal, or 0.
func (x *exchange) read() (int, string) {
	h := &x.ctx.Request.Header
	x.entry.method = string(h.Method())
	x.entry.client = remote(x.ctx.RemoteAddr()).String()
	x.entry.target = string(h.RequestURI())
	proto := h.Protocol()
	x.http10 = string(proto) == "HTTP/1.0"
	x.entry.proto = "HTTP/1.1"
	if x.http10 {
		x.entry.proto = "HTTP/1.0"
	} else if string(proto) != "HTTP/1.1" {
		return http.StatusHTTPVersionNotSupported, errVersion.Error()
	}
	var err error
	if x.fields, err = parseFields(h.RawHeaders(), x.fields); err != nil {
		return http.StatusBadRequest, err.Error()
	}
	if x.framing, err = readFraming(x.fields, x.http10); err != nil {
		return http.StatusBadRequest, err.Error()
	}
	// Whatever the strict reader and the library see differently is refused, too.
	if got := int64(h.ContentLength()); x.framing.length != got && (x.framing.length != 0 || got > 0 || got == -1) {
		return http.StatusBadRequest, errLengths.Error()
	}
	if !validName(h.Method()) || x.entry.method == http.MethodConnect {
		return http.StatusBadRequest, "the method is not served"
	}
	if x.entry.method == http.MethodTrace && x.framing.length != 0 {
		return http.StatusBadRequest, errTrace.Error()
	}
	host, path, query, err := splitTarget(h.RequestURI(), x.entry.method)
	if err != nil {
		return http.StatusBadRequest, err.Error()
	}
	if host == "" {
		host = x.framing.host
	}
	x.entry.host = host
	x.request = Request{
		Method: x.entry.method, Host: host, Path: path, Query: query, Header: x.fields, TLS: x.f.overTLS(remote(x.ctx.RemoteAddr()), x.fields),
		Client: x.f.c.client(remote(x.ctx.RemoteAddr()), x.fields),
	}
	return 0, ""
}

func remote(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		ip, _ := netip.AddrFromSlice(t.IP)
		return ip.Unmap()
	}
	return netip.IPv4Unspecified()
}

// answer is the ingress's own.
func (x *exchange) answer() {
	v, r := &x.verdict, &x.ctx.Response
	ends := r.ConnectionClose()
	r.Reset() // and with it the library dates the answer (RFC 9110, 6.6.1), which it must not do to a backend's
	r.SetStatusCode(v.status)
	x.dress()
	if ends || v.status == http.StatusBadRequest {
		r.SetConnectionClose() // who sends one thing that cannot be read is not read on
	}
	if v.status != http.StatusNoContent {
		r.Header.Set("Content-Type", "text/plain; charset=utf-8")
		r.SetBodyString(body(v.status, v.reason))
	}
}

// dress adds the fields that the filters ask for.
func (x *exchange) dress() {
	for _, f := range x.verdict.fields {
		x.ctx.Response.Header.Add(f.Name, f.Value)
	}
}

func (x *exchange) fail(status int, reason string) {
	x.ctx.Response.Reset()
	x.verdict.answer(status, reason)
	x.answer()
	if x.began || x.framing.length != 0 {
		x.ctx.Response.SetConnectionClose()
	}
}

// tooLate is why a request is answered 504.
const tooLate = "the backend did not answer in time"

// offer sends the request to one endpoint after another, until one answers.
func (x *exchange) offer(send func(*endpoint, *conn) error) {
	var last error
	for x.entry.tries < maxTries {
		e := x.verdict.choose(x.tried)
		if e == nil {
			break
		}
		x.entry.tries++
		x.entry.endpoint = e.address
		conn, err := e.connect(x.f.ctx, x.f.c.cfg.Dial, x.timeout(x.filters().Connect, defaultConnect))
		if last = err; err != nil {
			x.tried = append(x.tried, e)
			x.f.c.log.Debug("ingress: an endpoint cannot be reached", "endpoint", e.address, "error", err)
			continue
		}
		if err = send(e, conn); err == nil {
			return
		}
		conn.Close()
		if !x.again(e, err, conn.reused) {
			return
		}
	}
	if isTimeout(last) {
		x.fail(http.StatusGatewayTimeout, "no endpoint could be reached in time")
		return
	}
	x.fail(http.StatusBadGateway, "no endpoint could be reached")
}

// again tells whether a failed request may be offered once more; if not, the answer is made.
func (x *exchange) again(e *endpoint, err error, reused bool) bool {
	var refusal *refused
	switch {
	case errors.As(err, &refusal):
		x.fail(refusal.status, refusal.reason)
	case isTimeout(err):
		x.fail(http.StatusGatewayTimeout, tooLate)
	case x.began, !errors.Is(err, errUnsent) && !(closed(err) && idempotent(x.entry.method)):
		x.fail(http.StatusBadGateway, "the backend broke off")
	default:
		if reused {
			x.entry.tries-- // the connection was at fault, not the endpoint
		} else {
			x.tried = append(x.tried, e)
		}
		return true
	}
	return false
}

// refused is an error with an answer of its own.
type refused struct {
	status int
	reason string
}

func (r *refused) Error() string { return r.reason }

// statusClientGone is nginx's, for the access log: nobody is there to read it.
const statusClientGone = 499

// errUnsent is a request of which no octet left.
var errUnsent = errors.New("the request could not be sent")

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

func (x *exchange) filters() *Filters {
	if f := x.verdict.rule.Filters; f != nil {
		return f
	}
	return &noFilters
}

var noFilters Filters

func (x *exchange) timeout(asked, otherwise time.Duration) time.Duration {
	if asked > 0 {
		return asked
	}
	return otherwise
}

// exchange sends the request over a connection and takes the answer's header; the body follows while it is sent on.
func (x *exchange) exchange(e *endpoint, c *conn) error {
	f := x.filters()
	c.patience, c.watched = x.timeout(f.Read, defaultRead), x.ctx.Conn()
	if err := c.writeWithin(x.timeout(f.Send, defaultRead)); err != nil {
		return err
	}
	c.out = x.head(c.out[:0], false)
	unsent := x.send(c)
	if unsent != nil && !(x.began && (closed(unsent) || errors.Is(unsent, errAnswered))) {
		return unsent
	}
	h, err := answerHead(c.br, x.entry.method, c.fields, nil)
	c.fields = h.fields
	switch {
	case c.gone:
		return &refused{statusClientGone, "the client has gone"}
	case unsent != nil && err != nil:
		return unsent
	case err == nil && h.status == http.StatusSwitchingProtocols:
		err = errSwitched
	}
	if err != nil {
		return refuseBroken(err)
	}
	if unsent != nil { // the backend has answered without the whole body, which nobody reads now
		h.keep = false
		defer x.ctx.Response.SetConnectionClose()
	}
	return x.receive(e, c, &h)
}

// refuseBroken is the answer for a backend's that cannot be read; other errors stay.
func refuseBroken(err error) error {
	if broken(err) {
		return &refused{http.StatusBadGateway, err.Error()}
	}
	return err
}

// head writes the request's header for the backend.
func (x *exchange) head(b []byte, upgrade bool) []byte {
	v, f := &x.verdict, x.filters()
	b = append(append(b, x.entry.method...), ' ')
	b = append(append(b, v.target...), " HTTP/1.1\r\nHost: "...)
	if f.UpstreamHost != "" {
		b = append(b, f.UpstreamHost...)
	} else {
		b = append(b, x.request.Host...)
	}
	b = append(b, "\r\n"...)
	trusted := x.f.c.trusts(x.ctx.RemoteAddr())
	for i := range x.fields {
		name, value := x.fields[i].name, x.fields[i].value
		if f.Auth != nil && equalFold(name, "Authorization") {
			continue // as in ingress-nginx: the name and password were for this door
		}
		if (hopByHop(name) && !(trusted && bytes.HasPrefix(bytes.ToLower(name), []byte("x-")))) || x.named(name) {
			continue
		}
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	b = x.forwarded(b, trusted, f)
	switch {
	case upgrade:
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	case x.framing.length == -1:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case x.framing.length > 0 || x.fields.has("Content-Length"):
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), x.framing.length, 10), "\r\n"...)
	}
	if x.framing.trailer {
		b = append(b, "TE: trailers\r\n"...)
	}
	return append(b, "\r\n"...)
}

// header is a copy for net/http, without what belongs to the connection.
func (fs rawFields) header() http.Header {
	h := http.Header{}
	for i := range fs {
		if !hopByHop(fs[i].name) {
			h.Add(string(fs[i].name), string(fs[i].value))
		}
	}
	return h
}

func (fs rawFields) has(name string) bool {
	return slices.ContainsFunc(fs, func(f rawField) bool { return equalFold(f.name, name) })
}

// named tells whether the Connection field names a field as one of this connection alone.
func (x *exchange) named(name []byte) bool {
	for i := range x.fields {
		if equalFold(x.fields[i].name, "Connection") && hasToken(x.fields[i].value, string(name)) {
			return true
		}
	}
	return false
}

// forwarded writes who asked, and how.
func (x *exchange) forwarded(b []byte, trusted bool, f *Filters) []byte {
	field := func(name, value string) {
		if trusted && x.fields.has(name) {
			return
		}
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	scheme := "http"
	if x.f.tls {
		scheme = "https"
	}
	field("X-Forwarded-For", x.entry.client)
	field("X-Forwarded-Host", x.request.Host)
	field("X-Forwarded-Proto", scheme)
	field("X-Forwarded-Port", x.f.port)
	field("X-Real-IP", x.entry.client)
	if x.entry.request = ""; trusted {
		x.entry.request = x.fields.Get("X-Request-ID")
	}
	if x.entry.request == "" {
		x.entry.request = x.f.c.newID()
		b = append(append(append(b, "X-Request-ID: "...), x.entry.request...), "\r\n"...)
	}
	if f.ForwardedPrefix != "" {
		b = append(append(append(b, "X-Forwarded-Prefix: "...), f.ForwardedPrefix...), "\r\n"...)
	}
	return b
}
