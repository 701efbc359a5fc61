package ingress

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ingress makes an Ingress from lines such as "host Exact /path service:80". A host of "-" is none.
func ingress(name string, age int, lines ...string) *networkingv1.Ingress {
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "dev", Name: name, Annotations: map[string]string{},
		CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, age, 0, 0, time.UTC)),
	}}
	for _, line := range lines {
		words := strings.Fields(line)
		kind := networkingv1.PathType(words[1])
		host := strings.TrimPrefix(words[0], "-")
		rule := networkingv1.IngressRule{Host: host}
		rule.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
			Path: words[2], PathType: &kind, Backend: *toService(words[3]),
		}}}
		ing.Spec.Rules = append(ing.Spec.Rules, rule)
	}
	return ing
}

func toService(text string) *networkingv1.IngressBackend {
	name, port, ok := strings.Cut(text, ":")
	b := &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: 80}}
	if ok {
		b.Port = networkingv1.ServiceBackendPort{Name: port}
	}
	return &networkingv1.IngressBackend{Service: b}
}

func annotate(ing *networkingv1.Ingress, pairs ...string) *networkingv1.Ingress {
	for i := 0; i < len(pairs); i += 2 {
		ing.Annotations[nginxPrefix+pairs[i]] = pairs[i+1]
	}
	return ing
}

func table(ings ...*networkingv1.Ingress) *Table {
	routes, _ := Compile(ings, Sources{})
	return NewTable(routes)
}

// taker is the Service that takes a request: "" when no rule does.
func taker(t *Table, host, path string, header ...string) string {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	rule, ok := t.Find(&Request{Method: "GET", Host: host, Path: path, Header: h})
	switch {
	case !ok:
		return "400"
	case rule == nil:
		return ""
	}
	return rule.Backends[0].Service
}

type want struct{ host, path, service string }

func check(t *testing.T, table *Table, wants ...want) {
	t.Helper()
	for _, w := range wants {
		if got := taker(table, w.host, w.path); got != w.service {
			t.Errorf("%s%s: got %q, want %q", w.host, w.path, got, w.service)
		}
	}
}

// I-7: the path types of Kubernetes' own conformance tests.
func TestPathsMatchAsKubernetesSays(t *testing.T) {
	t.Parallel()
	check(t, table(ingress("exact", 0, "a Exact /foo foo")), want{"a", "/foo", "foo"}, want{"a", "/foo/", ""}, want{"a", "/FOO", ""}, want{"a", "/bar", ""})
	check(t, table(ingress("slash", 0, "a Exact /foo/ foo")), want{"a", "/foo", ""}, want{"a", "/foo/", "foo"})
	for _, path := range []string{"/foo", "/foo/"} {
		check(t, table(ingress("prefix", 0, "a Prefix "+path+" foo")), want{"a", "/foo", "foo"}, want{"a", "/foo/", "foo"},
			want{"a", "/foo/bar", "foo"}, want{"a", "/foobar", ""}, want{"a", "/FOO", ""}, want{"a", "/", ""})
	}
	check(t, table(ingress("elements", 0, "a Prefix /aaa/bbb b", "a Prefix /aaa a", "a Prefix / root")),
		want{"a", "/aaa/bbb", "b"}, want{"a", "/aaa/bbb/ccc", "b"}, want{"a", "/aaaccc", "root"}, want{"a", "/aaa/bbbxyz", "a"}, want{"a", "/x", "root"})
	check(t, table(ingress("mixed", 0, "a Prefix /foo prefix", "a Exact /foo exact")),
		want{"a", "/foo", "exact"}, want{"a", "/foo/", "prefix"}, want{"a", "/foo/x", "prefix"})
	check(t, table(ingress("both", 0, "a Prefix /foo bare", "a Prefix /foo/ slash")), want{"a", "/foo/x", "slash"})
	check(t, table(ingress("own", 0, "a ImplementationSpecific /foo foo")), want{"a", "/foo/bar", "foo"}, want{"a", "/foobar", ""})
}

// I-2, I-3, I-25: hosts, exact before wildcard before none.
func TestTheMostExactHostWins(t *testing.T) {
	t.Parallel()
	tab := table(ingress("none", 0, "- Prefix / every"), ingress("wild", 1, "*.example.com Prefix / wild"), ingress("exact", 2, "www.example.com Prefix / exact"))
	check(t, tab, want{"www.example.com", "/", "exact"}, want{"WWW.Example.com:8080", "/", "exact"}, want{"www.example.com.", "/", "exact"},
		want{"shop.example.com", "/", "wild"}, want{"example.com", "/", "every"}, want{"a.b.example.com", "/", "every"}, want{"[::1]:80", "/", "every"})
	only := table(ingress("wild", 1, "*.example.com Prefix / wild"))
	check(t, only, want{"example.com", "/", ""}, want{"a.b.example.com", "/", ""}, want{".example.com", "/", ""}, want{"x.example.com", "/", "wild"})
}

