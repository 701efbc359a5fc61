package ingress

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// smuggled is requests that two readers could read differently, or that RFC 9112 forbids. Each is followed by a second request
// that must never reach the backend.
var smuggled = map[string]string{
	"a length and a coding":            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"a coding and a length":            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"two lengths":                      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
	"two equal lengths":                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"a list of lengths":                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
	"a length with a sign":             "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
	"a negative length":                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
	"a length in hexadecimal":          "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
	"a length beyond 64 bits":          "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
	"an empty length":                  "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
	"a length with a space inside":     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nhello",
	"an unknown coding":                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"identity":                         "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
	"a coding with a tail":             "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n",
	"a coding in quotes":               "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
	"two codings":                      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
	"a coding with a vertical tab":     "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"a space before the colon":         "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"a space before a name":            "POST / HTTP/1.1\r\n Host: a\r\nContent-Length: 5\r\n\r\nhello",
	"a folded line":                    "POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
	"a bare line feed":                 "POST / HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\nhello",
	"a bare line feed at the end":      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\nhello",
	"a bare carriage return":           "POST / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 5\r\n\r\nhello",
	"a zero octet in a value":          "POST / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
	"a zero octet in a name":           "POST / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
	"a line without a colon":           "POST / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
	"an empty name":                    "POST / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
	"a name in brackets":               "POST / HTTP/1.1\r\nHost: a\r\nX(y): x\r\n\r\n",
	"no host":                          "GET / HTTP/1.1\r\n\r\n",
	"two hosts":                        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	"a host with a path":               "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
	"a host with a user":               "GET / HTTP/1.1\r\nHost: x@a\r\n\r\n",
	"a coding in HTTP/1.0":             "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"an unknown version":               "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
	"HTTP/2 in a line":                 "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
	"no version":                       "GET /\r\n\r\n",
	"a space in the target":            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
	"two spaces before the target":     "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
	"a tab in the line":                "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"a control octet in the target":    "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
	"a fragment":                       "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
	"a target that is a name":          "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
	"CONNECT":                          "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
	"a broken method":                  "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
	"a chunk's size with a sign":       "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
	"a chunk's size with 0x":           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
	"a chunk's size beyond 64 bits":    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
	"a chunk longer than it says":      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
	"a chunk that ends by a line feed": "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
	"a chunk's line by a line feed":    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
	"a chunk without a size":           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
	"a space before a chunk's size":    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
	"a negative chunk's size":          "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
	"a chunk's size with a separator":  "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n",
	"a line feed in an extension":      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
	"a last chunk by a line feed":      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n",
	"a trailer that is no field":       "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y\r\n\r\n",
	"a length and a coding by a tab":   "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
	"a coding named twice in a list":   "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
	"an empty coding":                  "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
	"a tab before the colon":           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\nhello",
	"a target of another scheme":       "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"a target whose host has a user":   "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"TRACE with a body":                "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
	"TRACE with chunks":                "TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"CONNECT with a body":              "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello",
	"CONNECT of a path":                "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
	"CONNECT of an address":            "CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"two equal hosts":                  "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
	"a list of hosts":                  "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
	"a host with a space":              "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
	"a host that is folded":            "GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n",
	"two hosts in HTTP/1.0":            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\nConnection: keep-alive\r\n\r\n",
	"a whole target without a host":    "GET http://a/ HTTP/1.1\r\n\r\n",
	"a whole target and two hosts":     "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
	"a whole target without a name":    "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
	"a star that is no OPTIONS":        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
	"two returns at a line's end":      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\r\n\r\nhello",
	"a version in small letters":       "GET / http/1.1\r\nHost: a\r\n\r\n",
	"HTTP/1.0 kept, with a coding":     "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.0 with length and coding":  "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"an upgrade with length, coding":   "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}

// otherVersions are refused by another status than 400: what they say is clear, but it is not spoken.
var otherVersions = map[string]int{"an unknown version": 505, "HTTP/2 in a line": 505}

