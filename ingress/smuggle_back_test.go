package ingress

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// talker is a backend that answers every request on every connection with the text for its path, and keeps the connection open.
type talker struct {
	at      string
	answers map[string]string
	again   atomic.Int64 // requests that came over a connection behind one that was not for /next
	// late is what is said once more, unasked, when its time comes.
	late string
	when chan chan struct{}
}

func newTalker(t testing.TB, secure bool, answers map[string]string) *talker {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	b := &talker{at: ln.Addr().String(), answers: answers, when: make(chan chan struct{})}
	if secure {
		ln = tls.NewListener(ln, talkerTLS(t))
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go b.talk(c)
		}
	}()
	return b
}

func talkerTLS(t testing.TB) *tls.Config {
	t.Helper()
	s, _ := secretFor(t, "talker", "a")
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

func (b *talker) talk(c net.Conn) {
	first := false
	for in := bufio.NewReader(c); ; {
		q, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if first {
			b.again.Add(1)
		}
		first = q.URL.Path != "/next"
		_, _ = io.Copy(io.Discard, q.Body)
		_, _ = io.WriteString(c, b.answers[q.URL.Path])
		if first && b.late != "" {
			said := <-b.when
			_, _ = io.WriteString(c, b.late)
			close(said)
		}
	}
}

const (
	evil  = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	right = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
)

// exposeTalker is a talker that every request leads to.
func (r *rig) exposeTalker(secure bool, answers map[string]string) *talker {
	b := newTalker(r.t, secure, answers)
	r.expose("web", b.at)
	ing := ingress("web", 0, "- Prefix / web")
	if secure {
		annotate(ing, "backend-protocol", "HTTPS")
	}
	r.apply(ing)
	return b
}

// RFC 9112, 5, 6.3 and 9.2, RFC 9110, 15.2, issue 6: what a backend sends beyond or beside its answer is never another request's answer, and
// an answer that two readers could read in two ways is none: its connection ends. Each is asked for by both engines, with and without TLS.
func TestABackendCannotAnswerAnotherRequest(t *testing.T) {
	t.Parallel()
	const none = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	const coded = "5\r\nright\r\n0\r\n\r\n"
	cases := map[string]struct {
		method, text string
		status       int
		stays        bool // the connection may be used for the next request
	}{
		"an answer too many":          {"GET", none + evil, 200, false},
		"HEAD with a body":            {"HEAD", evil + evil, 200, false},
		"204 with a body":             {"GET", "HTTP/1.1 204 No Content\r\n\r\n" + evil, 204, false},
		"304 with a body":             {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n" + evil, 304, false},
		"a body longer than told":     {"GET", right + "evil", 200, false},
		"chunks and more":             {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + evil, 200, false},
		"early hints first":           {"GET", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + none, 200, true},
		"two interim answers first":   {"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nContent-Length: 9\r\n\r\n" + none, 200, true},
		"lines that end by line feed": {"GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nright", 200, true},
		"a reason that is missing":    {"GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nright", 200, true},
		"HTTP/1.0":                    {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nright", 200, false},
		"an end that is told":         {"GET", "HTTP/1.1 200 OK\r\nconnection: CLOSE\r\nContent-Length: 5\r\n\r\nright", 200, false},
		"interim answers without end": {"GET", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 1000), 502, false},
		"another protocol unasked":    {"GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + evil, 502, false},
		"two lengths":                 {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\n" + evil, 502, false},
		"two equal lengths":           {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a list of lengths":           {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil", 502, false},
		"a length that is no number":  {"GET", "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil", 502, false},
		"a length and a coding":       {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + coded, 502, false},
		"a coding and a length":       {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + coded, 502, false},
		"two codings":                 {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + coded, 502, false},
		"a coding that is unknown":    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + coded, 502, false},
		"a coding in HTTP/1.0":        {"GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n" + coded, 502, false},
		"a folded line":               {"GET", "HTTP/1.1 200 OK\r\nX: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a space before the colon":    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a zero octet in a value":     {"GET", "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a carriage return in one":    {"GET", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a line without a colon":      {"GET", "HTTP/1.1 200 OK\r\nevil\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"no status line":              {"GET", "evil\r\n\r\n" + evil, 502, false},
		"another version":             {"GET", "HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a status of two digits":      {"GET", "HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"a status of four digits":     {"GET", "HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nevil", 502, false},
		"too long a header":           {"GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*upstreamBuffer) + "\r\nContent-Length: 4\r\n\r\nevil", 502, false},
	}
	answers, paths := map[string]string{"/next": right}, map[string]string{}
	for _, name := range sortedKeys(cases) {
		paths[name] = fmt.Sprint("/", len(answers))
		answers[paths[name]] = cases[name].text
	}
	for _, secure := range []bool{false, true} {
		r := newRig(t, nil)
		b := r.exposeTalker(secure, answers)
		for engine, by := range engines(t) {
			for name, c := range cases {
				b.again.Store(0)
				for range 2 {
					if got := r.doBy(by, c.method, "a", paths[name], ""); got.StatusCode != c.status || strings.Contains(got.body, "evil") {
						t.Errorf("%s, %s, TLS %v: got %d %q, want %d", name, engine, secure, got.StatusCode, got.body, c.status)
					}
					if got := r.doBy(by, "GET", "a", "/next", ""); got.StatusCode != 200 || got.body != "right" {
						t.Errorf("%s, %s, TLS %v: the next request got %d %q", name, engine, secure, got.StatusCode, got.body)
					}
				}
				if n := b.again.Load(); (n > 0) != c.stays {
					t.Errorf("%s, %s, TLS %v: the connection was used for %d more requests", name, engine, secure, n)
				}
			}
		}
	}
}

// endpointOf is the only endpoint of the only rule of every host.
func (r *rig) endpointOf() *endpoint {
	rule := r.c.table.Load().get("").rules.all()[0]
	return rule.Backends[0].live.places.Load().endpoints[0]
}

// RFC 9112, 9.2: what a backend says long after its answer, while nobody asks, is nobody's answer either.
func TestWhatABackendSaysLateIsNobodysAnswer(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for engine, by := range engines(t) {
			r := newRig(t, nil)
			b := newTalker(t, secure, map[string]string{"/first": right, "/next": right})
			b.late = evil
			r.expose("web", b.at)
			protocol := map[bool]string{false: "HTTP", true: "HTTPS"}[secure]
			r.apply(annotate(ingress("web", 0, "- Prefix / web"), "backend-protocol", protocol))
			if got := r.doBy(by, "GET", "a", "/first", ""); got.body != "right" {
				t.Errorf("%s, TLS %v: got %q", engine, secure, got.body)
			}
			p := &r.endpointOf().pool
			idle := func() *conn {
				p.mu.Lock()
				defer p.mu.Unlock()
				if len(p.idle) == 0 {
					return nil
				}
				return p.idle[0]
			}
			r.until("the connection is kept", func() bool { return idle() != nil })
			said := make(chan struct{})
			b.when <- said
			within(t, "the late words", said)
			kept := idle()
			r.until("they have arrived", func() bool { return !kept.stands() })
			if got := r.doBy(by, "GET", "a", "/next", ""); got.body != "right" || b.again.Load() != 0 {
				t.Errorf("%s, TLS %v: the next got %q, %d requests over the connection", engine, secure, got.body, b.again.Load())
			}
		}
	}
}

// RFC 9112, 7.1 and 8: chunks that are broken are never a whole answer, and their connection is not used again.
func TestBrokenChunksOfABackendAreNoWholeAnswer(t *testing.T) {
	t.Parallel()
	const begin = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, chunks := range []string{
		"+5\r\nright\r\n0\r\n\r\n", "0x5\r\nright\r\n0\r\n\r\n", "-5\r\nright\r\n0\r\n\r\n", "5\r\nrightX\r\n0\r\n\r\n", "10000000000000005\r\nright\r\n0\r\n\r\n", "\r\nright\r\n0\r\n\r\n",
		"z\r\n", "5\r\nright\r\nnonsense\r\n",
	} {
		r := newRig(t, nil)
		b := r.exposeTalker(false, map[string]string{"/first": begin + chunks + evil, "/next": right})
		for engine, by := range engines(t) {
			for range 2 {
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.plain+"/first", nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp, err := by.RoundTrip(req); err == nil {
					if text, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode == 200 {
						t.Errorf("%s, %q: got %q as if it were whole", engine, chunks, text)
					}
					resp.Body.Close()
				}
				if got := r.doBy(by, "GET", "a", "/next", ""); got.body != "right" {
					t.Errorf("%s, %q: the next got %d %q", engine, chunks, got.StatusCode, got.body)
				}
			}
		}
		if n := b.again.Load(); n != 0 {
			t.Errorf("%q: the connection was used for %d more requests", chunks, n)
		}
	}
}

// corked is a connection whose writes leave in one piece.
type corked struct {
	net.Conn
	held []byte
	on   bool
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// RFC 9112, 9.2: nor is what TLS has read along with an answer, where neither the kernel nor a buffer of ours shows it.
func TestARecordOfTLSBehindAnAnswerIsNobodysAnswer(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	config := talkerTLS(t)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { nc.Close() })
			go func() {
				below := &corked{Conn: nc}
				c := tls.Server(below, config)
				for in := bufio.NewReader(c); ; {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					below.on = true
					_, _ = io.WriteString(c, right)
					_, _ = io.WriteString(c, evil)
					below.on = false
					_, _ = below.Write(below.held)
					below.held = nil
				}
			}()
		}
	}()
	r := newRig(t, nil)
	r.expose("web", ln.Addr().String())
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "backend-protocol", "HTTPS"))
	for engine, by := range engines(t) {
		for range 3 {
			if got := r.doBy(by, "GET", "a", "/", ""); got.body != "right" {
				t.Errorf("%s: got %d %q", engine, got.StatusCode, got.body)
			}
		}
	}
}
