package ingress

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// I-42: each annotation, by what a client and a backend see of it.
func TestAnnotationsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "%s %s %d %s", q.Host, q.RequestURI, len(text), q.Header.Get("X-Forwarded-Prefix"))
	}))
	r.expose("spare", named(t, "spare"))
	r.expose("empty")
	r.apply(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "users"}, Data: map[string][]byte{"auth": []byte("# people\nann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "fields"}, Data: map[string]string{"X-Added": "1"}})
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	long := strings.Repeat("x", 2000)
	for i, c := range []struct {
		annotations string // key=value;key=value
		path, body  string
		header      string // name=value
		status      int
		want        string // of the body, or of the field named before a colon
	}{
		{"use-regex=true;rewrite-target=/$2", "/x/a/b?q=1", "", "", 200, "HOST /a/b?q=1 0 "},
		{"rewrite-target=/fixed", "/x", "", "", 200, "HOST /fixed 0 "},
		{"app-root=/app", "/", "", "", 302, "Location: /app"},
		{"force-ssl-redirect=true", "/x?y", "", "", 308, "Location: https://HOST/x?y"},
		{"ssl-redirect=true", "/x", "", "", 200, "HOST /x 0 "},
		{"permanent-redirect=https://new.example/", "/", "", "", 301, "Location: https://new.example/"},
		{"permanent-redirect=https://new.example/;permanent-redirect-code=308", "/", "", "", 308, "Location: https://new.example/"},
		{"temporal-redirect=/elsewhere", "/", "", "", 302, "Location: /elsewhere"},
		{"proxy-body-size=1k", "/", long, "", 413, ""},
		{"proxy-body-size=1k", "/", "small", "", 200, "HOST / 5 "},
		{"upstream-vhost=inner", "/", "", "", 200, "inner / 0 "},
		{"x-forwarded-prefix=/base", "/", "", "", 200, "HOST / 0 /base"},
		{"whitelist-source-range=10.0.0.0/8", "/", "", "", 403, ""},
		{"whitelist-source-range=10.0.0.0/8,127.0.0.1", "/", "", "", 200, "HOST / 0 "},
		{"whitelist-source-range=nonsense", "/", "", "", 403, ""},
		{"denylist-source-range=127.0.0.0/8", "/", "", "", 403, ""},
		{"enable-cors=true;cors-allow-origin=https://*.a.example", "/", "", "Origin=https://x.a.example", 200, "Access-Control-Allow-Origin: https://x.a.example"},
		{"enable-cors=true;cors-allow-origin=https://*.a.example", "/", "", "Origin=https://evil.example", 200, "Access-Control-Allow-Origin: "},
		{"cors-allow-origin=*", "/", "", "Origin=https://x", 200, "Access-Control-Allow-Origin: "},
		{"auth-type=basic;auth-secret=users;auth-realm=inside", "/", "", "", 401, `Www-Authenticate: Basic realm="inside"`},
		{"auth-type=basic;auth-secret=users", "/", "", "Authorization=" + basic, 200, "HOST / 0 "},
		{"auth-type=basic;auth-secret=users", "/", "", "Authorization=" + basic[:len(basic)-2], 401, ""},
		{"auth-type=basic;auth-secret=missing", "/", "", "Authorization=" + basic, 401, ""},
		{"auth-type=basic;auth-secret=other/users", "/", "", "Authorization=" + basic, 401, ""},
		{"custom-headers=fields", "/", "", "", 200, "X-Added: 1"},
		{"affinity=cookie;session-cookie-name=s;session-cookie-path=/p;session-cookie-max-age=9;session-cookie-samesite=Lax;session-cookie-secure=true", "/", "", "", 200, "Set-Cookie: s="},
		{"session-cookie-name=s", "/", "", "", 200, "Set-Cookie: "},
	} {
		host := fmt.Sprintf("h%d.example", i)
		kind, path := "Prefix", "/"
		if strings.Contains(c.annotations, "use-regex") {
			kind, path = "ImplementationSpecific", "/x(/|$)(.*)"
		}
		ing := ingress(fmt.Sprint("web-", i), i, host+" "+kind+" "+path+" web")
		for pair := range strings.SplitSeq(c.annotations, ";") {
			key, value, _ := strings.Cut(pair, "=")
			annotate(ing, key, value)
		}
		r.apply(ing)
		method := http.MethodGet
		if c.body != "" {
			method = http.MethodPost
		}
		var header []string
		if name, value, ok := strings.Cut(c.header, "="); ok {
			header = []string{name, value}
		}
		got := r.do(method, host, c.path, c.body, header...)
		want, seen := strings.ReplaceAll(c.want, "HOST", host), got.body
		if name, value, ok := strings.Cut(want, ": "); ok {
			want, seen = value, got.Header.Get(name)
		}
		if got.StatusCode != c.status || !strings.HasPrefix(seen, want) || (want == "" && strings.Contains(c.want, ":") && seen != "") {
			t.Errorf("%s %s: got %d %q, want %d %q", c.annotations, c.path, got.StatusCode, seen, c.status, want)
		}
	}
}

// I-42: server-alias, default-backend, affinity and mirror-target.
func TestAnnotationsThatLeadElsewhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "1"), named(t, "2"), named(t, "3"))
	r.expose("spare", named(t, "spare"))
	r.expose("empty")
	copied := make(chan string, 8)
	mirror := backend(t, func(_ http.ResponseWriter, q *http.Request) { copied <- q.RequestURI + q.Header.Get("X-Sent") })
	r.apply(annotate(ingress("alias", 0, "a Prefix / web"), "server-alias", "b, c"), annotate(ingress("spare", 0, "d Prefix / empty"), "default-backend", "spare"),
		annotate(ingress("sticky", 0, "e Prefix / web"), "affinity", "cookie"), annotate(ingress("mirror", 0, "f Prefix / web"), "mirror-target", "http://"+mirror+"$request_uri"))
	for _, host := range []string{"a", "b", "c"} {
		if got := r.get(host, "/"); got.StatusCode != 200 {
			t.Errorf("alias %s: got %d", host, got.StatusCode)
		}
	}
	if got := r.get("d", "/"); got.body != "spare" {
		t.Errorf("default-backend: got %d %s", got.StatusCode, got.body)
	}
	first := r.get("e", "/")
	field, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
	for range 10 {
		if got := r.get("e", "/", "Cookie", field); got.body != first.body || got.Header.Get("Set-Cookie") != "" {
			t.Errorf("affinity: got %s and %q, want %s again", got.body, got.Header.Get("Set-Cookie"), first.body)
		}
	}
	r.get("f", "/m?x=1", "X-Sent", "yes")
	if got := <-copied; got != "/m?x=1yes" {
		t.Errorf("mirror: got %s", got)
	}
}

