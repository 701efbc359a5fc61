package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/node/app"
)

var facts = app.Facts{
	Pod: "web-1", Namespace: "dev", Node: "n1", IP: "10.244.1.2", Image: "shop:1.0",
	Labels: map[string]string{"app": "shop", "version": "v1"},
}

type served struct {
	*app.App
	url, udp string
	done     chan error
}

// serve runs an application on the host's loopback until the test ends.
func serve(t *testing.T, o app.Options) *served {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{App: app.New(facts, o), url: "http://" + ln.Addr().String(), udp: pc.LocalAddr().String(), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { s.done <- s.Run(ctx, []net.Listener{ln}, []net.PacketConn{pc}); close(s.done) }()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

func call(t *testing.T, method, url string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw), resp.Header
}

// N-14: one fact a line, the version first of the labels.
func TestTheAnswerTellsOneFactALine(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	code, body, header := call(t, "GET", s.url+"/a?b=c")
	lines := strings.Split(body, "\n")
	want := []string{"pod: web-1", "namespace: dev", "node: n1", "ip: 10.244.1.2", "image: shop:1.0", "version: v1", "label app: shop"}
	if diff := cmp.Diff(want, lines[:min(7, len(lines))]); code != 200 || diff != "" {
		t.Errorf("code %d, -want +got:\n%s", code, diff)
	}
	if !strings.HasPrefix(lines[7], "client: 127.0.0.1:") || lines[8] != "request: GET /a?b=c HTTP/1.1" {
		t.Errorf("got %q", lines[7:])
	}
	if got := header.Get("Server"); got != "kubarium-web" {
		t.Errorf("Server: %q", got)
	}
	if got := s.Requests(); got != 1 {
		t.Errorf("counted %d requests, want 1", got)
	}
}

// N-14: as JSON, with labels as they are now.
func TestTheAnswerIsJSONForThoseWhoAskAndFollowsTheLabels(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	f := facts
	f.Labels = map[string]string{"version": "v2", "track": "stable"}
	s.SetFacts(f)
	_, body, _ := call(t, "POST", s.url, "Accept", "application/json")
	var got struct {
		Pod, Version string
		Labels       map[string]string
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Pod != "web-1" || got.Version != "v2" || got.Labels["track"] != "stable" {
		t.Errorf("got %+v", got)
	}
}

// N-14
func TestReadinessIsSwitchedByARequest(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	for _, step := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/readyz", 200},
		{"POST", "/readyz?ready=false", 200},
		{"GET", "/readyz", 503},
		{"GET", "/healthz", 200},
		{"PUT", "/readyz?ready=true", 200},
		{"GET", "/readyz", 200},
		{"GET", "/readyz?set=false", 200},
		{"GET", "/readyz", 503},
		{"POST", "/readyz?ready=maybe", 400},
		{"GET", "/readyz", 503},
	} {
		if code, body, _ := call(t, step.method, s.url+step.path); code != step.code {
			t.Errorf("%s %s: got %d %q, want %d", step.method, step.path, code, body, step.code)
		}
	}
}

// N-14
func TestFaultsAreInjectedByPath(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	for path, want := range map[string]int{"/status/503": 503, "/status/204": 204, "/status/9": 400, "/delay/1ms": 200, "/delay/x": 400, "/delay/0.001": 200} {
		if code, body, _ := call(t, "GET", s.url+path); code != want {
			t.Errorf("%s: got %d %q, want %d", path, code, body, want)
		}
	}
	if _, body, _ := call(t, "GET", s.url+"/headers", "X-Test", "yes"); !strings.Contains(body, "X-Test: yes\n") {
		t.Errorf("/headers: got %q", body)
	}
	call(t, "GET", s.url+"/crash?code=3")
	var crash *app.CrashError
	if err := <-s.done; !errors.As(err, &crash) || crash.Code != 3 {
		t.Errorf("Run ended with %v, want a crash with code 3", err)
	}
}

// N-14
func TestDatagramsAreEchoed(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	c, err := net.Dial("udp4", s.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	buf := make([]byte, 10)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q %v", buf[:n], err)
	}
}

// Issue A, lost requests 0: a client that keeps its connection sends its next request during the drain, and gets its answer.
func TestADrainLosesNoRequestOfAKeptAliveConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{})
	c, err := net.Dial("tcp4", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	ask := func() *http.Response {
		t.Helper()
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		return resp
	}
	if resp := ask(); resp.Close {
		t.Error("the first answer closes the connection")
	}
	go s.Drain(t.Context())
	for closed := false; !closed; { // the drain begins at some moment
		closed = ask().Close
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the last answer: %v, want EOF", err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func TestADrainAnswersNewConnectionsToo(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{Quiet: 300 * time.Millisecond})
	var wg sync.WaitGroup
	wg.Go(func() { s.Drain(t.Context()) })
	for range 20 {
		if code, _, _ := call(t, "GET", s.url); code != 200 {
			t.Errorf("got %d during the drain", code)
		}
	}
	wg.Wait()
	if err := <-s.done; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func TestADrainDoesNotWaitForEverForAnIdleClient(t *testing.T) {
	t.Parallel()
	s := serve(t, app.Options{Idle: 50 * time.Millisecond})
	c, err := net.Dial("tcp4", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	call(t, "GET", s.url) // the idle connection was accepted before this one
	s.Drain(t.Context())
	if err := <-s.done; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

// lateListener takes connections from when its gate opens: as an application that a busy machine does not let run.
type lateListener struct {
	*net.TCPListener
	gate chan struct{}
}

func (l lateListener) Accept() (net.Conn, error) {
	<-l.gate
	return l.TCPListener.Accept()
}

// N-10: an application that ends answers the connections that the kernel took for it, however late it gets to them.
func TestADrainWaitsForConnectionsThatNobodyHasAccepted(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	late := lateListener{ln.(*net.TCPListener), make(chan struct{})}
	a := app.New(facts, app.Options{Quiet: 5 * time.Millisecond})
	ran, drained := make(chan error, 1), make(chan struct{})
	go func() { ran <- a.Run(t.Context(), []net.Listener{late}, nil) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	go func() { a.Drain(t.Context()); close(drained) }()
	select {
	case <-drained:
		t.Error("it ended with a connection in the queue")
	case <-time.After(200 * time.Millisecond):
	}
	close(late.gate)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("got %v, %v", answer, err)
	}
	<-drained
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