// I-25: a host's own rules that do not match leave the request to those of every host.
func TestRulesOfEveryHostTakeWhatAHostsOwnDoNot(t *testing.T) {
	t.Parallel()
	tab := table(ingress("none", 0, "- Prefix /common common"), ingress("exact", 2, "a Prefix /own own"))
	check(t, tab, want{"a", "/own", "own"}, want{"a", "/common", "common"}, want{"b", "/own", ""})
}

// I-26: Ingresses of one host are merged; the oldest wins a tie, then the name.
func TestTheOldestIngressWinsATie(t *testing.T) {
	t.Parallel()
	check(t, table(ingress("young", 5, "a Prefix / young", "a Prefix /y y"), ingress("old", 1, "a Prefix / old", "a Prefix /o o")),
		want{"a", "/", "old"}, want{"a", "/y", "y"}, want{"a", "/o", "o"})
	check(t, table(ingress("b", 1, "a Prefix / b"), ingress("a", 1, "a Prefix / a")), want{"a", "/", "a"})
}

// I-1, I-29: the default backend takes what no rule does.
func TestTheDefaultBackendTakesWhatNoRuleDoes(t *testing.T) {
	t.Parallel()
	plain := ingress("default", 0)
	plain.Spec.DefaultBackend = toService("default")
	ruled := ingress("ruled", 1, "a Prefix /x x")
	ruled.Spec.DefaultBackend = toService("own")
	check(t, table(plain, ruled), want{"b", "/any/path", "default"}, want{"a", "/x", "x"}, want{"a", "/y", "own"})
	check(t, table(ruled), want{"b", "/", "own"})
	check(t, table(ingress("none", 0, "a Prefix /x x")), want{"a", "/y", ""})
}

// A path in disguise meets the rule of the path that it is; one that is none is refused (RFC 3986, 6.2.2).
func TestAPathCannotPassByARuleInDisguise(t *testing.T) {
	t.Parallel()
	tab := table(ingress("a", 0, "a Prefix / open", "a Prefix /admin guarded"))
	for _, path := range []string{"/admin", "/%61dmin", "/x/../admin", "//admin", "/./admin/", "/x/%2e%2e/admin/y", "/x/.%2E/admin"} {
		check(t, tab, want{"a", path, "guarded"})
	}
	check(t, tab, want{"a", "/admin%2fx", "open"}, want{"a", "/x..", "open"}, want{"a", "/..", "400"}, want{"a", "/%2e%2e/x", "400"},
		want{"a", "/%zz", "400"}, want{"a", "/%0", "400"}, want{"a", "/%00", "400"}, want{"a", "admin", "400"}, want{"a", "", "400"})
}

// I-42: use-regex and the length of expressions.
func TestRegularExpressionsMatchFromTheStartTheLongestFirst(t *testing.T) {
	t.Parallel()
	ing := annotate(ingress("re", 0, "a ImplementationSpecific /v[0-9]+ version", "a ImplementationSpecific /v[0-9]+/users/.* users", "a Prefix / root"), "use-regex", "true")
	check(t, table(ing), want{"a", "/v12/x", "version"}, want{"a", "/V1/users/7", "users"}, want{"a", "/x/v1", "root"})
}

// I-43: the order of a canary's conditions, and before whom it is made.
func TestACanaryAsksHeaderThenCookieThenWeight(t *testing.T) {
	t.Parallel()
	for _, age := range []int{0, 9} {
		canary := annotate(ingress("canary", age, "a Prefix / canary"), "canary", "true", "canary-by-header", "X-Canary", "canary-by-cookie", "canary")
		tab := table(ingress("main", 5, "a Prefix / main"), canary)
		for _, c := range []struct{ header, cookie, want string }{
			{"always", "", "canary"}, {"never", "", "main"}, {"never", "canary=always", "main"}, {"", "canary=always", "canary"},
			{"", "x=1; canary=always", "canary"}, {"", "canary=never", "main"}, {"other", "canary=always", "canary"}, {"", "", "main"}, {"other", "", "main"},
		} {
			if got := taker(tab, "a", "/x", "X-Canary", c.header, "Cookie", c.cookie); got != c.want {
				t.Errorf("made at %d, header %q, cookie %q: got %s, want %s", age, c.header, c.cookie, got, c.want)
			}
		}
	}
}

