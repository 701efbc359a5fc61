package ingress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// I-6, I-35: requests go to the ready endpoints, and to all of them.
func TestRequestsReachEveryReadyReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var at []string
	for i := range 10 {
		at = append(at, named(t, fmt.Sprint("pod-", i)))
	}
	r.expose("web", at...)
	r.apply(slice("web", 0, at[0], false), ingress("web", 0, "- Prefix / web"))
	seen := map[string]int{}
	for range 100 {
		seen[r.get("a", "/").body]++
	}
	if len(seen) != 9 || seen["pod-0"] != 0 {
		t.Errorf("got %v, want all but pod-0, which is not ready", seen)
	}
}

// I-4, I-28, I-29, I-34: what cannot be served is 503, what no rule matches 404; an event tells.
func TestMissingThingsAreAnsweredAndTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "web"))
	r.expose("empty")
	ing := ingress("web", 0, "- Prefix /number web", "- Prefix /name web:http", "- Prefix /wrong web:nope", "- Prefix /gone gone", "- Prefix /empty empty", "- Prefix /bucket x")
	group := "objects.example"
	ing.Spec.Rules[5].HTTP.Paths[0].Backend = networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "Bucket", Name: "b"}}
	r.apply(annotate(ing, "unheard-of", "1"))
	for path, want := range map[string]int{"/number": 200, "/name": 200, "/wrong": 503, "/gone": 503, "/empty": 503, "/bucket": 503, "/": 404} {
		if got := r.get("a", path); got.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, got.StatusCode, want)
		}
	}
	told := func() string {
		list, err := r.store.List(t.Context(), api.Events, storeQuery)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, obj := range list.Items {
			e := obj.(*corev1.Event)
			text += e.Reason + " " + e.Message + "\n"
		}
		return text
	}
	r.until("events tell of it all", func() bool {
		text := told()
		for _, part := range []string{"no TCP port nope", "dev/gone:80: the Service does not exist", "kind Bucket is not supported", "unheard-of"} {
			if !strings.Contains(text, part) {
				return false
			}
		}
		return true
	})
	// The Service comes: its rule works at once.
	r.expose("gone", named(t, "back"))
	if got := r.get("a", "/gone"); got.body != "back" {
		t.Errorf("after the Service came: got %d %s", got.StatusCode, got.body)
	}
}

// I-5, I-30, I-31: classes by name, by the old annotation, by default; the status follows.
func TestOnlyIngressesOfOurClassesAreServed(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "web"))
	class := func(name, controller string) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
	}
	r.apply(class("mine", ControllerName), class("other", "example.com/other"))
	of := func(name, class string) *networkingv1.Ingress {
		ing := ingress("web", 0, "- Prefix / web")
		ing.Name, ing.Spec.IngressClassName = name, &class
		return ing
	}
	status := func() int { return r.get("a", "/").StatusCode }
	address := func() int {
		obj, err := r.store.Get(api.Ingresses, "dev", "web")
		if err != nil {
			t.Fatal(err)
		}
		return len(obj.(*networkingv1.Ingress).Status.LoadBalancer.Ingress)
	}
	for _, c := range []struct {
		class  string
		status int
	}{{"other", 404}, {"mine", 200}, {"unknown", 404}, {"mine", 200}} {
		r.apply(of("web", c.class))
		if got := status(); got != c.status {
			t.Errorf("class %s: got %d, want %d", c.class, got, c.status)
		}
		want := 0
		if c.status == 200 {
			want = 1
		}
		r.until(fmt.Sprintf("class %s has %d addresses", c.class, want), func() bool { return address() == want })
	}
	old := ingress("web", 0, "- Prefix / web")
	old.Annotations[classAnnotation] = "foreign"
	r.apply(old)
	if got := status(); got != 404 {
		t.Errorf("a foreign annotation: got %d, want 404", got)
	}
	old.Annotations[classAnnotation] = "kubarium"
	r.apply(old)
	if got := status(); got != 200 {
		t.Errorf("our annotation: got %d, want 200", got)
	}
	r.remove(old)
	if got := status(); got != 404 {
		t.Errorf("removed: got %d, want 404", got)
	}
}

