package ingress

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
)

// canaryRig serves main at host a, with Services named main and canary.
func canaryRig(t *testing.T, seed uint64) *rig {
	t.Helper()
	r := newRig(t, func(c *Config) { c.Seed = seed })
	for _, name := range []string{"main", "canary", "other"} {
		r.expose(name, named(t, name))
	}
	return r
}

// canaryOf is an Ingress made at an age, marked as a canary.
func canaryOf(age int, pairs ...string) *networkingv1.Ingress {
	return annotate(annotate(ingress("canary", age, "a Prefix / canary"), "canary", "true"), pairs...)
}

// order is who answered a number of requests, one letter each.
func (r *rig) order(by http.RoundTripper, n int) string {
	var b []byte
	for range n {
		b = append(b, r.doBy(by, "GET", "a", "/", "").body[0])
	}
	return string(b)
}

// I-43, I-44: of 1,000 requests a canary gets its weight's share within 3, where chance would be within 30; the same ones for the same seed, by
// either engine, and others for another.
func TestACanaryGetsItsShareOnTheWire(t *testing.T) {
	t.Parallel()
	const n = 1000
	for i, c := range []struct {
		weight, total string
		share         float64
	}{{"0", "100", 0}, {"50", "100", .5}, {"100", "100", 1}, {"20", "", .2}, {"1", "4", .25}, {"200", "100", 1}} {
		t.Run(c.weight+" of "+c.total, func(t *testing.T) {
			t.Parallel()
			canary := canaryOf(i%2*9, "canary-weight", c.weight) // older and younger than main
			if c.total != "" {
				annotate(canary, "canary-weight-total", c.total)
			}
			order := func(engine string, seed uint64) string {
				r := canaryRig(t, seed)
				r.apply(canary.DeepCopy(), ingress("main", 5, "a Prefix / main"))
				return r.order(engines(t)[engine], n)
			}
			first := order("HTTP/1.1", 7)
			if got, want := strings.Count(first, "c"), n*c.share; math.Abs(float64(got)-want) > 3 {
				t.Errorf("got %d of %d, want %.0f", got, n, want)
			}
			if c.total != "" {
				return // one is enough to compare
			}
			if order("HTTP/2", 7) != first {
				t.Error("the same seed led other requests to the canary")
			}
			if order("HTTP/1.1", 8) == first {
				t.Error("another seed led the same requests to the canary")
			}
		})
	}
}

// I-43: header before cookie before weight, each with its words, on the wire; a pattern that is none leads who sends the header to main.
func TestACanarysConditionsOnTheWire(t *testing.T) {
	t.Parallel()
	r := canaryRig(t, 7)
	r.apply(ingress("main", 5, "a Prefix / main"))
	all := []string{"canary-by-header", "X-C", "canary-by-cookie", "c"}
	with := func(more ...string) []string { return append(all[:len(all):len(all)], more...) }
	for _, c := range []struct {
		annotations          []string
		header, cookie, want string
	}{
		{all, "always", "", "canary"}, {all, "never", "", "main"}, {all, "", "", "main"}, {all, "Always", "", "main"}, {all, "yes", "", "main"},
		{all, "", "c=always", "canary"}, {all, "", "c=never", "main"}, {all, "", "c=yes", "main"}, {all, "", "d=always", "main"}, {all, "", "d=1; c=always", "canary"},
		{all, "never", "c=always", "main"}, {all, "always", "c=never", "canary"}, {all, "yes", "c=always", "canary"},
		{with("canary-weight", "100"), "", "", "canary"}, {with("canary-weight", "100"), "never", "", "main"}, {with("canary-weight", "100"), "", "c=never", "main"},
		{with("canary-weight", "0"), "always", "", "canary"}, {with("canary-weight", "0"), "", "c=always", "canary"},
		{with("canary-by-header-value", "blue"), "blue", "", "canary"}, {with("canary-by-header-value", "blue"), "always", "", "main"},
		{with("canary-by-header-value", "blue"), "never", "c=always", "canary"}, // with a value of its own, "never" is a word like others
		{with("canary-by-header-pattern", "^v[23]$"), "v2", "", "canary"}, {with("canary-by-header-pattern", "^v[23]$"), "v4", "", "main"},
		{with("canary-by-header-pattern", "b+"), "abbc", "", "canary"}, {with("canary-by-header-pattern", "b+"), "always", "c=always", "canary"},
		{with("canary-by-header-value", "blue", "canary-by-header-pattern", "red"), "red", "", "main"},
		{with("canary-by-header-value", "blue", "canary-by-header-pattern", "[["), "blue", "", "canary"},
		{with("canary-by-header-pattern", "[["), "always", "", "main"}, {with("canary-by-header-pattern", "[[", "canary-weight", "100"), "x", "c=always", "main"},
		{with("canary-by-header-pattern", "[["), "", "c=always", "canary"}, // who does not send the header is asked on
		{[]string{"canary-by-header-value", "blue"}, "blue", "", "main"},   // of no header
		{[]string{"canary-weight", "many"}, "", "", "main"},
		{[]string{"canary-by-header", "X C", "canary-weight", "100"}, "", "", "canary"},
	} {
		r.apply(canaryOf(9, c.annotations...))
		var header []string
		if c.header != "" {
			header = append(header, "X-C", c.header)
		}
		if c.cookie != "" {
			header = append(header, "Cookie", c.cookie)
		}
		for engine, by := range engines(t) {
			if got := r.doBy(by, "GET", "a", "/x", "", header...); got.body != c.want {
				t.Errorf("%s, %q, header %q, cookie %q: got %d %s, want %s", engine, c.annotations, c.header, c.cookie, got.StatusCode, got.body, c.want)
			}
		}
	}
}

