package ingress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// lastRequest follows whatever is sent raw, so that a connection that still stands ends.
const lastRequest = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// rawRig sends octets through the ingress and compares what the backend saw with what another reader, net/http's, makes of them.
type rawRig struct {
	*rig
	mu   sync.Mutex // guards seen
	seen []string
}

func newRawRig(t testing.TB) *rawRig {
	t.Helper()
	r := &rawRig{rig: newRig(t, func(c *Config) { c.HeaderTimeout = 60 * time.Millisecond })}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		text, whole := read(q)
		if !whole {
			return // broken off: a request that nobody takes for one
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen = append(r.seen, text)
	}))
	s.Config.DisableGeneralOptionsHandler = true
	s.Start()
	t.Cleanup(s.Close)
	r.expose("web", s.Listener.Addr().String())
	r.apply(ingress("web", 0, "- Prefix / web"))
	return r
}

// read is a request in a form that can be compared, and whether all of it was there. Targets are compared as they are sent to
// backends, without a host.
func read(q *http.Request) (string, bool) {
	body, err := io.ReadAll(q.Body)
	target := q.RequestURI
	if q.URL.Host != "" {
		target = q.URL.RequestURI()
		if _, after, ok := strings.Cut(q.RequestURI, "://"); ok { // as it was written, not as it is escaped
			if at := strings.IndexAny(after, "/?"); at >= 0 {
				target = "/" + strings.TrimPrefix(after[at:], "/")
			}
		}
	}
	return fmt.Sprintf("%s %s %s %q", q.Method, q.Host, target, body), err == nil
}

// expected is what net/http reads of the octets, up to the first thing that it cannot.
func expected(text []byte) []string {
	var all []string
	br := bufio.NewReader(bytes.NewReader(text))
	for {
		skipEmptyLines(br)
		q, err := http.ReadRequest(br)
		if err != nil {
			return all
		}
		one, whole := read(q)
		if !whole {
			return all
		}
		all = append(all, one)
	}
}

// skipEmptyLines: before a request they do not count (RFC 9112, 2.2).
func skipEmptyLines(br *bufio.Reader) {
	for {
		next, _ := br.Peek(2)
		switch {
		case string(next) == "\r\n":
			_, _ = br.Discard(2)
		case len(next) > 0 && next[0] == '\n':
			_, _ = br.Discard(1)
		default:
			return
		}
	}
}

var statusLine = regexp.MustCompile(`HTTP/1\.1 ([2-5]\d\d)`)

