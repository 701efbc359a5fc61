package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
)

// speaking is a backend for each protocol that backend-protocol names, exposed under the protocol's name in small letters.
func (r *rig) speaking(handle http.HandlerFunc) []string {
	r.t.Helper()
	all := []string{"HTTP", "HTTPS", "GRPC", "GRPCS"}
	for i, protocol := range all {
		s := httptest.NewUnstartedServer(handle)
		s.Config.Protocols = new(http.Protocols)
		switch protocol {
		case "HTTP", "HTTPS":
			s.Config.Protocols.SetHTTP1(true)
		case "GRPC":
			s.Config.Protocols.SetUnencryptedHTTP2(true)
		case "GRPCS":
			s.EnableHTTP2 = true
			s.Config.Protocols.SetHTTP2(true)
		}
		if strings.HasSuffix(protocol, "S") {
			s.StartTLS()
		} else {
			s.Start()
		}
		r.t.Cleanup(s.Close)
		name := strings.ToLower(protocol)
		r.expose(name, s.Listener.Addr().String())
		r.apply(annotate(ingress(name, i, name+" Prefix / "+name), "backend-protocol", protocol, "proxy-body-size", "1k"),
			annotate(ingress(name+"-silent", i, name+" Prefix /silent "+name), "backend-protocol", protocol, "proxy-read-timeout", "100ms"))
	}
	return all
}

// I-42, I-39: backend-protocol: each engine speaks each of them; proxy-body-size holds for bodies of unknown length, proxy-read-timeout for
// silent backends.
func TestEachProtocolOfABackendIsSpoken(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	end := make(chan struct{})
	protocols := r.speaking(func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		if q.URL.Path == "/silent" {
			<-end
		}
		fmt.Fprintf(w, "%s TLS %v %s %s", q.Proto, q.TLS != nil, q.RequestURI, text)
	})
	defer close(end)
	for engine, by := range engines(t) {
		for _, protocol := range protocols {
			host := strings.ToLower(protocol)
			want := fmt.Sprintf("HTTP/%s TLS %v /a%%2Fb?q=%%20 some", map[bool]string{true: "2.0", false: "1.1"}[protocol[0] == 'G'], strings.HasSuffix(protocol, "S"))
			if got := r.doBy(by, "POST", host, "/a%2Fb?q=%20", "some"); got.StatusCode != 200 || got.body != want {
				t.Errorf("%s to %s: got %d %q, want %q", engine, protocol, got.StatusCode, got.body, want)
			}
			if got := r.doBy(by, "GET", host, "/silent", ""); got.StatusCode != 504 {
				t.Errorf("%s to %s, a backend that does not answer: got %d %q", engine, protocol, got.StatusCode, got.body)
			}
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.plain+"/", io.MultiReader(strings.NewReader(long)))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			if got := r.send(by, req); got.StatusCode != 413 {
				t.Errorf("%s to %s, chunks beyond proxy-body-size: got %d %q", engine, protocol, got.StatusCode, got.body)
			}
		}
	}
}

// I-40, I-42: answers flow on before they are whole, whichever the backend's protocol and the client's.
func TestAnswersOfEachProtocolStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	protocols := r.speaking(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintln(w, "first")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-q.Context().Done()
	})
	for engine, by := range engines(t) {
		for _, protocol := range protocols {
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.plain+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = strings.ToLower(protocol)
			resp, err := by.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := bufio.NewReader(resp.Body).ReadString('\n'); text != "first\n" {
				t.Errorf("%s to %s: got %q, %v before the end", engine, protocol, text, err)
			}
			resp.Body.Close()
		}
	}
}

