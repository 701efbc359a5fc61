package ingress

import (
	"cmp"
	"context"
	"crypto/tls"
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

// fullProxy serves HTTP/2, and speaks whatever is not HTTP/1.1 without TLS to backends. net/http does both.
type fullProxy struct {
	c          *Controller
	transports map[string]*http.Transport // by the way to speak
}

func newFullProxy(c *Controller) *fullProxy {
	p := &fullProxy{c: c, transports: map[string]*http.Transport{}}
	for _, speak := range []string{speakHTTP, speakHTTPS, speakH2C, speakH2} {
		t := &http.Transport{
			DialContext: c.cfg.Dial, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleLife, DisableCompression: true, ResponseHeaderTimeout: 0,
			// Pods' certificates are their own, as in ingress-nginx without proxy-ssl-verify.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // see above
			Protocols:       new(http.Protocols),
		}
		t.Protocols.SetHTTP1(speak == speakHTTP || speak == speakHTTPS)
		t.Protocols.SetUnencryptedHTTP2(speak == speakH2C)
		t.Protocols.SetHTTP2(speak == speakH2)
		p.transports[speak] = t
	}
	return p
}

func (p *fullProxy) close() {
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
}

// attempt sends one request to one endpoint after another. It is the http.RoundTripper of a request.
type attempt struct {
	p     *fullProxy
	v     *verdict
	entry *entry
	read  time.Duration
}

// RoundTrip offers the request to endpoints until one takes it. A body of which a part has been read stays with the first.
func (a *attempt) RoundTrip(r *http.Request) (*http.Response, error) {
	body := &watchedBody{ReadCloser: r.Body}
	var tried []*endpoint
	err := errors.New("no endpoint is left to try")
	for a.entry.tries < maxTries {
		e := a.v.choose(tried)
		if e == nil {
			break
		}
		tried = append(tried, e)
		a.entry.tries++
		a.entry.endpoint = e.address
		out := r.Clone(r.Context())
		if r.Body != nil && r.Body != http.NoBody {
			out.Body = io.NopCloser(body)
		}
		out.URL.Host, out.URL.Scheme = e.address, "http"
		if a.v.places.speak == speakHTTPS || a.v.places.speak == speakH2 {
			out.URL.Scheme = "https"
		}
		var answer *http.Response
		if answer, err = a.once(out, body); err == nil {
			return answer, nil
		}
		var op *net.OpError
		if r.Context().Err() != nil || body.began || !errors.As(err, &op) || op.Op != "dial" {
			break
		}
	}
	return nil, err
}

// once bounds the wait for the answer's header, from the last part of the request's body on: both bodies may take as long as they flow.
func (a *attempt) once(r *http.Request, body *watchedBody) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	wait := newPatience(a.read, func() { cancel(context.DeadlineExceeded) })
	body.wait.Store(wait)
	answer, err := a.p.transports[a.v.places.speak].RoundTrip(r.WithContext(ctx))
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
	case err != nil || r.Method == http.MethodConnect || !validHost(r.Host):
		v.answer(http.StatusBadRequest, "the request's target is broken")
	case !oneLength(r.Header["Content-Length"]):
		v.answer(http.StatusBadRequest, errLengths.Error())
	default:
		client := f.c.client(netip4(r.RemoteAddr), r.Header)
		q := Request{Method: r.Method, Host: cmp.Or(host, r.Host), Path: path, Query: query, Header: r.Header, TLS: f.tls, Client: client}
		f.c.decide(&q, r.ContentLength, v)
	}
}

func (f *front) serveFull(w *counted, r *http.Request, v *verdict, e *entry) {
	f.decideFull(r, v)
	for _, field := range v.fields {
		w.Header().Add(field.Name, field.Value)
	}
	if v.status != 0 {
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
	if speak := v.places.speak; speak != speakH2C && speak != speakH2 { // a gRPC stream may be silent for as long as it likes
		r.Body = &patientBody{r.Body, http.NewResponseController(w), f.c.cfg.HeaderTimeout}
	}
	if filters.MaxBody > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, filters.MaxBody)
	}
	if filters.Mirror != "" {
		f.mirror(filters.Mirror, r.Method, v.target, r.Header)
	}
	proxy := httputil.ReverseProxy{
		Transport: &attempt{p: f.c.full, v: v, entry: e, read: cmp.Or(filters.Read, defaultRead)}, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite:      func(p *httputil.ProxyRequest) { f.rewriteFull(p, v, e, filters) },
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
	out.Header.Del("X-Forwarded-Prefix")
	if filters.ForwardedPrefix != "" {
		out.Header.Set("X-Forwarded-Prefix", filters.ForwardedPrefix)
	}
	if _, ok := in.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // net/http would name itself
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
		status, reason = http.StatusGatewayTimeout, "the backend did not answer in time"
	}
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
	x.entry.request = x.f.c.newID()
	x.f.rewriteFull(&httputil.ProxyRequest{In: in, Out: r}, v, &x.entry, f)
	if x.framing.length != 0 {
		r.ContentLength = x.framing.length
		r.Body = io.NopCloser(x.ctx.RequestBodyStream())
		if f.MaxBody > 0 {
			r.Body = http.MaxBytesReader(nil, r.Body, f.MaxBody)
		}
	}
	answer, err := (&attempt{p: x.f.c.full, v: v, entry: &x.entry, read: x.timeout(f.Read, defaultRead)}).RoundTrip(r)
	if err != nil {
		cancel()
		x.began = x.framing.length != 0
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			x.fail(http.StatusRequestEntityTooLarge, "the body is too large")
		case isTimeout(err):
			x.fail(http.StatusGatewayTimeout, "the backend did not answer in time")
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
		if !hopByHop([]byte(name)) {
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
	x.ctx.Response.ImmediateHeaderFlush = true
	x.ctx.Response.SetBodyStream(&fullBody{ReadCloser: answer.Body, cancel: cancel}, max(length, -1))
}

// fullBody ends the request when the answer has been read.
type fullBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close ends it.
func (b *fullBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