// I-43: a header with a value or a pattern; a broken pattern leads nobody to the canary; a canary alone is nothing.
func TestACanaryByHeaderValueAndPattern(t *testing.T) {
	t.Parallel()
	main := ingress("main", 5, "a Prefix / main")
	for _, c := range []struct{ key, value, sent, want string }{
		{"canary-by-header-value", "blue", "blue", "canary"}, {"canary-by-header-value", "blue", "always", "main"},
		{"canary-by-header-pattern", "^v[23]$", "v2", "canary"}, {"canary-by-header-pattern", "^v[23]$", "v4", "main"},
		{"canary-by-header-pattern", "[[", "always", "main"},
	} {
		canary := annotate(ingress("canary", 0, "a Prefix / canary"), "canary", "true", "canary-by-header", "X-V", c.key, c.value)
		if got := taker(table(main, canary), "a", "/", "X-V", c.sent); got != c.want {
			t.Errorf("%s %s, sent %s: got %s, want %s", c.key, c.value, c.sent, got, c.want)
		}
	}
	alone := annotate(ingress("canary", 0, "a Prefix / canary"), "canary", "true", "canary-weight", "100")
	check(t, table(alone), want{"a", "/", ""})
}

// I-43, I-44: weights, drawn the same for the same seed, and kept within 3 requests: in any thousand and in any hundred, of all and of
// every second request.
func TestCanaryWeightsAreKept(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ weight, total int }{{0, 100}, {1, 100}, {30, 100}, {50, 100}, {100, 100}, {1, 4}, {200, 100}} {
		canary := annotate(ingress("canary", 9, "a Prefix / canary"), "canary", "true",
			"canary-weight", fmt.Sprint(c.weight), "canary-weight-total", fmt.Sprint(c.total))
		rule, _ := table(ingress("main", 0, "a Prefix / main"), canary).Find(&Request{Host: "a", Path: "/", Header: http.Header{}})
		share := min(1, float64(c.weight)/float64(c.total))
		for _, step := range []uint64{1, 2} {
			for seed := range uint64(20) {
				order := func() string {
					var b strings.Builder
					for i := range uint64(1000) {
						b.WriteByte(rule.draw(spread(seed, i*step)).Service[0])
					}
					return b.String()
				}
				first := order()
				if order() != first {
					t.Errorf("seed %d draws differently", seed)
				}
				for _, size := range []int{1000, 100} {
					for at := 0; at+size <= len(first); at += size {
						if n, want := strings.Count(first[at:at+size], "c"), share*float64(size); math.Abs(float64(n)-want) > 3 {
							t.Errorf("weight %d of %d, seed %d: got %d of %d, want %.0f", c.weight, c.total, seed, n, size, want)
						}
					}
				}
			}
		}
	}
}

// I-51, I-47: what is broken or unknown is told, and the rest of it and all others hold.
func TestABrokenIngressHarmsNobody(t *testing.T) {
	t.Parallel()
	broken := annotate(ingress("broken", 0, "a ImplementationSpecific /([ bad", "a Prefix /fine fine"), "use-regex", "true", "no-such-thing", "1", "proxy-body-size", "much")
	routes, problems := Compile([]*networkingv1.Ingress{broken, ingress("good", 1, "b Prefix / good")}, Sources{})
	check(t, NewTable(routes), want{"b", "/", "good"}, want{"a", "/fine", "fine"}, want{"a", "/([", ""})
	told := fmt.Sprint(problems)
	for _, part := range []string{"UnknownAnnotation", nginxPrefix + "no-such-thing", "InvalidAnnotation", "proxy-body-size", "InvalidPath", "rules[0]"} {
		if !strings.Contains(told, part) {
			t.Errorf("problems %v do not mention %s", told, part)
		}
	}
}

// What decides also explains.
func TestExplainNamesTheRuleTakenAndWhyTheOthersWereNot(t *testing.T) {
	t.Parallel()
	tab := table(ingress("a", 0, "a Prefix /x x", "a Prefix /x/y y", "a Prefix /z z"), ingress("b", 1, "- Prefix / every"))
	e := tab.Explain(&Request{Host: "a", Path: "/x/y/1", Header: http.Header{}})
	if !strings.Contains(e.Verdict, "spec.rules[1].http.paths[0] of Ingress dev/a takes it: dev/y:80 (1 of 1)") {
		t.Errorf("verdict: got %q", e.Verdict)
	}
	got := map[string]string{}
	for _, r := range e.Reasons {
		got[r.Host+r.Path] = r.Why
	}
	for path, part := range map[string]string{"a/x/y": "best", "a/x": "goes first", "a/z": "does not match", "*/": "goes first"} {
		if !strings.Contains(got[path], part) {
			t.Errorf("%s: got %q, want something with %q", path, got[path], part)
		}
	}
	if e := tab.Explain(&Request{Host: "a", Path: "/..", Header: http.Header{}}); !strings.Contains(e.Verdict, "400") {
		t.Errorf("a path above the root: got %q", e.Verdict)
	}
}

// I-42: hashes as htpasswd and openssl write them.
func TestPasswordsOfHtpasswdFilesAreVerified(t *testing.T) {
	t.Parallel()
	for hash, password := range map[string]string{"$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/": "secret", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=": "secret"} {
		if !verify(hash, password) || verify(hash, password+"x") || verify(hash, "") {
			t.Errorf("%s does not take exactly %q", hash, password)
		}
	}
}
