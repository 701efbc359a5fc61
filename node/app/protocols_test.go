package app_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/node/app"
)

// N-14
func TestGRPCHealthAnswersAsReadyzDoes(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	c := &http.Client{Transport: &http.Transport{Protocols: p, DisableKeepAlives: true}}
	check := func(method string) (string, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+method, bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Trailer.Get("Grpc-Status"), raw
	}
	if status, raw := check("/grpc.health.v1.Health/Check"); status != "0" || !cmp.Equal(raw, []byte{0, 0, 0, 0, 2, 8, 1}) {
		t.Errorf("got status %q, %v", status, raw)
	}
	call(t, "POST", s.url+"/readyz?ready=false")
	if status, raw := check("/grpc.health.v1.Health/Check"); status != "0" || !cmp.Equal(raw, []byte{0, 0, 0, 0, 2, 8, 2}) {
		t.Errorf("unready: got status %q, %v", status, raw)
	}
	if status, _ := check("/shop.Cart/Add"); status != "12" {
		t.Errorf("an unknown method has status %q", status)
	}
}

// N-14: the handshake of RFC 6455, its example key included, and masked frames of each length.
func TestAWebSocketEchoesUntilItIsClosed(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	conn, err := net.Dial("tcp4", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "+key+
		"\r\nSec-WebSocket-Version: 13\r\n\r\n")
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one...) {
		if _, err := io.ReadFull(conn, one); err != nil {
			t.Fatalf("after %q: %v", head, err)
		}
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if !strings.Contains(string(head), "101 ") || !strings.Contains(string(head), base64.StdEncoding.EncodeToString(sum[:])) {
		t.Fatalf("got %s", head)
	}
	for _, c := range []struct{ send, want []byte }{
		{[]byte{0x81, 0x83, 1, 2, 3, 4, 'a' ^ 1, 'b' ^ 2, 'c' ^ 3}, []byte{0x81, 3, 'a', 'b', 'c'}},
		{append([]byte{0x82, 0x80 | 126, 1, 0, 0, 0, 0, 0}, make([]byte, 256)...), append([]byte{0x82, 126, 1, 0}, make([]byte, 256)...)},
		{[]byte{0x89, 0x81, 0, 0, 0, 0, 'p'}, []byte{0x8a, 1, 'p'}},
		{[]byte{0x88, 0x80, 0, 0, 0, 0}, []byte{0x88, 0}},
	} {
		if _, err := conn.Write(c.send); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.want))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("got %v %v, want %v", got, err, c.want)
		}
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the close: %d bytes, %v", n, err)
	}
}

// N-10: an open WebSocket does not keep a killed application.
func TestAnOpenWebSocketEndsWithTheApplication(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	conn, err := net.Dial("tcp4", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Drain(ctx)
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the socket ended with %v", err)
	}
}