// I-43: a canary may be made before and after its main Ingress, and leave again; alone, or beside another path, it takes nothing.
func TestACanaryComesAndGoes(t *testing.T) {
	t.Parallel()
	r := canaryRig(t, 7)
	ask := func(path, want string) {
		t.Helper()
		got := r.get("a", path)
		if got.StatusCode == 404 {
			got.body = "404"
		}
		if got.body != want {
			t.Errorf("%s: got %d %s, want %s", path, got.StatusCode, got.body, want)
		}
	}
	canary, main := canaryOf(0, "canary-weight", "100"), ingress("main", 5, "a Prefix / main")
	r.apply(canary)
	ask("/", "404")
	r.apply(main)
	ask("/", "canary")
	r.remove(canary)
	ask("/", "main")
	r.apply(canary)
	ask("/", "canary")
	r.remove(main)
	ask("/", "404")
	r.apply(ingress("main", 5, "a Prefix /p main", "a Exact / other"))
	ask("/", "other")
	ask("/p", "main")
	ask("/q", "404")
	r.apply(main)
	second := canaryOf(1, "canary-weight", "100")
	second.Name, second.Spec.Rules[0].HTTP.Paths[0].Backend = "second", *toService("other")
	r.apply(second)
	ask("/", "canary") // the oldest canary's
	r.remove(canary)
	ask("/", "other")
	annotate(second, "canary", "false") // an Ingress like others, and younger than main
	second.CreationTimestamp.Time = second.CreationTimestamp.Add(time.Hour)
	r.remove(second)
	r.apply(second)
	ask("/", "main")
}

// I-43: a canary's requests pass its main Ingress's filters, and reach it in main's protocol unless it names its own.
func TestACanaryHasItsMainsFiltersAndProtocol(t *testing.T) {
	t.Parallel()
	r := canaryRig(t, 7)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Proto, " ", q.RequestURI) }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	r.expose("canary", s.Listener.Addr().String())
	r.apply(annotate(ingress("main", 5, "a Prefix / main"), "backend-protocol", "GRPC", "rewrite-target", "/of-main"))
	for _, by := range [][]string{{"canary-weight", "100"}, {"canary-by-header", "X-C"}, {"canary-by-cookie", "c"}} {
		r.apply(canaryOf(9, append(by, "rewrite-target", "/of-canary")...))
		if got := r.get("a", "/x", "X-C", "always", "Cookie", "c=always"); got.body != "HTTP/2.0 /of-main" {
			t.Errorf("%s: got %d %q", by, got.StatusCode, got.body)
		}
	}
	r.expose("canary", named(t, "canary"))
	r.apply(canaryOf(9, "canary-weight", "100", "backend-protocol", "HTTP"))
	if got := r.get("a", "/"); got.body != "canary" {
		t.Errorf("a protocol of its own: got %d %q", got.StatusCode, got.body)
	}
}

// I-42, I-43: a client that an affinity cookie holds stays with the canary or with main, until that takes no more requests.
func TestAffinityHoldsBesideACanary(t *testing.T) {
	t.Parallel()
	r := canaryRig(t, 7)
	r.apply(annotate(ingress("main", 5, "a Prefix / main"), "affinity", "cookie"), canaryOf(9, "canary-weight", "50"))
	cookies := map[string]string{}
	for len(cookies) < 2 {
		got := r.get("a", "/")
		cookies[got.body] = got.Cookies()[0].Name + "=" + got.Cookies()[0].Value
	}
	for who, cookie := range cookies {
		for range 20 {
			if got := r.get("a", "/", "Cookie", cookie); got.body != who || len(got.Cookies()) != 0 {
				t.Fatalf("who was led to %s got %s, and %q", who, got.body, got.Header["Set-Cookie"])
			}
		}
	}
	r.apply(canaryOf(9, "canary-weight", "100"))
	if got := r.get("a", "/", "Cookie", cookies["main"]); got.body != "canary" {
		t.Errorf("when the canary takes all: got %s", got.body)
	}
	r.apply(canaryOf(9, "canary-weight", "0"))
	if got := r.get("a", "/", "Cookie", cookies["canary"]); got.body != "main" {
		t.Errorf("when it takes none: got %s", got.body)
	}
}
