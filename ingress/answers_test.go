package ingress

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// I-42: enable-cors answers a browser's preflight for an allowed origin itself; the backend sees all else.
func TestAPreflightIsAnsweredForAllowedOriginsOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "backend"))
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "enable-cors", "true", "cors-allow-origin", "https://a.example", "cors-allow-methods", "PUT",
		"cors-allow-headers", "X-One", "cors-expose-headers", "X-Two", "cors-max-age", "60"))
	for _, c := range []struct {
		method, origin, asks string
		status               int
		methods              string
	}{
		{"OPTIONS", "https://a.example", "PUT", 204, "PUT"},
		{"OPTIONS", "https://a.example", "", 200, ""},    // no preflight: it asks for no method
		{"OPTIONS", "https://b.example", "PUT", 200, ""}, // of an origin that is not allowed
		{"PUT", "https://a.example", "", 200, ""},
	} {
		header := []string{"Origin", c.origin}
		if c.asks != "" {
			header = append(header, "Access-Control-Request-Method", c.asks)
		}
		got := r.do(c.method, "a", "/", "", header...)
		if got.StatusCode != c.status || got.Header.Get("Access-Control-Allow-Methods") != c.methods || (c.status == 204) != (got.body == "") {
			t.Errorf("%+v: got %d %v %q", c, got.StatusCode, got.Header, got.body)
		}
		if allowed := got.Header.Get("Access-Control-Allow-Origin") != ""; allowed != (c.origin == "https://a.example") {
			t.Errorf("%+v: allowed is %v", c, allowed)
		}
		if c.status == 204 && (got.Header.Get("Access-Control-Max-Age") != "60" || got.Header.Get("Access-Control-Allow-Headers") != "X-One" ||
			got.Header.Get("Access-Control-Expose-Headers") != "X-Two" || got.Header.Get("Vary") != "Origin") {
			t.Errorf("a preflight: got %v", got.Header)
		}
	}
}

// I-42: force-ssl-redirect leads to the port at which https answers there.
func TestARedirectToHTTPSKeepsToThePortsOfItsDoor(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.SecurePorts = map[string]string{"8080": "8443"} })
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "force-ssl-redirect", "true"))
	for host, want := range map[string]string{
		"a.example": "https://a.example/x?y", "a.example:80": "https://a.example/x?y", "a.example:8080": "https://a.example:8443/x?y",
		"127.0.0.1:8080": "https://127.0.0.1:8443/x?y", "[::1]:8080": "https://[::1]:8443/x?y", "[::1]": "https://[::1]/x?y",
	} {
		if got := r.get(host, "/x?y"); got.StatusCode != 308 || got.Header.Get("Location") != want {
			t.Errorf("%s: got %d %s, want %s", host, got.StatusCode, got.Header.Get("Location"), want)
		}
	}
}

// I-42: passwords hashed by bcrypt, as htpasswd -B writes them; one that was right is known again, and no other with it.
func TestABcryptPasswordLetsItsUserIn(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	a := &Auth{Users: map[string]string{"ann": string(hash)}}
	for i := range 3 {
		for given, want := range map[string]bool{"ann:secret": true, "ann:secre": false, "ann:": false, "bob:secret": false, "ann": false} {
			if got := a.allows("Basic " + base64.StdEncoding.EncodeToString([]byte(given))); got != want {
				t.Errorf("round %d, %s: got %v, want %v", i, given, got, want)
			}
		}
	}
	if known, ok := a.proven.Load("ann"); !ok || len(known.([]byte)) != sha256.Size {
		t.Errorf("what is remembered is no sum: %v", known)
	}
}

func statusOf(t *testing.T, r *rig, name string) (all []string) {
	t.Helper()
	obj, err := r.store.Get(api.Ingresses, "dev", name)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range obj.(*networkingv1.Ingress).Status.LoadBalancer.Ingress {
		all = append(all, a.IP)
	}
	return all
}

// I-30: an address that this ingress gave before a restart goes when the Ingress is not ours any more; another's stays.
func TestAnAddressFromBeforeARestartIsTakenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	left := func(name, ip string) *networkingv1.Ingress {
		class := "foreign"
		ing := ingress(name, 0, "- Prefix / web")
		ing.Spec.IngressClassName = &class
		ing.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: ip}}
		return ing
	}
	r.apply(left("theirs", "203.0.113.9"), left("ours", "192.0.2.1"))
	r.until("our address is gone", func() bool { return len(statusOf(t, r, "ours")) == 0 })
	if got := statusOf(t, r, "theirs"); !slices.Equal(got, []string{"203.0.113.9"}) {
		t.Errorf("another's address: got %v", got)
	}
}

