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

	"kubarium.dev/api"
)

// annotated42 is what a request gets under annotations: key=value;key=value. A header is name=value. What is wanted is the beginning of
// the body, or all values of the field named before a colon; HOST is the host that was asked.
var annotated42 = []struct {
	annotations, path, body, header string
	status                          int
	want                            string
}{
	{"use-regex=true;rewrite-target=/$2", "/x/a/b?q=1", "", "", 200, "HOST /a/b?q=1 0 "},
	{"use-regex=true;rewrite-target=/$2", "/X", "", "", 200, "HOST / 0 "},
	{"use-regex=true;rewrite-target=/$2", "/x/a%20b%2fc", "", "", 200, "HOST /a%20b%2Fc 0 "},
	{"use-regex=true;rewrite-target=/$1x$2", "/x/a", "", "", 200, "HOST //xa 0 "},
	{"rewrite-target=/$2", "/x/a", "", "", 200, "HOST /a 0 "}, // a group makes the path an expression
	{"use-regex=true", "/X/abc", "", "", 200, "HOST /X/abc 0 "},
	{"use-regex=true", "/xa", "", "", 404, ""},
	{"use-regex=false", "/x/abc", "", "", 200, "HOST /x/abc 0 "},
	{"rewrite-target=/fixed", "/x", "", "", 200, "HOST /fixed 0 "},
	{"rewrite-target=/n?b=1", "/x?q=1", "", "", 200, "HOST /n?b=1&q=1 0 "},
	{"rewrite-target=/n?", "/x?q=1", "", "", 200, "HOST /n 0 "},
	{"rewrite-target=/$host", "/x", "", "", 200, "HOST /x 0 "}, // no such variable: left out
	{"app-root=/app", "/", "", "", 302, "Location: /app"},
	{"app-root=/app", "/x", "", "", 200, "HOST /x 0 "},
	{"app-root=app", "/", "", "", 200, "HOST / 0 "},
	{"force-ssl-redirect=true", "/x?y", "", "", 308, "Location: https://HOST/x?y"},
	{"force-ssl-redirect=false", "/x", "", "", 200, "HOST /x 0 "},
	{"ssl-redirect=true", "/x", "", "", 200, "HOST /x 0 "},
	{"permanent-redirect=https://new.example/", "/", "", "", 301, "Location: https://new.example/"},
	{"permanent-redirect=https://new.example$request_uri", "/a?b", "", "", 301, "Location: https://new.example/a?b"},
	{"permanent-redirect=https://new.example/;permanent-redirect-code=308", "/", "", "", 308, "Location: https://new.example/"},
	{"permanent-redirect=https://new.example/;permanent-redirect-code=200", "/", "", "", 301, "Location: https://new.example/"},
	{"permanent-redirect=elsewhere", "/", "", "", 200, "HOST / 0 "},
	{"temporal-redirect=/elsewhere", "/", "", "", 302, "Location: /elsewhere"},
	{"temporal-redirect=/elsewhere;temporal-redirect-code=307", "/", "", "", 307, "Location: /elsewhere"},
	{"temporal-redirect=/t;permanent-redirect=/p", "/", "", "", 302, "Location: /t"},
	{"backend-protocol=HTTP", "/", "", "", 200, "HOST / 0 "},
	{"backend-protocol=http", "/", "", "", 200, "HOST / 0 "},
	{"backend-protocol=GOPHER", "/", "", "", 200, "HOST / 0 "},
	{"proxy-body-size=1k", "/", long, "", 413, ""},
	{"proxy-body-size=1k", "/", "small", "", 200, "HOST / 5 "},
	{"proxy-body-size=1K", "/", long[:1024], "", 200, "HOST / 1024 "},
	{"proxy-body-size=0", "/", long, "", 200, "HOST / 2000 "},
	{"proxy-body-size=5368709120", "/", long, "", 200, "HOST / 2000 "},
	{"upstream-vhost=inner", "/", "", "", 200, "inner / 0 "},
	{"upstream-vhost=a\r\nX-Forwarded-Prefix: /evil", "/", "", "", 200, "HOST / 0  "},
	{"x-forwarded-prefix=/base", "/", "", "", 200, "HOST / 0 /base"},
	{"x-forwarded-prefix=/base", "/", "", "X-Forwarded-Prefix=/evil", 200, "HOST / 0 /base"},
	{"service-upstream=false", "/", "", "X-Forwarded-Prefix=/evil", 200, "HOST / 0  "},
	{"whitelist-source-range=10.0.0.0/8", "/", "", "", 403, ""},
	{"whitelist-source-range=10.0.0.0/8,127.0.0.1", "/", "", "", 200, "HOST / 0 "},
	{"allowlist-source-range=10.0.0.0/8", "/", "", "", 403, ""},
	{"whitelist-source-range=nonsense", "/", "", "", 403, ""},
	{"denylist-source-range=127.0.0.0/8", "/", "", "", 403, ""},
	{"denylist-source-range=10.0.0.0/8", "/", "", "", 200, "HOST / 0 "},
	{"denylist-source-range=127.0.0.1;whitelist-source-range=127.0.0.0/8", "/", "", "", 403, ""},
	{"enable-cors=true", "/", "", "Origin=https://any.example", 200, "Access-Control-Allow-Origin: *"},
	{"enable-cors=true", "/", "", "Origin=backend", 200, "Access-Control-Allow-Origin: *"}, // the backend says it, too
	{"enable-cors=true", "/", "", "Origin=https://any.example", 200, "Access-Control-Allow-Credentials: true"},
	{"enable-cors=true;cors-allow-credentials=false", "/", "", "Origin=https://any.example", 200, "Access-Control-Allow-Credentials: "},
	{"enable-cors=true;cors-allow-origin=https://*.a.example", "/", "", "Origin=https://x.a.example", 200, "Access-Control-Allow-Origin: https://x.a.example"},
	{"enable-cors=true;cors-allow-origin=https://*.a.example", "/", "", "Origin=https://evil.example", 200, "Access-Control-Allow-Origin: "},
	{"enable-cors=true;cors-allow-origin=https://*.a.example", "/", "", "Origin=https://x.y.a.example", 200, "Access-Control-Allow-Origin: "},
	{"enable-cors=true;cors-allow-origin=https://*.a.example", "/", "", "Origin=https://evil.example/.a.example", 200, "Access-Control-Allow-Origin: "},
	{"enable-cors=true;cors-allow-origin=", "/", "", "Origin=https://a.example", 200, "Access-Control-Allow-Origin: "},
	{"enable-cors=true;cors-allow-origin=https://b,https://a", "/", "", "", 200, "Vary: Origin"},
	{"cors-allow-origin=*", "/", "", "Origin=https://x", 200, "Access-Control-Allow-Origin: "},
	{"auth-type=basic;auth-secret=users;auth-realm=inside", "/", "", "", 401, `Www-Authenticate: Basic realm="inside"`},
	{"auth-type=basic;auth-secret=users", "/", "", "", 401, `Www-Authenticate: Basic realm="Authentication Required"`},
	{"auth-type=basic;auth-secret=dev/users", "/", "", "Authorization=" + basic, 200, "HOST / 0  ."}, // and the backend is not told
	{"auth-type=basic;auth-secret=users", "/", "", "Authorization=" + basic[:len(basic)-2], 401, ""},
	{"auth-type=basic;auth-secret=missing", "/", "", "Authorization=" + basic, 401, ""},
	{"auth-type=basic;auth-secret=other/users", "/", "", "Authorization=" + basic, 401, ""},
	{"auth-type=basic", "/", "", "Authorization=" + basic, 401, ""},
	{"auth-type=digest;auth-secret=users", "/", "", "", 401, ""},
	{"auth-realm=inside", "/", "", "Authorization=" + basic, 200, "HOST / 0  " + basic}, // a realm alone asks nobody
	{"custom-headers=fields", "/", "", "", 200, "X-Added: 1"},
	{"custom-headers=dev/fields", "/", "", "", 200, "X-Added: 1"},
	{"custom-headers=other/fields", "/", "", "", 200, "X-Added: backend"},
	{"custom-headers=missing", "/", "", "", 200, "X-Added: backend"},
	{"session-cookie-name=s", "/", "", "", 200, "Set-Cookie: "},
	{"affinity=ip", "/", "", "", 200, "Set-Cookie: "},
}

