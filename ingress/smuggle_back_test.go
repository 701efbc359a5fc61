package ingress

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
)

// talker answers every request on every connection with the text for its path, and keeps the connection open.
func talker(t testing.TB, answers map[string]string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				for in := bufio.NewReader(c); ; {
					q, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, q.Body)
					_, _ = io.WriteString(c, answers[q.URL.Path])
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// RFC 9112, 6.3 and 9.2, issue 6: what a backend sends beyond or beside its answer is never another request's answer, and an
// answer whose end is told in two ways is no answer. Each is asked for by both engines.
func TestABackendCannotAnswerAnotherRequest(t *testing.T) {
	t.Parallel()
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	const right = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
	for name, c := range map[string]struct {
		method, text string
		status       int
	}{
		"an answer too many":         {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + evil, 200},
		"HEAD with a body":           {"HEAD", evil + evil, 200},
		"204 with a body":            {"GET", "HTTP/1.1 204 No Content\r\n\r\n" + evil, 204},
		"304 with a body":            {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n" + evil, 304},
		"early hints first":          {"GET", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200},
		"two lengths":                {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\n" + evil, 502},
		"a length that is no number": {"GET", "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil", 502},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.expose("web", talker(t, map[string]string{"/first": c.text, "/next": right}))
			r.apply(ingress("web", 0, "- Prefix / web"))
			h2 := &http.Transport{Protocols: new(http.Protocols)}
			h2.Protocols.SetUnencryptedHTTP2(true)
			t.Cleanup(h2.CloseIdleConnections)
			h1 := &http.Transport{}
			t.Cleanup(h1.CloseIdleConnections)
			for engine, by := range map[string]http.RoundTripper{"HTTP/1.1": h1, "HTTP/2": h2} {
				for range 3 {
					for _, q := range []struct {
						method, path, body string
						status             int
					}{{c.method, "/first", "", c.status}, {"GET", "/next", "right", 200}} {
						req, err := http.NewRequestWithContext(t.Context(), q.method, "http://"+r.plain+q.path, nil)
						if err != nil {
							t.Fatal(err)
						}
						if got := r.send(by, req); got.StatusCode != q.status || q.path == "/next" && got.body != q.body || got.body == "evil" {
							t.Errorf("%s, %s %s: got %d %q, want %d %q", engine, q.method, q.path, got.StatusCode, got.body, q.status, q.body)
						}
					}
				}
			}
		})
	}
}
