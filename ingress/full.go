package ingress

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fullProxy serves HTTP/2, and speaks it to backends. net/http does both.
type fullProxy struct {
	c          *Controller
	transports map[string]*http.Transport // by the way to speak
	mirrors    *http.Transport
}

// connectWithin is the key of a context's value: how long a connection may take to be made.
type connectWithin struct{}

func newFullProxy(c *Controller) *fullProxy {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if d, ok := ctx.Value(connectWithin{}).(time.Duration); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
		}
		return c.cfg.Dial(ctx, network, address)
	}
	p := &fullProxy{c: c, transports: map[string]*http.Transport{}}
	for _, speak := range []string{speakH2C, speakH2} {
		t := &http.Transport{
			DialContext: dial, IdleConnTimeout: idleLife, DisableCompression: true, TLSHandshakeTimeout: defaultConnect, TLSClientConfig: backendTLS(""),
			Protocols: new(http.Protocols),
		}
		t.Protocols.SetUnencryptedHTTP2(speak == speakH2C)
		t.Protocols.SetHTTP2(speak == speakH2)
		p.transports[speak] = t
	}
	// A mirror's connections are not kept: net/http would print to the standard log what such a backend says unasked.
	p.mirrors = &http.Transport{DialContext: c.cfg.Dial, DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: backendTLS("")}
	return p
}

func (p *fullProxy) close() {
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
}

// attempt sends one request to one endpoint after another. It is the http.RoundTripper of a request.
type attempt struct {
	p                   *fullProxy
	v                   *verdict
	entry               *entry
	connect, read, send time.Duration
	trailer             http.Header // of the request; filled when its body has been read
	wake                func()      // ends a read of the request's body: closing it would not, as httputil.ReverseProxy keeps it open
}

func (p *fullProxy) attempt(v *verdict, e *entry, f *Filters) *attempt {
	return &attempt{p: p, v: v, entry: e, connect: cmp.Or(f.Connect, defaultConnect), read: cmp.Or(f.Read, defaultRead), send: cmp.Or(f.Send, defaultRead)}
}

// RoundTrip offers the request to endpoints until one takes it. A body of which a part has been read stays with the first.
func (a *attempt) RoundTrip(r *http.Request) (*http.Response, error) {
	body := &watchedBody{ReadCloser: r.Body}
	r = r.WithContext(context.WithValue(r.Context(), connectWithin{}, a.connect))
	var tried []*endpoint
	err := errors.New("no endpoint is left to try")
	for a.entry.tries < maxTries {
		e := a.v.choose(tried)
		if e == nil {
			break
		}
		a.entry.tries++
		a.entry.endpoint = e.address
		out := r.Clone(r.Context())
		if r.Body != nil && r.Body != http.NoBody {
			out.Body = io.NopCloser(body)
		}
		out.URL.Host, out.URL.Scheme = e.address, "http"
		if a.v.places.speak == speakH2 {
			out.URL.Scheme = "https"
		}
		var answer *http.Response
		if answer, err = a.once(out, e, body); err == nil {
			return answer, nil
		}
		if r.Context().Err() != nil || body.began || !elsewhere(err) {
			break
		}
		if errors.Is(err, errStale) {
			a.entry.tries-- // the connection was at fault, not the endpoint
		} else {
			tried = append(tried, e)
		}
	}
	return nil, err
}

// elsewhere tells whether nothing of a request has reached anybody.
func elsewhere(err error) bool {
	var op *net.OpError
	var none unreached
	return errors.As(err, &none) || errors.Is(err, errStale) || (errors.As(err, &op) && op.Op == "dial")
}

func (a *attempt) roundTrip(r *http.Request, e *endpoint) (*http.Response, error) {
	if t := a.p.transports[a.v.places.speak]; t != nil {
		return t.RoundTrip(r)
	}
	return a.plain(r, e)
}