var (
	basic = "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	long  = strings.Repeat("x", 2000)
)

// I-42: each annotation, by what a client of either engine and a backend see of it.
func TestAnnotationsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		w.Header().Set("X-Added", "backend")
		if q.Header.Get("Origin") == "backend" {
			w.Header().Set("Access-Control-Allow-Origin", "https://backend")
		}
		fmt.Fprintf(w, "%s %s %d %s %s.", q.Host, q.RequestURI, len(text), q.Header.Get("X-Forwarded-Prefix"), q.Header.Get("Authorization"))
	}))
	r.apply(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "users"}, Data: map[string][]byte{"auth": []byte("# people\nann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "fields"}, Data: map[string]string{"X-Added": "1"}})
	var all []api.Object
	host := func(i int) string { return fmt.Sprintf("h%d.example", i) }
	for i, c := range annotated42 {
		rule := " Prefix / web"
		if strings.Contains(c.annotations, "use-regex") || strings.Contains(c.annotations, "$2") {
			rule = " ImplementationSpecific /x(/|$)(.*) web"
		}
		if strings.Contains(c.annotations, "use-regex=false") {
			rule = " ImplementationSpecific /x web"
		}
		ing := ingress(fmt.Sprint("web-", i), i, host(i)+rule)
		for pair := range strings.SplitSeq(c.annotations, ";") {
			key, value, _ := strings.Cut(pair, "=")
			annotate(ing, key, value)
		}
		all = append(all, ing)
	}
	r.apply(all...)
	for engine, by := range engines(t) {
		for i, c := range annotated42 {
			method, header := http.MethodGet, []string(nil)
			if c.body != "" {
				method = http.MethodPost
			}
			if name, value, ok := strings.Cut(c.header, "="); ok {
				header = []string{name, value}
			}
			got := r.doBy(by, method, host(i), c.path, c.body, header...)
			want := strings.ReplaceAll(c.want, "HOST", host(i))
			fits := strings.HasPrefix(got.body, want)
			if name, value, ok := strings.Cut(want, ": "); ok {
				fits = strings.Join(got.Header.Values(name), "+") == value
			}
			if got.StatusCode != c.status || !fits {
				t.Errorf("%s, %s %s: got %d %q %v, want %d %q", engine, c.annotations, c.path, got.StatusCode, got.body, got.Header, c.status, want)
			}
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
	if codes[200] != 10 || codes[503] != 5 {
		t.Errorf("got %v, want 10 of 200 and 5 of 503", codes)
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
