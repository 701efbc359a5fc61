package ingress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawly sends octets and returns all that comes until the connection closes.
func (r *rig) rawly(text string) string {
	r.t.Helper()
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if isTimeout(err) {
		r.t.Errorf("%q: the connection was left open after %q", text, all)
	}
	return string(all)
}

// witness is a backend that keeps what it saw of each request, in a line.
type witness struct {
	mu   sync.Mutex // guards seen
	seen []string
}

func (w *witness) serve(out http.ResponseWriter, q *http.Request) {
	text, err := io.ReadAll(q.Body)
	line := fmt.Sprintf("%s %s %s %q upgrade %q connection %q %v", q.Method, q.Host, q.RequestURI, text, q.Header.Get("Upgrade"), q.Header.Get("Connection"), err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, line)
	fmt.Fprint(out, "fine")
}

func (w *witness) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// RFC 9110, 7.8, RFC 9112, 6: an upgrade with a body is no upgrade but a request, and its body is a body, whatever it looks like; nor is
// an upgrade to what is not spoken, or by HTTP/1.0.
func TestAnUpgradeWithABodyIsARequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	w := &witness{}
	r.expose("web", backend(t, w.serve))
	r.apply(ingress("web", 0, "- Prefix / web"))
	const inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	const upgrade = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	for name, c := range map[string]struct{ text, want string }{
		"with a length":      {fmt.Sprintf("POST /x HTTP/1.1\r\n"+upgrade+"Content-Length: %d\r\n\r\n"+inner, len(inner)), fmt.Sprintf(`POST a /x %q`, inner)},
		"with chunks":        {fmt.Sprintf("POST /x HTTP/1.1\r\n"+upgrade+"Transfer-Encoding: chunked\r\n\r\n%x\r\n"+inner+"\r\n0\r\n\r\n", len(inner)), fmt.Sprintf(`POST a /x %q`, inner)},
		"in HTTP/1.0":        {"GET /x HTTP/1.0\r\n" + upgrade + "\r\n", `GET a /x ""`},
		"to HTTP/2":          {"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", `GET a /x ""`},
		"to two protocols":   {"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", `GET a /x ""`},
		"without connection": {"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", `GET a /x ""`},
	} {
		got := r.rawly(c.text + lastRequest)
		if !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("%s: answered %q", name, got)
		}
		seen := w.take()
		if len(seen) == 0 || seen[0] != c.want+` upgrade "" connection "" <nil>` {
			t.Errorf("%s: the backend saw %q, want %s without an upgrade", name, seen, c.want)
		}
		for _, line := range seen {
			if strings.HasPrefix(line, "GET a /smuggled") {
				t.Errorf("%s: the body was taken for a request: %q", name, seen)
			}
		}
	}
}

// RFC 9110, 7.8: a backend that does not upgrade has answered a request: what follows is read as one here, and never passed through. One
// that says something before it upgrades has said nothing final.
func TestOnlyTheBackendsConsentMakesATunnel(t *testing.T) {
	t.Parallel()
	const asked = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	const agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	for name, c := range map[string]struct{ text, want, next string }{
		"a plain answer":          {right, "HTTP/1.1 200", "HTTP/1.1 404"},
		"a refusal":               {"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 426", "HTTP/1.1 404"},
		"another protocol":        {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nevil", "HTTP/1.1 502", "HTTP/1.1 404"},
		"no protocol":             {"HTTP/1.1 101 Switching Protocols\r\n\r\nevil", "HTTP/1.1 502", "HTTP/1.1 404"},
		"two lengths":             {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 0\r\n\r\nevil", "HTTP/1.1 502", "HTTP/1.1 404"},
		"consent":                 {agreed + "hello", "HTTP/1.1 101", "hello"},
		"consent after a hint":    {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + agreed + "hello", "HTTP/1.1 101", "hello"},
		"a hint and then nothing": {"HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 502", "HTTP/1.1 404"},
	} {
		r := newRig(t, nil)
		r.expose("web", rawBackend(t, c.text))
		r.apply(ingress("web", 0, "- Exact /ws web"))
		got := r.rawly(asked + lastRequest) // of which the ingress knows no path
		if !strings.HasPrefix(got, c.want) || !strings.Contains(got, c.next) || strings.Contains(got, "evil") {
			t.Errorf("%s: got %q, want %s and then %q", name, got, c.want, c.next)
		}
	}
}

// RFC 9112, 9.3 and 6.1: HTTP/1.0 is kept alive when it asks for that, gets no chunks, no 100 and no tunnel; a body of unknown length ends with the
// connection, whichever the backend's protocol.
func TestHTTP10IsServedInItsOwnWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	handle := func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		fmt.Fprint(w, "one ")
		if q.URL.Path == "/flowing" {
			_ = http.NewResponseController(w).Flush()
		}
		fmt.Fprint(w, "two")
	}
	for _, protocol := range r.speaking(handle) {
		host := "Host: " + strings.ToLower(protocol) + "\r\n"
		kept := "GET /known HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n"
		got := r.raw(kept+kept+"GET /known HTTP/1.0\r\n"+host+"\r\n"+kept, 4)
		if len(got) != 3 || got[0].body != "one two" || got[1].body != "one two" || got[2].body != "one two" || !got[2].Close {
			t.Errorf("%s: two kept requests and a last one: got %v", protocol, got)
		}
		for _, a := range got {
			if len(a.TransferEncoding) > 0 {
				t.Errorf("%s: got %v, which HTTP/1.0 does not know", protocol, a.TransferEncoding)
			}
		}
		text := r.rawly("GET /flowing HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n" + kept)
		head, body, _ := strings.Cut(text, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 200") || body != "one two" || strings.Contains(strings.ToLower(head), "transfer-encoding") || !strings.Contains(head, "Connection: close") {
			t.Errorf("%s: a body of unknown length: got %q", protocol, text)
		}
		if text := r.rawly("POST /known HTTP/1.0\r\n" + host + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"); !strings.HasPrefix(text, "HTTP/1.1 200") {
			t.Errorf("%s: an expectation, which HTTP/1.0 does not have: got %q", protocol, text)
		}
	}
	r.c.access.flush()
	if n := strings.Count(r.log.String(), " /flowing HTTP/1.0 status=200 bytes=7 "); n != 4 {
		t.Errorf("%d lines of the log tell of bodies of unknown length, want 4: %s", n, r.log)
	}
}