// once bounds the wait for the answer's header, from the last part of the request's body on: both bodies may take as long as they flow.
func (a *attempt) once(r *http.Request, e *endpoint, body *watchedBody) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	wait := newPatience(a.read, func() { cancel(context.DeadlineExceeded) })
	body.wait.Store(wait)
	answer, err := a.roundTrip(r.WithContext(ctx), e)
	if !wait.end() || err != nil {
		if cause := context.Cause(ctx); cause != nil && err != nil {
			err = errors.Join(cause, err)
		}
		cancel(nil)
		if answer != nil {
			answer.Body.Close()
			err = context.DeadlineExceeded
		}
		return nil, err
	}
	context.AfterFunc(r.Context(), func() { cancel(nil) })
	return answer, nil
}

// handler serves requests of a listener that are not HTTP/1.1.
func (f *front) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v verdict
		peer := netip4(r.RemoteAddr)
		e := entry{at: time.Now(), client: peer.String(), method: r.Method, host: r.Host, target: r.RequestURI, proto: r.Proto, request: f.c.newID()}
		answer := &counted{ResponseWriter: w}
		f.serveFull(answer, r, &v, &e)
		e.status, e.sent, e.took = answer.status, answer.sent, time.Since(e.at)
		finish(f.c, &e, &v)
	})
}

// decideFull checks what net/http has read once more, and asks the routes.
func (f *front) decideFull(r *http.Request, v *verdict) {
	host, path, query, err := splitTarget([]byte(r.RequestURI), r.Method)
	switch {
	case err != nil || host != "" || r.Method == http.MethodConnect:
		v.answer(http.StatusBadRequest, errTarget.Error())
	case r.Host == "" || !validHost(r.Host) || len(r.Header["Host"]) > 1 || !strings.EqualFold(cmp.Or(r.Header.Get("Host"), r.Host), r.Host):
		v.answer(http.StatusBadRequest, errHost.Error()) // RFC 9113, 8.3.1
	case r.Method == http.MethodTrace && r.Body != http.NoBody:
		v.answer(http.StatusBadRequest, errTrace.Error())
	case !oneLength(r.Header["Content-Length"]):
		v.answer(http.StatusBadRequest, errLengths.Error())
	default:
		client := f.c.client(netip4(r.RemoteAddr), r.Header)
		q := Request{Method: r.Method, Host: r.Host, Path: path, Query: query, Header: r.Header, TLS: f.overTLS(netip4(r.RemoteAddr), r.Header), Client: client}
		f.c.decide(&q, r.ContentLength, v)
	}
}

// refuseBody reads a body that is told to be empty to its end: else the request would be sent on before it shows that it is not.
func (f *front) refuseBody(w http.ResponseWriter, r *http.Request, v *verdict) {
	if r.Body == http.NoBody {
		return
	}
	body := &patientBody{r.Body, http.NewResponseController(w), f.c.cfg.HeaderTimeout}
	if _, err := io.ReadFull(body, make([]byte, 1)); errors.Is(err, errSlow) {
		v.answer(http.StatusRequestTimeout, errSlow.Error())
	} else if !errors.Is(err, io.EOF) {
		v.answer(http.StatusBadRequest, errLengths.Error())
	}
	r.Body = http.NoBody
}

func (f *front) serveFull(w *counted, r *http.Request, v *verdict, e *entry) {
	if r.ContentLength == 0 {
		f.refuseBody(w, r, v)
	}
	if v.status == 0 {
		f.decideFull(r, v)
	}
	if v.status != 0 {
		v.dress(w.Header())
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(v.status)
		if v.status != http.StatusNoContent {
			_, _ = io.WriteString(w, body(v.status, v.reason))
		}
		return
	}
	filters := &noFilters
	if v.rule.Filters != nil {
		filters = v.rule.Filters
	}
	stream := http.NewResponseController(w)
	if speak := v.places.speak; speak != speakH2C && speak != speakH2 { // a gRPC stream may be silent for as long as it likes
		r.Body = &patientBody{r.Body, stream, f.c.cfg.HeaderTimeout}
	}
	if filters.MaxBody > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, filters.MaxBody)
	}
	if filters.Mirror != "" {
		f.mirror(filters, r.Method, r.RequestURI, r.Header)
	}
	to := f.c.full.attempt(v, e, filters)
	to.trailer, to.wake = r.Trailer, func() { _ = stream.SetReadDeadline(time.Unix(1, 0)) }
	proxy := httputil.ReverseProxy{
		Transport: to, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(p *httputil.ProxyRequest) { f.rewriteFull(p, v, e, filters) },
		ModifyResponse: func(answer *http.Response) error {
			v.dress(answer.Header) // not before: the proxy clears what stands there when it passes an interim answer
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { failFull(w, v, err) },
	}
	proxy.ServeHTTP(w, r)
}

