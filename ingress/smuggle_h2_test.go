package ingress

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// fields2 is a request of HTTP/2 as pairs, of which later ones replace or follow those of a right request.
func fields2(change ...string) [][2]string {
	all := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/x"}}
	for i := 0; i < len(change); i += 2 {
		replaced := false
		for j := range all {
			if strings.HasPrefix(change[i], ":") && all[j][0] == change[i] {
				all[j][1], replaced = change[i+1], true
			}
		}
		if !replaced {
			all = append(all, [2]string{change[i], change[i+1]})
		}
	}
	return all
}

// without leaves a field out.
func without(name string) [][2]string {
	return slices.DeleteFunc(fields2(), func(f [2]string) bool { return f[0] == name })
}

// ask2 sends one request by HTTP/2's frames, unchecked, and returns its status; "" when the stream or the connection was broken off.
func (r *rig) ask2(fields [][2]string, body string) string {
	r.t.Helper()
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	var block bytes.Buffer
	encode := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encode.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			r.t.Fatal(err)
		}
	}
	_, err = io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	err = errors.Join(err, fr.WriteSettings(), fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
		fr.WriteData(1, true, []byte(body)))
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		f, err := fr.ReadFrame()
		if isTimeout(err) {
			r.t.Errorf("%q: no answer", fields)
		}
		if err != nil {
			return ""
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		}
	}
}

