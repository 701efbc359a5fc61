package ingress

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// What the strict reader takes for the head of an answer, another reader takes for the same: its status and its body's length.
func FuzzAnswerHead(f *testing.F) {
	for _, text := range []string{
		right, evil, "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 304 x\nContent-Length: 3\n\n", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: close, X\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 100\r\n\r\n" + right,
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, bodiless bool) {
		method := map[bool]string{false: http.MethodGet, true: http.MethodHead}[bodiless]
		h, err := peekHead(bufio.NewReaderSize(bytes.NewReader(text), upstreamBuffer), method, nil)
		if err != nil {
			return
		}
		got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q is taken, another reader refuses it: %v", text, err)
		}
		length := got.ContentLength
		if len(got.TransferEncoding) > 0 {
			length = -1
		} else if length == -1 {
			length = -2
		}
		if h.status/100 == 1 || bodiless || h.status == http.StatusNotModified {
			length = h.length // it is told of a body that does not come
		}
		if h.status != got.StatusCode || h.length != length {
			t.Fatalf("%q: got %d and %d octets, another reader %d and %d", text, h.status, h.length, got.StatusCode, length)
		}
		out := string(h.appendTo(nil, nil))
		if lines := strings.Count(out, "\n"); lines > 1+len(h.fields) || strings.Count(out, "\r\n") != lines || strings.Contains(out, "\r\n\r\n") {
			t.Fatalf("%q is passed on as %q", text, out)
		}
	})
}