// I-42: limit-rps lets five seconds' worth through at once, and goes on as time does.
func TestALimitOfRequestsHoldsForEachClient(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRig(t, nil)
	r.c.limits.mu.Lock()
	r.c.limits.now = func() time.Time { return now }
	r.c.limits.mu.Unlock()
	r.expose("web", named(t, "web"))
	r.apply(annotate(ingress("web", 0, "- Prefix / web"), "limit-rps", "2"))
	codes := map[int]int{}
	for range 15 {
		codes[r.get("a", "/").StatusCode]++
	}
	if codes[200] != 10 || codes[429] != 5 {
		t.Errorf("got %v, want 10 of 200 and 5 of 429", codes)
	}
	r.c.limits.mu.Lock()
	now = now.Add(time.Second)
	r.c.limits.mu.Unlock()
	codes = map[int]int{}
	for range 4 {
		codes[r.get("a", "/").StatusCode]++
	}
	if codes[200] != 2 {
		t.Errorf("a second later: got %v, want 2 of 200", codes)
	}
}

// I-43, I-44: a canary's weight, on the wire.
func TestACanaryGetsItsShareOnTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("main", named(t, "main"))
	r.expose("canary", named(t, "canary"))
	r.apply(annotate(ingress("canary", 0, "a Prefix / canary"), "canary", "true", "canary-weight", "20"), ingress("main", 1, "a Prefix / main"))
	n := 0
	for range 1000 {
		if r.get("a", "/").body == "canary" {
			n++
		}
	}
	if n < 150 || n > 250 {
		t.Errorf("got %d of 1000, want 200 within four standard deviations", n)
	}
}