// I-37: who asked, and how; what a client says of itself counts only when it is trusted.
func TestForwardedHeadersTellTheTruth(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{false, true} {
		r := newRig(t, func(c *Config) {
			if trusted {
				c.Trusted, _ = ranges("127.0.0.0/8")
			}
		})
		r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
			for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Request-Id", "X-Forwarded-Port"} {
				fmt.Fprintf(w, "%s|", strings.Join(q.Header.Values(name), "+"))
			}
			fmt.Fprint(w, q.Header["Connection"], q.Header["Keep-Alive"], q.Header["Proxy-Connection"], q.Header["X-Hop"])
		}))
		r.apply(ingress("web", 0, "- Prefix / web"))
		got := r.get("shop", "/", "X-Forwarded-For", "9.9.9.9", "X-Forwarded-Host", "evil", "X-Forwarded-Proto", "ftp", "X-Real-IP", "9.9.9.9", "X-Request-ID", "mine",
			"X-Forwarded-Port", "1", "Connection", "X-Hop, X-Forwarded-For", "X-Hop", "1", "Keep-Alive", "x", "Proxy-Connection", "y").body
		if trusted {
			if !strings.Contains(got, "|evil|ftp|9.9.9.9|mine|1|[] [] [] []") {
				t.Errorf("trusted: got %s", got)
			}
			continue
		}
		_, port, _ := net.SplitHostPort(r.plain)
		parts := strings.Split(got, "|")
		if len(parts) != 7 || parts[0] != "127.0.0.1" || parts[1] != "shop" || parts[2] != "http" || parts[3] != "127.0.0.1" || len(parts[4]) != 32 ||
			parts[5] != port || parts[6] != "[] [] [] []" {
			t.Errorf("untrusted: got %s", got)
		}
	}
}

// I-38: WebSocket and its like: both sides speak, bytes already sent count, and the end of one is the end of both.
func TestAnUpgradeBecomesATunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if !strings.EqualFold(q.Header.Get("Upgrade"), "websocket") || q.Header.Get("Connection") != "Upgrade" {
			http.Error(w, "no upgrade", http.StatusUpgradeRequired)
			return
		}
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(brw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst\n")
		brw.Flush()
		line, _ := brw.ReadString('\n')
		fmt.Fprint(c, "echo "+line)
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\nhello\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "x" || !strings.EqualFold(resp.Header.Get("Connection"), "upgrade") {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	text, err := io.ReadAll(br)
	if err != nil || string(text) != "first\necho hello\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if got := r.get("a", "/ws", "Connection", "Upgrade", "Upgrade", "h2c"); got.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("an upgrade to something else must not pass: got %d", got.StatusCode)
	}
}

// I-40: what a backend sends comes at once, in both directions, before either message is whole.
func TestBodiesStreamBothWays(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		br := bufio.NewReader(q.Body)
		line, _ := br.ReadString('\n') // the request is not whole yet
		if line != "one\n" {
			t.Errorf("the backend got %q first", line)
		}
		_, _ = io.Copy(io.Discard, br)
		w.Header().Set("Trailer", "X-End")
		fmt.Fprint(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
	}))
	seen := make(chan string, 1)
	r.expose("up", backend(t, func(_ http.ResponseWriter, q *http.Request) {
		line, _ := bufio.NewReader(q.Body).ReadString('\n')
		seen <- line
	}))
	r.apply(ingress("web", 0, "- Prefix / web", "- Prefix /up up"))

	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.plain+"/up", pr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	}()
	fmt.Fprint(pw, "part\n")
	if got := <-seen; got != "part\n" {
		t.Errorf("the backend saw %q while the client still sends", got)
	}
	pw.Close()
	<-done

	ctx, cancel := context.WithCancel(t.Context())
	req, _ = http.NewRequestWithContext(ctx, "POST", "http://"+r.plain+"/", strings.NewReader("one\ntwo"))
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 9)
	if _, err := io.ReadFull(resp.Body, part); err != nil || string(part) != "data: 1\n\n" {
		t.Errorf("got %q, %v before the answer's end", part, err)
	}
	cancel()
	resp.Body.Close()
}

// RFC 9110, 6.5: trailers pass both ways. RFC 9112, 6: bodies of every length arrive whole.
func TestTrailersAndLargeBodiesArriveWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	large := strings.Repeat("0123456789abcdef", 1<<16)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		w.Header().Set("Trailer", "X-Sum")
		if q.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		}
		_, _ = w.Write(text)
		w.Header().Set("X-Sum", fmt.Sprint(len(text), q.Trailer.Get("X-Sent")))
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	for engine, by := range engines(t) {
		for _, path := range []string{"/known", "/chunked"} {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.plain+path, io.MultiReader(strings.NewReader(large)))
			req.Trailer = http.Header{"X-Sent": {"yes"}}
			got := r.send(by, req)
			if got.body != large {
				t.Errorf("%s, %s: got %d octets, want %d", engine, path, len(got.body), len(large))
			}
			if want := fmt.Sprint(len(large), "yes"); path == "/chunked" && got.Trailer.Get("X-Sum") != want {
				t.Errorf("%s, %s: trailer %v, want %s", engine, path, got.Trailer, want)
			}
		}
	}
}