// crowded is an address that takes no more connections: nobody accepts those that its short queue holds, so the kernel drops what else
// comes.
func crowded(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port)).String()
	for {
		c, err := net.DialTimeout("tcp", at, 500*time.Millisecond)
		if isTimeout(err) {
			return at
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}

// I-42, I-41: proxy-connect-timeout: another endpoint is tried, and without one the answer is 504.
func TestAConnectionThatIsNotMadeInTimeIs504(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	full := crowded(t)
	r.expose("full", full)
	r.expose("half", full, named(t, "good"))
	for i, protocol := range []string{"HTTP", "HTTPS", "GRPC", "GRPCS"} {
		r.apply(annotate(ingress("full"+strings.ToLower(protocol), i, protocol+" Prefix / full"), "backend-protocol", protocol, "proxy-connect-timeout", "100ms"))
	}
	r.apply(annotate(ingress("half", 9, "half Prefix / half"), "proxy-connect-timeout", "500ms"))
	for engine, by := range engines(t) {
		for _, host := range []string{"HTTP", "HTTPS", "GRPC", "GRPCS"} {
			if got := r.doBy(by, "GET", host, "/", ""); got.StatusCode != 504 {
				t.Errorf("%s to %s: got %d %q, want 504", engine, host, got.StatusCode, got.body)
			}
		}
		for range 4 {
			if got := r.doBy(by, "POST", "half", "/", "text"); got.body != "good" {
				t.Errorf("%s: with another endpoint: got %d %q", engine, got.StatusCode, got.body)
			}
		}
	}
	if got := r.raw("GET / HTTP/1.1\r\nHost: HTTP\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 1); len(got) != 1 || got[0].StatusCode != 504 {
		t.Errorf("an upgrade: got %v, want 504", got)
	}
}

// I-42: proxy-send-timeout by the other engine, too: a backend that takes no more is 504.
func TestAnHTTP2RequestThatIsNotTakenIs504(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("deaf", stuck(t))
	r.apply(annotate(ingress("web", 0, "- Prefix / deaf"), "proxy-send-timeout", "50ms", "proxy-read-timeout", "1h"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // no answer is waited for
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.plain+"/", bytes.NewReader(make([]byte, 32<<20)))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.send(engines(t)["HTTP/2"], req); got.StatusCode != 504 {
		t.Errorf("got %d %q, want 504", got.StatusCode, got.body)
	}
}

// I-42: ssl-redirect holds for the hosts that have a certificate, force-ssl-redirect for all, also by our own prefix; a trusted proxy that
// was asked by https is not sent there again.
func TestRedirectsToHTTPSFollowTheCertificates(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{false, true} {
		r := newRig(t, func(c *Config) {
			if trusted {
				c.Trusted, _ = ranges("127.0.0.0/8")
			}
		})
		r.expose("web", named(t, "web"))
		cert, _ := secretFor(t, "cert", "a.example", "*.wild.example")
		ing := annotate(ingress("web", 0, "a.example Prefix / web", "b.example Prefix / web", "x.wild.example Prefix / web"), "ssl-redirect", "true")
		ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.example", "*.wild.example"}, SecretName: "cert"}}
		force := annotate(ingress("force", 1, "c.example Prefix / web"), "ssl-redirect", "true")
		force.Annotations[ownPrefix+"force-ssl-redirect"] = "true"
		r.apply(cert, ing, force)
		for host, want := range map[string]int{"a.example": 308, "b.example": 200, "x.wild.example": 308, "c.example": 308} {
			for engine, by := range engines(t) {
				if got := r.doBy(by, "GET", host, "/p?q", ""); got.StatusCode != want || (want == 308) != (got.Header.Get("Location") == "https://"+host+"/p?q") {
					t.Errorf("%s, %s: got %d %q, want %d", engine, host, got.StatusCode, got.Header.Get("Location"), want)
				}
				inFront := want
				if trusted {
					inFront = 200
				}
				if got := r.doBy(by, "GET", host, "/", "", "X-Forwarded-Proto", "https"); got.StatusCode != inFront {
					t.Errorf("%s, %s, asked by https in front, trusted %v: got %d, want %d", engine, host, trusted, got.StatusCode, inFront)
				}
			}
			if got, err := r.over(nil, host, false); err != nil || got.StatusCode != 200 {
				t.Errorf("%s by https: got %v, %v", host, got, err)
			}
		}
	}
}

// I-42: mirror-target gets what the client asked for, by http and by https, before any rewrite, and never the name and password.
func TestAMirrorSeesWhatTheClientAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "web"))
	copied := make(chan string, 1)
	handle := func(_ http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		copied <- fmt.Sprintf("%s %s %s %q %q", q.Method, q.Host, q.RequestURI, text, q.Header.Get("Authorization"))
	}
	plain, secure := httptest.NewServer(http.HandlerFunc(handle)), httptest.NewTLSServer(http.HandlerFunc(handle))
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	users, _ := secretFor(t, "users", "a")
	users.Data = map[string][]byte{"auth": []byte("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=")}
	r.apply(users)
	for i, c := range []struct{ target, want string }{
		{plain.URL + "$request_uri", "/a%20b?q"}, {plain.URL + "/$request_uri", "/a%20b?q"}, {plain.URL, "/a%20b?q"}, {plain.URL + "/fixed?x", "/fixed?x"},
		{plain.URL + "/copy$request_uri", "/copy/a%20b?q"}, {secure.URL, "/a%20b?q"},
	} {
		host := fmt.Sprintf("h%d", i)
		r.apply(annotate(ingress(host, i, host+" Prefix / web"), "mirror-target", c.target, "rewrite-target", "/other", "auth-type", "basic", "auth-secret", "users"))
		for engine, by := range engines(t) {
			if got := r.doBy(by, "POST", host, "/a%20b?q", "text", "Authorization", basic); got.body != "web" {
				t.Errorf("%s: got %d %q", engine, got.StatusCode, got.body)
			}
			_, at, _ := strings.Cut(strings.TrimSuffix(c.target, "/"), "//")
			at, _, _ = strings.Cut(at, "$")
			at, _, _ = strings.Cut(at, "/")
			if got, want := within(t, "the copy", copied), fmt.Sprintf(`POST %s %s "" ""`, at, c.want); got != want {
				t.Errorf("%s, %s: the mirror got %s, want %s", engine, c.target, got, want)
			}
		}
	}
	r.apply(annotate(ingress("bad", 99, "bad Prefix / web"), "mirror-target", "ftp://"+plain.Listener.Addr().String()))
	if got := r.get("bad", "/"); got.body != "web" || len(copied) != 0 {
		t.Errorf("an address that is none: got %d %q, %d copies", got.StatusCode, got.body, len(copied))
	}
}