// RFC 9112 (issue 6, request smuggling): refused, the connection closed, and nothing behind it read as a request.
func TestWhatCouldBeReadTwoWaysIsRefused(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	r := newRig(t, nil)
	r.expose("web", backend(t, func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		if q.URL.Path == "/smuggled" {
			reached.Add(1)
		}
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	for name, text := range smuggled {
		got := r.raw(text+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 2)
		if len(got) != 1 || got[0].StatusCode != cmp.Or(otherVersions[name], 400) || !got[0].Close {
			t.Errorf("%s: got %d answers, the first %v; want one refusal and an end", name, len(got), got)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d smuggled requests reached the backend", n)
	}
}

// RFC 9112, 7.1: what stands behind a chunked body is never read as a request, as its end and its trailers can be read two ways; not even
// when the ingress answered without sending it on.
func TestNothingIsReadBehindAChunkedBody(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	r := newRig(t, nil)
	r.expose("web", backend(t, func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		if q.URL.Path == "/web/smuggled" {
			reached.Add(1)
		}
	}))
	r.apply(ingress("web", 0, "- Prefix /web web"))
	for _, path := range []string{"/web", "/nowhere"} {
		for _, trailers := range []string{"X: 1\n\r\n", "X: 1\r\n y\r\n\r\n", "X: 1\r\n\r\n", "\n", ": 1\n\r\n", ": 1\r\n\r\n", " X: 1\r\n\r\n", "X: 1\n\n", "X : 1\r\n\r\n", "\r\n"} {
			text := "POST " + path + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + trailers
			if got := r.raw(text+"GET /web/smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 2); len(got) > 1 {
				t.Errorf("%s, %q: %d answers", path, trailers, len(got))
			}
			if n := reached.Swap(0); n != 0 {
				t.Errorf("%s, %q: what stood behind it reached the backend", path, trailers)
			}
		}
	}
}

// RFC 9112: what is right, in all its forms, keeps working on one connection; a chunked request is the last one on its own.
func TestRequestsOfEveryRightFormShareAConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "%s %s %s %s", q.Method, q.Host, q.RequestURI, text)
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	requests := []struct{ text, want string }{
		{"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /a "},
		{"POST /b HTTP/1.1\r\nhost:h\r\ncontent-length: 5\r\n\r\nhello", "POST h /b hello"},
		{"GET http://other/d?x HTTP/1.1\r\nHost: h\r\n\r\n", "GET other /d?x "},
		{"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS h * "},
		{"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "POST h /f "},
	}
	for _, q := range []struct{ text, want string }{
		{"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "POST h /c hello world"},
		{"POST /e HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n1\r\nx\r\n0\r\nX-T: 1\r\n\r\n", "POST h /e x"},
	} {
		if got := r.raw(q.text, 1); len(got) != 1 || got[0].StatusCode != 200 || got[0].body != q.want || !got[0].Close {
			t.Errorf("%q: got %v, want %q and an end", q.text, got, q.want)
		}
	}
	all := ""
	for _, q := range requests {
		all += q.text
	}
	got := r.raw(all, len(requests))
	if len(got) != len(requests) {
		t.Fatalf("got %d answers, want %d: %v", len(got), len(requests), got)
	}
	for i, q := range requests {
		if i == 3 {
			continue // net/http answers OPTIONS * itself
		}
		if got[i].StatusCode != 200 || got[i].body != q.want {
			t.Errorf("answer %d: got %d %q, want %q", i, got[i].StatusCode, got[i].body, q.want)
		}
	}
}

// Issue 6: oversized headers are refused with 431.
func TestAHeaderThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxHeader = 8 << 10 })
	got := r.raw("GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 20<<10)+"\r\n\r\n", 1)
	if len(got) != 1 || got[0].StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %v, want one answer of 431", got)
	}
}

// Issue 6: slow clients are refused: a header and a body that do not come in time end the connection.
func TestSlowClientsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.HeaderTimeout = 50 * time.Millisecond })
	r.expose("web", backend(t, func(_ http.ResponseWriter, q *http.Request) { _, _ = io.Copy(io.Discard, q.Body) }))
	r.apply(ingress("web", 0, "- Prefix / web"))
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: a\r\n", "", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"} {
		c, err := net.Dial("tcp", r.plain)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if isTimeout(err) {
			t.Errorf("%q: the connection was left open", text)
		}
		if strings.HasPrefix(text, "POST") && !strings.Contains(string(answer), " 408 ") {
			t.Errorf("%q: got %q, want 408", text, answer)
		}
		c.Close()
	}
}

// The strict reader takes whatever comes without falling, and what it takes is unambiguous.
func FuzzFraming(f *testing.F) {
	for _, text := range smuggled {
		if _, head, ok := strings.Cut(text, "\r\n"); ok {
			f.Add([]byte(head))
		}
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		fs, err := parseFields(block, nil)
		if err != nil {
			return
		}
		got, err := readFraming(fs, false)
		if err != nil {
			return
		}
		lengths := 0
		for _, field := range fs {
			if equalFold(field.name, "Content-Length") || equalFold(field.name, "Transfer-Encoding") {
				lengths++
			}
			if strings.ContainsAny(string(field.value), "\r\n\x00") {
				t.Fatalf("field %q holds what ends a line", field.value)
			}
		}
		if lengths > 1 || got.length < -1 {
			t.Fatalf("%q: %d lengths were taken, %d", block, lengths, got.length)
		}
	})
}