// oneLength tells whether a body's length is told once, as a number, or not at all. net/http takes the first of several, and none for
// what is no number.
func oneLength(values []string) bool {
	if len(values) == 0 {
		return true
	}
	_, ok := number([]byte(values[0]))
	return ok && len(values) == 1
}

func (f *front) rewriteFull(p *httputil.ProxyRequest, v *verdict, e *entry, filters *Filters) {
	out, in := p.Out, p.In
	path, query, asked := strings.Cut(v.target, "?")
	out.URL = &url.URL{Scheme: "http", Host: "endpoint", RawPath: path, Path: path, RawQuery: query, ForceQuery: asked}
	if decoded, err := url.PathUnescape(path); err == nil {
		out.URL.Path = decoded
	}
	out.Host = in.Host
	if filters.UpstreamHost != "" {
		out.Host = filters.UpstreamHost
	}
	scheme := "http"
	if f.tls {
		scheme = "https"
	}
	trusted := f.c.trusted(netip4(in.RemoteAddr))
	set := func(name, value string) {
		if values := in.Header.Values(name); trusted && len(values) > 0 {
			out.Header[name] = slices.Clone(values)
			return
		}
		out.Header.Set(name, value)
	}
	set("X-Forwarded-For", e.client)
	set("X-Forwarded-Host", in.Host)
	set("X-Forwarded-Proto", scheme)
	set("X-Forwarded-Port", f.port)
	set("X-Real-Ip", e.client)
	set("X-Request-Id", e.request)
	if filters.Auth != nil {
		out.Header.Del("Authorization") // as in ingress-nginx: the name and password were for this door
	}
	out.Header.Del("X-Forwarded-Prefix")
	if filters.ForwardedPrefix != "" {
		out.Header.Set("X-Forwarded-Prefix", filters.ForwardedPrefix)
	}
	if _, ok := in.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // net/http would name itself
	}
}

// dress adds the fields that the filters ask for.
func (v *verdict) dress(to http.Header) {
	for i := range v.fields {
		if f := &v.fields[i]; f.joins() {
			to.Add(f.Name, f.Value)
		} else {
			to.Set(f.Name, f.Value)
		}
	}
}

func failFull(w http.ResponseWriter, v *verdict, err error) {
	status, reason := http.StatusBadGateway, "no endpoint could be reached"
	var large *http.MaxBytesError
	switch {
	case errors.Is(err, errSlow):
		status, reason = http.StatusRequestTimeout, errSlow.Error()
	case errors.As(err, &large):
		status, reason = http.StatusRequestEntityTooLarge, "the body is too large"
	case isTimeout(err):
		status, reason = http.StatusGatewayTimeout, tooLate
	}
	v.dress(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body(status, reason))
}

// counted knows the status and the octets of an answer.
type counted struct {
	http.ResponseWriter
	status int
	sent   int64
}

// WriteHeader keeps the final status.
func (c *counted) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (c *counted) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(p)
	c.sent += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find what the writer can.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// full sends a request that came by HTTP/1.1 to a backend that speaks something else.