// I-42: the affinity cookie is Secure for clients that ask by https, unless told otherwise; one that names nobody is replaced.
func TestTheAffinityCookieSuitsTheClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "1"), named(t, "2"))
	r.apply(annotate(ingress("a", 0, "a Prefix / web"), "affinity", "cookie"),
		annotate(ingress("b", 1, "b Prefix / web"), "affinity", "cookie", "session-cookie-secure", "false", "session-cookie-samesite", "Sideways", "session-cookie-max-age", "0"))
	for host, secure := range map[string]bool{"a": true, "b": false} {
		by, err := r.over(nil, host, false)
		if err != nil {
			t.Fatal(err)
		}
		for door, got := range map[bool]answer{false: r.get(host, "/"), true: by} {
			c := got.Cookies()
			if len(c) != 1 || c[0].Secure != (door && secure) || c[0].Name != "INGRESSCOOKIE" || c[0].Path != "/" || c[0].MaxAge != 0 || c[0].SameSite != 0 {
				t.Errorf("%s, https %v: got %q", host, door, got.Header["Set-Cookie"])
			}
		}
	}
	if got := r.get("a", "/", "Cookie", "INGRESSCOOKIE=nobody"); got.StatusCode != 200 || len(got.Cookies()) != 1 {
		t.Errorf("a cookie that names nobody: got %d %q", got.StatusCode, got.Header["Set-Cookie"])
	}
}

// I-42: default-backend takes what has no endpoint or no Service; a Service that has some keeps its requests.
func TestTheDefaultBackendAnnotationTakesWhatNobodyServes(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "web"))
	r.expose("spare", named(t, "spare"))
	r.expose("unready")
	r.apply(slice("unready", 0, closedPort(t), false))
	r.apply(annotate(ingress("a", 0, "- Prefix /web web", "- Prefix /gone gone", "- Prefix /unready unready"), "default-backend", "spare"),
		annotate(ingress("b", 1, "b Prefix / gone"), "default-backend", "gone-too"))
	for engine, by := range engines(t) {
		for path, want := range map[string]string{"/web": "web", "/gone": "spare", "/unready": "spare"} {
			if got := r.doBy(by, "GET", "a", path, ""); got.StatusCode != 200 || got.body != want {
				t.Errorf("%s, %s: got %d %q, want %s", engine, path, got.StatusCode, got.body, want)
			}
		}
		if got := r.doBy(by, "GET", "b", "/", ""); got.StatusCode != 503 {
			t.Errorf("%s, a default backend that is not there: got %d", engine, got.StatusCode)
		}
	}
}

// I-42: every annotation that is known is set in a test of this package, so that one that comes is tested, too.
func TestEveryAnnotationIsTested(t *testing.T) {
	t.Parallel()
	var tested []string
	for _, c := range annotated42 {
		for pair := range strings.SplitSeq(c.annotations, ";") {
			key, _, _ := strings.Cut(pair, "=")
			tested = append(tested, key)
		}
	}
	// These have tests of their own: the first line's elsewhere in this package, the others above.
	tested = append(tested, strings.Fields(`cors-allow-methods cors-allow-headers cors-expose-headers cors-max-age limit-rps
		canary canary-weight canary-weight-total canary-by-header canary-by-header-value canary-by-header-pattern canary-by-cookie
		proxy-connect-timeout proxy-read-timeout proxy-send-timeout mirror-target default-backend server-alias service-upstream ssl-redirect
		session-cookie-path session-cookie-max-age session-cookie-samesite session-cookie-secure`)...)
	for name := range setters {
		if !slices.Contains(tested, name) {
			t.Errorf("%s is not tested", name)
		}
	}
}
