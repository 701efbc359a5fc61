package ingress

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// I-41: a kept connection that ends when the next request has been sent is the connection's fault: what may be sent twice is, by either engine,
// and nothing else.
func TestAKeptConnectionThatEndsIsReplaced(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	var asked atomic.Int64
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for answered := false; ; answered = true { // the second request gets no answer
					q, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, q.Body)
					if asked.Add(1); answered {
						return
					}
					_, _ = io.WriteString(c, right)
				}
			}()
		}
	}()
	r := newRig(t, nil)
	r.expose("web", ln.Addr().String())
	r.apply(ingress("web", 0, "- Prefix / web"))
	for engine, by := range engines(t) {
		asked.Store(0)
		for range 3 {
			if got := r.doBy(by, "GET", "a", "/", ""); got.body != "right" {
				t.Errorf("%s: got %d %q", engine, got.StatusCode, got.body)
			}
		}
		if n := asked.Load(); n < 4 {
			t.Errorf("%s: the backend was asked %d times: no kept connection ended", engine, n)
		}
		if got := r.doBy(by, "POST", "a", "/", "text"); got.StatusCode != 502 {
			t.Errorf("%s: a POST that was sent over a kept connection which ended: got %d %q", engine, got.StatusCode, got.body)
		}
	}
}

// slowEnd is a connection that ends for its reader only when an answer to its end has been read.
type slowEnd struct {
	net.Conn
	ending atomic.Bool
	once   sync.Once
	heard  chan struct{}
}

func (c *slowEnd) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.ending.Load() {
		c.once.Do(func() { close(c.heard) })
	}
	return n, err
}

// Close lets the backend speak last.
func (c *slowEnd) Close() error {
	c.ending.Store(true)
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	select {
	case <-c.heard:
	case <-time.After(10 * time.Second):
	}
	return c.Conn.Close()
}

// I-42: what a backend answers to a body that was broken off, as it was too large, is never the answer.
func TestNoBackendAnswersHalfARequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return &slowEnd{Conn: nc, heard: make(chan struct{})}, err
		}
	})
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body) // and whatever comes of it
		_, _ = io.WriteString(w, "fine")
	}))
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "proxy-body-size", "1k"))
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.plain+"/", io.MultiReader(strings.NewReader(long)))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.send(engines(t)["HTTP/2"], req); got.StatusCode != 413 {
		t.Errorf("got %d %q, want 413", got.StatusCode, got.body)
	}
}
