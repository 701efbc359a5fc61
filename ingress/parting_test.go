package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// I-42: a client that sends all it has before it reads learns why its body was not taken, however the refusal comes about
// (RFC 9112, 9.6).
func TestAClientThatReadsLateLearnsWhyItsBodyWasNotTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/refused" {
			w.WriteHeader(http.StatusTeapot) // without a look at the body
			return
		}
		_, _ = io.Copy(io.Discard, q.Body)
	}))
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "proxy-body-size", "1k"), annotate(ingress("any", 0, "any Prefix / web"), "proxy-body-size", "0"))
	const size = 16 << 20
	long := bytes.Repeat([]byte{'x'}, size)
	chunked := fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", size, long)
	tell := fmt.Sprintf("Content-Length: %d", size)
	for _, c := range []struct {
		name, request string
		body          []byte
		status        int
	}{
		{"a length too large", "POST / HTTP/1.1\r\nHost: a\r\n" + tell, long, 413},
		{"chunks too many", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", chunked, 413},
		{"no route", "POST / HTTP/1.1\r\nHost: any\r\nX: y\r\n" + tell + "\r\nBroken Name: z", long, 400},
		{"a header too large", "GET / HTTP/1.1\r\nHost: a\r\nX: " + string(long) + "\r\nY: z", nil, 431},
		{"not a request", "nothing", long, 400},
		{"a backend that answers early", "POST /refused HTTP/1.1\r\nHost: any\r\n" + tell, long, http.StatusTeapot},
	} {
		for name, dial := range map[string]func() (net.Conn, error){
			"http":  func() (net.Conn, error) { return net.Dial("tcp", r.plain) },
			"https": func() (net.Conn, error) { return tls.Dial("tcp", r.secure, &tls.Config{InsecureSkipVerify: true}) },
		} {
			nc, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Write(append([]byte(c.request+"\r\n\r\n"), c.body...)); err != nil {
				t.Errorf("%s, %s: the client cannot send on: %v", name, c.name, err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Errorf("%s, %s: got %v, want %d", name, c.name, err, c.status)
			} else if answer.StatusCode != c.status {
				t.Errorf("%s, %s: got %d, want %d", name, c.name, answer.StatusCode, c.status)
			}
			nc.Close()
		}
	}
}

// Who does not end a connection that the ingress has ended is not waited for: neither by the one that reads from it, nor at the end.
func TestAPartingConnectionHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancel(t.Context())
	p := &parting{TCPConn: nc.(*net.TCPConn), ctx: life}
	read := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		read <- err
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "the end of a read", read); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read beside Close: got %v", err)
	}
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client read %d, %v: want the end", n, err)
	}
	if _, err := client.Write([]byte("still here")); err != nil {
		t.Errorf("the client's last words: %v", err)
	}
	end()
	if err := client.SetDeadline(time.Now().Add(partingTime / 2)); err != nil {
		t.Fatal(err)
	}
	for err == nil { // until the reset
		_, err = client.Write([]byte("and on"))
	}
	if isTimeout(err) {
		t.Error("the connection outlives the listener")
	}
}

// I-36: what a backend answers before it has taken the whole body reaches the client, in either protocol.
func TestAnEarlyAnswerReachesTheClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, "no coffee")
	}))
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "proxy-body-size", "0"))
	long := strings.Repeat("x", 4<<20)
	for engine, by := range engines(t) {
		for range 20 {
			if got := r.doBy(by, "POST", "a", "/", long); got.StatusCode != http.StatusTeapot || got.body != "no coffee" {
				t.Fatalf("%s: got %d %q", engine, got.StatusCode, got.body)
			}
		}
	}
}