// RFC 9112, 8: half an answer is not taken for a whole one.
func TestABrokenAnswerBreaksTheClientsConnection(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"} {
		r := newRig(t, nil)
		r.expose("web", rawBackend(t, "HTTP/1.1 200 OK\r\n"+answer))
		r.apply(ingress("web", 0, "- Prefix / web"))
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.plain+"/", nil)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			continue
		}
		if text, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q: got %q as if it were whole", answer, text)
		}
		resp.Body.Close()
	}
}

// rawBackend answers each connection's first request with octets and closes.
func rawBackend(t testing.TB, text string) string {
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
			if q, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.Copy(io.Discard, q.Body)
				_, _ = io.WriteString(c, text)
			}
			c.Close()
		}
	}()
	return ln.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// I-41: an endpoint that cannot be reached is passed over, three at most; slow ones are 504; nothing is sent twice unsafely.
func TestRequestsGoToTheNextEndpointWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	good := backend(t, func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "good %s", text)
	})
	var asked atomic.Int64
	dropping := backend(t, func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	})
	r.expose("some", closedPort(t), closedPort(t), good)
	r.expose("none", closedPort(t), closedPort(t), closedPort(t), closedPort(t))
	r.expose("drop", dropping)
	r.expose("half", dropping, good)
	block := make(chan struct{})
	r.expose("slow", backend(t, func(http.ResponseWriter, *http.Request) { <-block }))
	t.Cleanup(func() { close(block) })
	r.apply(ingress("web", 0, "- Prefix /some some", "- Prefix /none none", "- Prefix /drop drop", "- Prefix /half half"),
		annotate(ingress("slow", 0, "- Prefix /slow slow"), "proxy-read-timeout", "50ms"))
	for range 6 {
		if got := r.get("a", "/some"); got.body != "good " {
			t.Errorf("GET: got %d %s", got.StatusCode, got.body)
		}
		if got := r.do("POST", "a", "/some", "text"); got.body != "good text" {
			t.Errorf("POST with an unsent body: got %d %s", got.StatusCode, got.body)
		}
		if got := r.get("a", "/half"); got.body != "good " {
			t.Errorf("GET after a broken answer: got %d %s", got.StatusCode, got.body)
		}
	}
	if got := r.get("a", "/none"); got.StatusCode != 502 {
		t.Errorf("nobody listens: got %d, want 502", got.StatusCode)
	}
	if got := r.get("a", "/slow"); got.StatusCode != 504 {
		t.Errorf("slow: got %d, want 504", got.StatusCode)
	}
	asked.Store(0)
	if got := r.do("POST", "a", "/drop", "text"); got.StatusCode != 502 || asked.Load() != 1 {
		t.Errorf("POST that broke: got %d after %d attempts, want 502 after 1", got.StatusCode, asked.Load())
	}
	r.c.access.flush()
	if text := r.log.String(); !strings.Contains(text, "status=502 ") || !strings.Contains(text, "tries=3") {
		t.Errorf("the log shows no 3 tries: %s", text)
	}
}

// I-48: an ExternalName leads to that name.
func TestAnExternalNameIsABackend(t *testing.T) {
	t.Parallel()
	at := named(t, "outside")
	var asked atomic.Value
	r := newRig(t, func(c *Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			asked.Store(address)
			return (&net.Dialer{}).DialContext(ctx, network, at)
		}
	})
	r.apply(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "ext"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"}}, ingress("web", 0, "- Prefix / ext"))
	if got := r.get("a", "/"); got.body != "outside" || asked.Load() != "www.example.com:80" {
		t.Errorf("got %d %s by way of %v", got.StatusCode, got.body, asked.Load())
	}
}

// I-49, I-50: each request has its line and is counted.
func TestTheAccessLogAndTheCountersTellOfEachRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	at := named(t, "web")
	r.expose("web", at)
	r.apply(ingress("web", 0, "a Prefix / web"))
	r.get("a", "/x?y=1")
	r.get("b", "/")
	r.until("both are counted", func() bool { return len(r.c.Stats()) == 2 })
	r.c.access.flush()
	want := " 127.0.0.1 GET a /x?y=1 HTTP/1.1 status=200 bytes=3 us="
	tail := fmt.Sprintf(" ingress=dev/web service=dev/web:80 endpoint=%s tries=1 id=", at)
	if text := r.log.String(); !strings.Contains(text, want) || !strings.Contains(text, tail) || !strings.Contains(text, "status=404 ") {
		t.Errorf("got %s", text)
	}
	var b strings.Builder
	if err := r.c.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	if want := `kubarium_ingress_requests_total{ingress="dev/web",service="dev/web:80",status="200"} 1`; !strings.Contains(b.String(), want) {
		t.Errorf("got %s, want %s", b.String(), want)
	}
}
