package ingress

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// plainHTTP2 is a client of HTTP/2 without TLS.
func plainHTTP2(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// I-45: an HTTP/2 request under way is finished, too.
func TestStoppingLetsHTTP2RequestsFinish(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	began, finish := make(chan struct{}), make(chan struct{})
	r.expose("web", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		fmt.Fprint(w, "finished")
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	tr, got := plainHTTP2(t), make(chan string, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.plain+"/", nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		got <- string(text)
	}()
	within(t, "the request at the backend", began)
	r.stop()
	r.until("nobody is let in", func() bool {
		c, err := net.Dial("tcp", r.plain)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(finish)
	if text := within(t, "the answer", got); text != "finished" {
		t.Errorf("got %q", text)
	}
}

// I-45: what does not finish within the drain timeout is broken off: a request by either engine, and a tunnel.
func TestStoppingWaitsNoLongerThanTheDrainTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	began, never := make(chan struct{}, 3), make(chan struct{})
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") != "" {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		}
		began <- struct{}{}
		<-never
	}))
	t.Cleanup(func() { close(never) })
	r.apply(ingress("web", 0, "- Prefix / web"))
	for _, by := range []http.RoundTripper{plainHTTP2(t), &http.Transport{}} {
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.plain+"/", nil)
			if resp, err := by.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		}()
	}
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	for range 3 {
		within(t, "a request at the backend", began)
	}
	r.stop()
	within(t, "the listeners' end", r.served)
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); isTimeout(err) {
		t.Error("the tunnel still stands")
	}
}

// I-38, I-27: a WebSocket by TLS.
func TestAnUpgradeByTLSBecomesATunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		line, _ := brw.ReadString('\n')
		fmt.Fprint(c, q.Header.Get("X-Forwarded-Proto")+" "+line)
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	c, err := tls.Dial("tcp", r.secure, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	fmt.Fprint(c, "hello\n")
	if text, err := io.ReadAll(br); string(text) != "https hello\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

// I-41, I-39: an endpoint that cannot be reached is passed over by the other engine, too; when none can be, it is 502.
func TestHTTP2RequestsGoToTheNextEndpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		fmt.Fprint(w, q.Proto, " ", string(text))
	}))
	b.Config.Protocols = new(http.Protocols)
	b.Config.Protocols.SetUnencryptedHTTP2(true)
	b.Start()
	t.Cleanup(b.Close)
	r.expose("some", closedPort(t), closedPort(t), b.Listener.Addr().String())
	r.expose("none", closedPort(t), closedPort(t))
	r.apply(annotate(ingress("web", 0, "- Prefix /some some", "- Prefix /none none"), "backend-protocol", "GRPC"))
	for _, by := range []http.RoundTripper{plainHTTP2(t), http.DefaultTransport} {
		ask := func(path string) answer {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.plain+path, strings.NewReader("text"))
			return r.send(by, req)
		}
		for range 4 {
			if got := ask("/some"); got.body != "HTTP/2.0 text" {
				t.Errorf("two of three are closed: got %d %q", got.StatusCode, got.body)
			}
		}
		if got := ask("/none"); got.StatusCode != http.StatusBadGateway {
			t.Errorf("all are closed: got %d, want 502", got.StatusCode)
		}
	}
}

// I-52: the router's own model is an HTTPRoute's: a rule with conditions on path and headers, several weighted backends in other namespaces,
// and filters needs no Ingress to be made.
func TestTheRouterTakesRoutesShapedLikeHTTPRoutes(t *testing.T) {
	t.Parallel()
	tab := NewTable([]Route{{Hosts: []string{"shop.example", "*.shop.example"}, Rules: []Rule{
		{
			Field: "rules[0]", Match: Match{Kind: PathPrefix, Path: "/v2", Fields: []FieldMatch{{Name: "X-Version", Regex: regexp.MustCompile("^2")}, {Name: "X-Team", Value: "a"}}},
			Filters:  &Filters{Rewrite: &Rewrite{Pattern: regexp.MustCompile("^/v2"), Target: "/"}},
			Backends: []Backend{{Namespace: "a", Service: "two", Port: Port{Number: 80}, Weight: 3}, {Namespace: "b", Service: "three", Port: Port{Name: "http"}, Weight: 1}},
		},
		{Field: "rules[1]", Match: Match{Kind: PathPrefix, Path: "/"}, Filters: &Filters{Redirect: &Redirect{Status: 302, Location: "https://other"}}},
	}}})
	ask := func(header ...string) *Request {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &Request{Method: "GET", Host: "eu.shop.example", Path: "/v2/cart", Header: h}
	}
	both, _ := tab.Find(ask("X-Version", "2.1", "X-Team", "a"))
	if both == nil || both.Field != "rules[0]" {
		t.Fatalf("with both headers: %+v", both)
	}
	drawn := map[string]int{}
	for n := range uint64(400) {
		drawn[both.draw(spread(1, n)).String()]++
	}
	if two, three := drawn["a/two:80"], drawn["b/three:http"]; two+three != 400 || two < 298 || two > 302 {
		t.Errorf("drawn %v, want 3 to 1", drawn)
	}
	if one, _ := tab.Find(ask("X-Version", "2.1")); one == nil || one.Field != "rules[1]" {
		t.Errorf("with one header: %+v", one)
	}
}

// I-41: the read timeout is for the answer: a body that keeps coming for longer is no reason to give up, and one that stops is the client's
// fault (408), by HTTP/2 as by HTTP/1.1.
func TestALongUploadIsNotASlowBackend(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.HeaderTimeout = time.Second })
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		n, _ := io.Copy(io.Discard, q.Body)
		fmt.Fprint(w, n)
	}))
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "proxy-read-timeout", "500ms"))
	upload := func(by http.RoundTripper, parts int) (status int, text string) {
		body, send := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			pace := time.NewTicker(100 * time.Millisecond)
			defer pace.Stop()
			for range parts {
				<-pace.C
				if _, err := send.Write([]byte("part")); err != nil {
					return
				}
			}
			if parts > 1 {
				send.Close()
			}
		}()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.plain+"/", body)
		resp, err := by.RoundTrip(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		body.Close()
		<-done // a write to what is closed ends
		return resp.StatusCode, string(raw)
	}
	var both sync.WaitGroup
	for _, by := range []http.RoundTripper{plainHTTP2(t), &http.Transport{}} {
		both.Go(func() {
			if status, text := upload(by, 8); status != 200 || text != "32" {
				t.Errorf("an upload of 0.8 s: got %d %s", status, text)
			}
		})
		both.Go(func() {
			if status, text := upload(by, 1); status != http.StatusRequestTimeout {
				t.Errorf("an upload that stops: got %d %s, want 408", status, text)
			}
		})
	}
	both.Wait()
}

// I-38, I-42: a WebSocket to a backend that speaks TLS.
func TestAnUpgradeReachesABackendByTLS(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.exposeTalker(true, map[string]string{"/ws": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello\n"})
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	if line, err := br.ReadString('\n'); line != "hello\n" {
		t.Errorf("got %q, %v through the tunnel", line, err)
	}
}