// I-30: once the ingress's own Service has a load-balancer address, statuses show that one.
func TestStatusesShowTheAddressOfTheIngresssService(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Service = "dev/door" })
	r.apply(ingress("web", 0, "- Prefix / web"))
	r.until("the node's address is shown", func() bool { return slices.Equal(statusOf(t, r, "web"), []string{"192.0.2.1"}) })
	door := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "door"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	door.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.31.0.1"}}
	r.apply(door)
	r.until("the Service's address is shown", func() bool { return slices.Equal(statusOf(t, r, "web"), []string{"172.31.0.1"}) })
	r.remove(door)
	r.until("the node's address is back", func() bool { return slices.Equal(statusOf(t, r, "web"), []string{"192.0.2.1"}) })
}

// I-42: a limit that is changed or taken away holds from the next request on.
func TestALimitMayChangeWhileClientsAsk(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Now = func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) } })
	r.expose("web", named(t, "web"))
	let := func(n int) (through int) {
		for range n {
			if r.get("a", "/").StatusCode == 200 {
				through++
			}
		}
		return through
	}
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "limit-rps", "4"))
	if got := let(30); got != 20 {
		t.Errorf("4 a second: %d of 30 came through, want 20", got)
	}
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "limit-rps", "2"))
	if got := let(5); got != 0 {
		t.Errorf("lowered to 2: %d of 5 came through, want none", got)
	}
	r.apply(ingress("web", 0, "- Prefix / web"))
	if got := let(30); got != 30 {
		t.Errorf("without a limit: %d of 30 came through", got)
	}
}

// I-39, I-40: a gRPC stream in both directions: each message arrives before the next is sent, and trailers end it.
func TestAGRPCStreamFlowsBothWays(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		flush := http.NewResponseController(w)
		if err := flush.Flush(); err != nil {
			t.Error(err)
		}
		lines := bufio.NewScanner(q.Body)
		for lines.Scan() {
			fmt.Fprintln(w, "echo", lines.Text())
			if err := flush.Flush(); err != nil {
				t.Error(err)
			}
		}
		w.Header().Set("Grpc-Status", "7")
	}))
	b.Config.Protocols = new(http.Protocols)
	b.Config.Protocols.SetUnencryptedHTTP2(true)
	b.Start()
	t.Cleanup(b.Close)
	r.expose("grpc", b.Listener.Addr().String())
	r.apply(annotate(ingress("grpc", 0, "- Prefix / grpc"), "backend-protocol", "GRPC"))
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.plain+"/pkg.Svc/Stream", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := h2c.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := bufio.NewReader(resp.Body)
	for i := range 5 {
		fmt.Fprintln(send, i)
		if line, err := got.ReadString('\n'); err != nil || line != fmt.Sprintln("echo", i) {
			t.Fatalf("message %d: got %q %v", i, line, err)
		}
	}
	send.Close()
	if rest, err := io.ReadAll(got); err != nil || len(rest) > 0 || resp.Trailer.Get("Grpc-Status") != "7" {
		t.Errorf("the end: got %q %v, trailers %v", rest, err, resp.Trailer)
	}
}

// I-42: proxy-send-timeout bounds how long a backend may not read.
func TestABackendThatTakesNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("deaf", stuck(t))
	r.apply(annotate(ingress("web", 0, "- Prefix / deaf"), "proxy-send-timeout", "50ms", "proxy-read-timeout", "10s"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.plain+"/", bytes.NewReader(make([]byte, 32<<20)))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultTransport.RoundTrip(req); err != nil {
		t.Error(err)
	} else if resp.Body.Close(); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a backend that does not read: got %s", resp.Status)
	}
	r.until("the request is answered", func() bool { r.c.access.flush(); return strings.Contains(r.log.String(), "POST") })
	if text := r.log.String(); !strings.Contains(text, "status=504 ") {
		t.Errorf("a backend that does not read: got %s, want 504", text)
	}
}

// stuck takes connections and reads nothing from them.
func stuck(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close() //nolint:revive // they stay open until the test ends
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	return ln.Addr().String()
}