func (x *exchange) full() {
	v, f := &x.verdict, x.filters()
	ctx, cancel := context.WithCancel(x.f.ctx)
	r, err := http.NewRequestWithContext(ctx, x.entry.method, "http://endpoint/", nil)
	if err != nil {
		cancel()
		x.fail(http.StatusBadRequest, "the request cannot be sent on")
		return
	}
	in := &http.Request{Host: x.request.Host, RemoteAddr: x.ctx.RemoteAddr().String(), Header: http.Header{}}
	for _, field := range x.fields {
		name := http.CanonicalHeaderKey(string(field.name))
		in.Header.Add(name, string(field.value))
		if !hopByHop(field.name) && !x.named(field.name) {
			r.Header.Add(name, string(field.value))
		}
	}
	if x.framing.trailer {
		r.Header.Set("Te", "trailers")
	}
	watch(ctx, x.ctx.Conn(), cancel)
	x.entry.request = x.f.c.newID()
	x.f.rewriteFull(&httputil.ProxyRequest{In: in, Out: r}, v, &x.entry, f)
	if x.framing.length != 0 {
		r.ContentLength = x.framing.length
		r.Body = io.NopCloser(x.ctx.RequestBodyStream())
		if f.MaxBody > 0 {
			r.Body = http.MaxBytesReader(nil, r.Body, f.MaxBody)
		}
	}
	answer, err := x.f.c.full.attempt(v, &x.entry, f).RoundTrip(r)
	if err != nil {
		gone := ctx.Err() != nil && x.f.ctx.Err() == nil
		cancel()
		x.began = x.framing.length != 0
		var large *http.MaxBytesError
		switch {
		case gone:
			x.fail(statusClientGone, "the client has gone")
		case errors.As(err, &large):
			x.fail(http.StatusRequestEntityTooLarge, "the body is too large")
		case isTimeout(err):
			x.fail(http.StatusGatewayTimeout, tooLate)
		default:
			x.fail(http.StatusBadGateway, "no endpoint could be reached")
		}
		return
	}
	x.relay(answer, cancel)
}

// relay makes the answer from one that net/http has read.
func (x *exchange) relay(answer *http.Response, cancel context.CancelFunc) {
	h := &x.ctx.Response.Header
	x.ctx.Response.SetStatusCode(answer.StatusCode)
	for name, values := range answer.Header {
		if name != "Content-Length" && !ofConnection([]byte(name)) && !replaced([]byte(name), x.verdict.fields) {
			for _, value := range values {
				h.Add(name, value)
			}
		}
	}
	x.dress()
	length := int(answer.ContentLength)
	if x.entry.method == http.MethodHead || length == 0 {
		if length >= 0 {
			h.Set("Content-Length", strconv.Itoa(length))
		}
		x.ctx.Response.SkipBody = true
		answer.Body.Close()
		cancel()
		return
	}
	x.sentLater = true
	stream := &fullBody{ReadCloser: answer.Body, x: x, cancel: cancel}
	if x.http10 && length < 0 {
		if ending := (&ending{cancel}); x.f.tunnels.add(ending) {
			x.untilClose(stream, ending)
			return
		}
		cancel() // the listener's drain is over: half an answer is none
	}
	x.ctx.Response.ImmediateHeaderFlush = true
	x.ctx.Response.SetBodyStream(stream, max(length, -1))
}

// ending is a request that is under way, for the tunnels.
type ending struct{ cancel context.CancelFunc }

// Close ends it.
func (e *ending) Close() error {
	e.cancel()
	return nil
}

// fullBody ends and counts the request when the answer has been read.
type fullBody struct {
	io.ReadCloser
	x      *exchange
	cancel context.CancelFunc
	sent   int64
}

// Read counts.
func (b *fullBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.sent += int64(n)
	return n, err
}

// Close ends it. It is called once more by the library when a connection breaks.
func (b *fullBody) Close() error {
	if b.x == nil {
		return nil
	}
	err := b.ReadCloser.Close()
	b.cancel()
	x := b.x
	b.x = nil
	x.done(b.sent)
	return err
}