// check sends octets and holds what came of them against the other reader. It returns how many requests the backend saw.
func (r *rawRig) check(t testing.TB, text []byte) int {
	t.Helper()
	text = append(text[:len(text):len(text)], lastRequest...)
	r.mu.Lock()
	r.seen = nil
	r.mu.Unlock()
	c, err := net.Dial("tcp", r.plain)
	if err == nil {
		defer c.Close()
		err = c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	if err != nil {
		t.Error(err)
		return 0
	}
	_, _ = c.Write(text) // refused before all was sent: the answer says so
	answer, err := io.ReadAll(c)
	if isTimeout(err) {
		t.Errorf("%q: the connection was left open after %q", text, answer)
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	want := expected(text)
	if len(r.seen) > len(want) {
		t.Errorf("%q\nthe backend saw %d requests, another reader sees %d:\n%q\n%q", text, len(r.seen), len(want), r.seen, want)
		return 0
	}
	for i, one := range r.seen {
		if one != want[i] {
			t.Errorf("%q\nrequest %d differs: the backend saw %s, another reader sees %s", text, i, one, want[i])
		}
	}
	fine := 0
	for _, status := range statusLine.FindAllSubmatch(answer, -1) {
		if status[1][0] == '2' {
			fine++
		}
	}
	if err == nil && fine != len(r.seen) {
		t.Errorf("%q\n%d requests were answered well, the backend saw %d: %q\n%q", text, fine, len(r.seen), r.seen, answer)
	}
	return len(r.seen)
}

// parts is what random requests are made of: right forms, and all kinds of wrong ones.
var parts = struct{ methods, targets, versions, ends, fields, bodies []string }{
	methods: []string{"GET", "POST", "PUT", "OPTIONS", "PATCH", "get", "G\x00T", "CONNECT", "TRACE", "M-SEARCH", "", "GET "},
	targets: []string{
		"/", "/a", "/a%2fb", "/a/../b", "//x", "*", "http://other/p?q", "http://other", "HTTP://o/x", "https://o:1/x", "a", "a:80", "/a#b", "/%zz", "/\x80", "/a?b=%00", "/;x",
		"http://u@h/", "http:///x", "/a b", "/\tx", "/?", "?", "http://other?x=/y", "/%", "/a?%zz",
	},
	versions: []string{"HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/01.1", "HTTP/1.1\x00", ""},
	ends:     []string{"\r\n", "\n", "\r", "\r\r\n", " \r\n", "\r\n ", "\x00\r\n", "\n\r\n"},
	fields: []string{
		"Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0", "Content-Length: 05", "Content-Length: 5,5", "Content-Length: +5", "Content-Length: 5 ",
		"content-length:5", "Content_Length: 7", "Content-Length : 5", "Content-Length: 0x5", "Content-Length: 99999999999999999999", "Content-Length: \v5", "Transfer-Encoding: identity",
		"Transfer-Encoding: chunked, chunked", "Transfer-Encoding: gzip, chunked", "transfer-encoding:\tchunked\t", "Transfer-Encoding: xchunked", "Transfer-Encoding:",
		"Transfer-Encoding : chunked", "Transfer-Encoding\x00: chunked", "\tTransfer-Encoding: chunked", "X: 1\r\n Transfer-Encoding: chunked", "X: 1\r\n\tContent-Length: 5",
		"Connection: Content-Length", "Connection: Transfer-Encoding", "Connection: Host, close", "Connection: keep-alive", "Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket",
		"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Expect: 100-continue", "Expect: 200-ok", "TE: trailers, deflate", "Trailer: Content-Length", "Host: b", "Host:", "Host: a:80:80", "Host : b",
		"X: \x7f", "X: \xff", "X", ":x", "X-Forwarded-For: 1.1.1.1", "X: " + strings.Repeat("y", 40<<10), "Proxy-Connection: close", "Keep-Alive: timeout=1",
	},
	bodies: []string{
		"", "hello", "5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\n\r\n", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "05\r\nhello\r\n000\r\n\r\n",
		"0\r\n\r\n", "0\r\nContent-Length: 9\r\n\r\n", "0\r\nX: 1\nY: 2\r\n\r\n", "0\r\n X: 1\r\n\r\n", "0\n\n", "5\nhello\n0\n\n", "5\r\nhelloX\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n",
		"5\rhello\r\n0\r\n\r\n", "\r\n5\r\nhello\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", "5\r\nhel", "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n", "5\x00\r\nhello\r\n0\r\n\r\n",
	},
}

// random is one to three requests, most of their parts right.
func random(draw *rand.Rand) []byte {
	pick := func(of []string, right int) string { // mostly one of the first
		if draw.IntN(20) > 0 {
			return of[draw.IntN(right)]
		}
		return of[draw.IntN(len(of))]
	}
	var b bytes.Buffer
	for range 1 + draw.IntN(3) {
		end := func() string { return pick(parts.ends, 1) }
		fmt.Fprint(&b, pick(parts.methods, 3), " ", pick(parts.targets, 5), " ", pick(parts.versions, 1), end())
		if draw.IntN(10) > 0 {
			fmt.Fprint(&b, "Host: a", end())
		}
		body := ""
		switch draw.IntN(4) {
		case 0:
			body = "hello"
			fmt.Fprint(&b, pick(parts.fields, 1), end())
		case 1:
			body = pick(parts.bodies[2:], 3)
			fmt.Fprint(&b, "Transfer-Encoding: chunked", end())
		case 2:
			body = pick(parts.bodies, 3)
			fmt.Fprint(&b, parts.fields[draw.IntN(len(parts.fields))], end())
		}
		for range draw.IntN(3) {
			fmt.Fprint(&b, pick(parts.fields[24:], 12), end())
		}
		fmt.Fprint(&b, end(), body)
	}
	return b.Bytes()
}

// RFC 9112, issue 6: of any octets whatever, the backend sees just the requests that another strict reader sees in them, in their order, or
// fewer: where the ingress is in doubt it refuses.
func TestABackendSeesNoRequestThatAnotherReaderDoesNot(t *testing.T) {
	t.Parallel()
	var whole sync.WaitGroup
	for seed := range uint64(4) {
		r := newRawRig(t)
		whole.Go(func() {
			draw := rand.New(rand.NewPCG(seed, 1))
			seen := 0
			for range 250 {
				if seen += r.check(t, random(draw)); t.Failed() {
					return
				}
			}
			t.Logf("%d came through", seen)
			if seen < 100 {
				t.Errorf("only %d requests came through: this proves little", seen)
			}
		})
	}
	whole.Wait()
}

// FuzzRawRequests is the same over octets that the fuzzer finds.
func FuzzRawRequests(f *testing.F) {
	for _, text := range smuggled {
		f.Add([]byte(text))
	}
	for seed := range uint64(20) {
		f.Add(random(rand.New(rand.NewPCG(seed, 2))))
	}
	r := newRawRig(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		r.check(t, text)
	})
}