// RFC 9113, 8.2 and 8.3, issue 6: what HTTP/2 can carry and HTTP/1.1 could be split by is refused; nothing of it reaches a backend whole.
func TestWhatHTTP2CouldSmuggleIsRefused(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	r := newRig(t, nil)
	r.expose("web", backend(t, func(_ http.ResponseWriter, q *http.Request) {
		if one, whole := read(q); whole {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, one)
		}
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	const tail = "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a"
	for name, c := range map[string]struct {
		fields [][2]string
		body   string
	}{
		"a coding":                      {fields2("transfer-encoding", "chunked"), "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"},
		"a coding in capitals":          {fields2("Transfer-Encoding", "chunked"), "0\r\n\r\n"},
		"a length that is too short":    {fields2("content-length", "0"), "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"},
		"a length that is too long":     {fields2("content-length", "9"), "hello"},
		"two lengths":                   {fields2("content-length", "5", "content-length", "0"), "hello"},
		"a length that is none":         {fields2("content-length", "5x"), "hello"},
		"a line's end in a value":       {fields2("x", "y"+tail), ""},
		"a line feed in a value":        {fields2("x", "y\ncontent-length: 0"), ""},
		"a zero in a value":             {fields2("x", "y\x00"), ""},
		"a line's end in a name":        {fields2("x: y\r\ncontent-length", "0"), ""},
		"a colon in a name":             {fields2("x:y", "z"), ""},
		"a space in a name":             {fields2("x y", "z"), ""},
		"a capital in a name":           {fields2("X-Y", "z"), ""},
		"an empty name":                 {fields2("", "z"), ""},
		"a line's end in the path":      {fields2(":path", "/ HTTP/1.1"+tail), ""},
		"a space in the path":           {fields2(":path", "/ x"), ""},
		"a path that is a name":         {fields2(":path", "x"), ""},
		"no path":                       {fields2(":path", ""), ""},
		"a fragment":                    {fields2(":path", "/a#b"), ""},
		"two paths":                     {append(fields2(), [2]string{":path", "/smuggled"}), ""},
		"a path after the fields":       {append(fields2("x", "y"), [2]string{":path", "/smuggled"}), ""},
		"a line's end in the method":    {fields2(":method", "GET / HTTP/1.1"+tail), ""},
		"a space in the method":         {fields2(":method", "GET /smuggled"), ""},
		"a line's end in the authority": {fields2(":authority", "a"+tail), ""},
		"a path in the authority":       {fields2(":authority", "a/b"), ""},
		"a user in the authority":       {fields2(":authority", "u@a"), ""},
		"an unknown pseudo-field":       {fields2(":smuggled", "x"), ""},
		"connection":                    {fields2("connection", "content-length"), ""},
		"an upgrade":                    {fields2("upgrade", "websocket"), ""},
		"te of another kind":            {fields2("te", "chunked"), ""},
		"CONNECT":                       {fields2(":method", "CONNECT"), ""},
		"CONNECT of a protocol":         {append([][2]string{{":protocol", "websocket"}}, fields2(":method", "CONNECT")...), ""},
		"CONNECT as it would be right":  {[][2]string{{":method", "CONNECT"}, {":authority", "a:80"}}, ""},
		"TRACE with a body":             {fields2(":method", "TRACE"), "hello"},
		"keep-alive":                    {fields2("keep-alive", "timeout=5"), ""},
		"proxy-connection":              {fields2("proxy-connection", "keep-alive"), ""},
		"connection: close":             {fields2("connection", "close"), ""},
		"te of two kinds":               {fields2("te", "trailers, chunked"), ""},
		"no method":                     {without(":method"), ""},
		"no scheme":                     {without(":scheme"), ""},
		"no path at all":                {without(":path"), ""},
		"neither authority nor host":    {without(":authority"), ""},
		"an empty authority":            {fields2(":authority", ""), ""},
		"an empty method":               {fields2(":method", ""), ""},
		"two methods":                   {append([][2]string{{":method", "GET"}}, fields2()...), ""},
		"two schemes":                   {append([][2]string{{":scheme", "https"}}, fields2()...), ""},
		"two authorities":               {append([][2]string{{":authority", "b"}}, fields2()...), ""},
		"an answer's pseudo-field":      {append([][2]string{{":status", "200"}}, fields2()...), ""},
		"a path that is a star":         {fields2(":path", "*"), ""},
		"a path with a scheme":          {fields2(":path", "http://b/"), ""},
		"a host that is not the same":   {fields2("host", "b"), ""},
		"a second host":                 {fields2("host", "a", "host", "b"), ""},
		"a host beside no authority":    {append(without(":authority"), [2]string{"host", "a b"}), ""},
		"a return in a value":           {fields2("x", "y\rz"), ""},
		"a folded value":                {fields2("x", "y\r\n z"), ""},
	} {
		status := r.ask2(c.fields, c.body)
		if status != "" && (status[0] != '4' && status[0] != '5' || status == "404") {
			t.Errorf("%s: answered %s", name, status)
		}
	}
	for _, fields := range [][][2]string{fields2("host", "a", "cookie", "a=1", "cookie", "b=2"), append(without(":authority"), [2]string{"host", "a"}), fields2("te", "trailers")} {
		if got := r.ask2(fields, "hello"); got != "200" {
			t.Errorf("%q, a right request: %s", fields, got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := `POST a /x "hello"`; !slices.Equal(seen, []string{want, want, want}) {
		t.Errorf("the backend saw %q, want %s three times alone", seen, want)
	}
}

// Issue 6: slow clients are refused by the other engine and before TLS stands, too: what does not go on in time is broken off.
func TestSlowClientsOfHTTP2AndTLSAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.HeaderTimeout, c.IdleTimeout = 50*time.Millisecond, 100*time.Millisecond })
	r.expose("web", backend(t, func(_ http.ResponseWriter, q *http.Request) { _, _ = io.Copy(io.Discard, q.Body) }))
	r.apply(ingress("web", 0, "- Prefix / web"))
	var block bytes.Buffer
	encode := hpack.NewEncoder(&block)
	for _, f := range fields2() {
		if err := encode.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	frames := func(send func(*http2.Framer) error) string {
		var b bytes.Buffer
		b.WriteString(http2.ClientPreface)
		fr := http2.NewFramer(&b, nil)
		if err := errors.Join(fr.WriteSettings(), send(fr)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	header := func(end bool) func(*http2.Framer) error {
		return func(fr *http2.Framer) error {
			return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: end})
		}
	}
	for name, c := range map[string]struct{ at, text string }{
		"no TLS greeting":           {r.secure, ""},
		"half a TLS greeting":       {r.secure, "\x16\x03\x01\x02\x00\x01"},
		"half of HTTP/2's preface":  {r.plain, http2.ClientPreface[:10]},
		"HTTP/2's preface alone":    {r.plain, http2.ClientPreface},
		"a header that has no end":  {r.plain, frames(header(false))},
		"a body that does not come": {r.plain, frames(header(true))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", c.at)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, c.text); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(conn); isTimeout(err) {
				t.Errorf("the connection was left open after %q", answer)
			}
		})
	}
}