// RFC 9112, 3.2.2: a whole target stands above the Host field: for the rule, for the backend and for what it is told.
func TestAWholeTargetStandsAboveTheHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, name := range []string{"target", "host"} {
		r.expose(name, backend(t, func(w http.ResponseWriter, q *http.Request) {
			fmt.Fprintf(w, "%s: %s %s %s", name, q.Host, q.RequestURI, q.Header.Get("X-Forwarded-Host"))
		}))
	}
	r.apply(ingress("web", 0, "target.example Prefix / target", "host.example Prefix / host"))
	for target, want := range map[string]string{
		"http://target.example/a?b": "target: target.example /a?b target.example", "http://TARGET.example:80": "target: TARGET.example:80 / TARGET.example:80",
		"http://target.example?b": "target: target.example /?b target.example", "/a": "host: host.example /a host.example",
	} {
		got := r.raw("GET "+target+" HTTP/1.1\r\nHost: host.example\r\n\r\n", 1)
		if len(got) != 1 || got[0].body != want {
			t.Errorf("%s: got %v, want %s", target, got, want)
		}
	}
}

// RFC 9110, 7.6.1 and 5.3: what a backend's connection is about stays there, however it is written, and the order of the rest is kept.
func TestFieldsOfABackendsConnectionStayThere(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", rawBackend(t, "HTTP/1.1 200 OK\r\nconnection: keep-alive, X-Hop\r\nkeep-alive: timeout=5\r\nX-A: 1\r\nx-hop: secret\r\nX-A: 2\r\nPROXY-CONNECTION: close\r\n"+
		"X-A: 3\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 5\r\n\r\nright"))
	r.apply(ingress("web", 0, "- Prefix / web"))
	for engine, by := range engines(t) {
		got := r.doBy(by, "GET", "a", "/", "")
		if got.body != "right" || strings.Join(got.Header.Values("X-A"), "") != "123" || got.Header.Get("Date") != "Thu, 01 Jan 2026 00:00:00 GMT" {
			t.Errorf("%s: got %q %v", engine, got.body, got.Header)
		}
		for _, name := range []string{"Connection", "Keep-Alive", "X-Hop", "Proxy-Connection"} {
			if got.Header.Get(name) != "" {
				t.Errorf("%s: %s came through: %v", engine, name, got.Header)
			}
		}
	}
}

// RFC 9112, 9.3.2: answers to requests that were sent in one go come in their order, each to its own.
func TestAnswersToRequestsInOneGoKeepTheirOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, "3") {
			_ = http.NewResponseController(w).Flush() // chunks
		}
		fmt.Fprint(w, q.URL.Path)
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	text := ""
	for i := range 20 {
		text += fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
	}
	br := bufio.NewReader(strings.NewReader(r.rawly(text + lastRequest)))
	for i := range 20 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != fmt.Sprint("/", i) {
			t.Errorf("answer %d is %q, %v", i, body, err)
		}
	}
}

// RFC 9110, 6.6.1: answers of the ingress's own carry their date, once.
func TestTheIngresssOwnAnswersAreDated(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("none", closedPort(t))
	r.apply(ingress("web", 0, "- Prefix /none none"))
	for engine, by := range engines(t) {
		for path, status := range map[string]int{"/": 404, "/none": 502, "/..": 400} {
			got := r.doBy(by, "GET", "a", path, "")
			if _, err := http.ParseTime(got.Header.Get("Date")); err != nil || got.StatusCode != status || len(got.Header.Values("Date")) != 1 {
				t.Errorf("%s, %s: got %d, date %q, want %d", engine, path, got.StatusCode, got.Header.Values("Date"), status)
			}
		}
	}
}

// I-42: what annotations add stands on answers and on refusals, also behind an interim answer of the backend's.
func TestFieldsThatAnnotationsAddStandBehindInterimAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", newTalker(t, false, map[string]string{"/": "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + right, "/next": "nonsense\r\n\r\n"}).at)
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "enable-cors", "true", "cors-allow-origin", "https://a"))
	for engine, by := range engines(t) {
		for path, status := range map[string]int{"/": 200, "/next": 502} {
			got := r.doBy(by, "GET", "a", path, "", "Origin", "https://a")
			if got.StatusCode != status || strings.Join(got.Header.Values("Access-Control-Allow-Origin"), "+") != "https://a" || got.Header.Get("Vary") != "Origin" {
				t.Errorf("%s, %s: got %d %v", engine, path, got.StatusCode, got.Header)
			}
		}
	}
}
