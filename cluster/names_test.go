package cluster_test

import (
	"compress/gzip"
	"errors"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// upstream is a DNS server on the host's loopback that knows a few names.
func upstream(t *testing.T, records ...string) string {
	t.Helper()
	started := make(chan struct{})
	s := &wire.Server{Addr: "127.0.0.1:0", Net: "udp", NotifyStartedFunc: func() { close(started) }}
	s.Handler = wire.HandlerFunc(func(w wire.ResponseWriter, req *wire.Msg) {
		m := new(wire.Msg).SetReply(req)
		m.Rcode = wire.RcodeNameError
		for _, text := range records {
			rr, err := wire.NewRR(text)
			if err != nil {
				t.Error(err)
				continue
			}
			if strings.EqualFold(rr.Header().Name, req.Question[0].Name) {
				m.Rcode = wire.RcodeSuccess
				if rr.Header().Rrtype == req.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := errors.Join(s.Shutdown(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return s.PacketConn.LocalAddr().String()
}

const outward = `
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec: {containers: [{name: c, image: "web:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  containers: [{name: c, image: "web:1"}]
  dnsPolicy: None
  dnsConfig: {nameservers: [10.96.0.10], searches: [prod.svc.cluster.local], options: [{name: ndots, value: "2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hosts}
spec: {containers: [{name: c, image: "web:1"}], dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.53]}}
`

// D-9, D-23, D-31: from a pod, names outside the cluster are answered by servers that the host reaches, here on its loopback;
// stub domains by their own, fixed names at once, and an ExternalName leads to them.
func TestPodsResolveNamesOutsideTheCluster(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Config: cluster.Config{DNS: cluster.DNSConfig{
		Upstream:    cluster.Servers{upstream(t, "www.example.com. 60 IN A 192.0.2.80")},
		StubDomains: map[string]cluster.Servers{"corp.example": {upstream(t, "git.corp.example. 60 IN A 192.0.2.81")}},
		Hosts:       map[string][]netip.Addr{"printer.office": {netip.MustParseAddr("192.0.2.82")}},
	}}})
	c.Apply(outward)
	c.Ready("default", 3)
	for name, want := range map[string]string{
		"www.example.com": "192.0.2.80", "git.corp.example": "192.0.2.81", "printer.office": "192.0.2.82",
		"away.default.svc.cluster.local": "192.0.2.80",
	} {
		if got, err := c.Lookup("pod/plain", name); err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v %v, want %s", name, got, err, want)
		}
	}
	if got, err := c.Lookup("pod/plain", "no.example.com"); err == nil {
		t.Errorf("a name that the upstream does not know: %v", got)
	}
	asked, err := c.Questions("pod/plain", "default")
	if err != nil || len(asked) < 5 || !strings.HasPrefix(asked[len(asked)-1].Name, "no.example.com") {
		t.Errorf("D-42: the pod's questions: %v %v", asked, err)
	}
	if others, err := c.Questions("pod/own", "default"); err != nil || len(others) > 0 {
		t.Errorf("D-42: the questions of a pod that asked nothing: %v %v", others, err)
	}
}

// D-20, D-21, D-29: what a walk asks follows the pod's own resolv.conf, and its answers are those that the pod gets.
func TestAWalkFollowsThePodsOwnSettings(t *testing.T) {
	t.Parallel()
	ttl := cluster.Duration(0)
	c := clustertest.Start(t, cluster.Options{Config: cluster.Config{DNS: cluster.DNSConfig{
		TTL: &ttl, Upstream: cluster.Servers{upstream(t, "www.example.com. 60 IN A 192.0.2.80")},
	}}})
	c.Apply("{apiVersion: v1, kind: Namespace, metadata: {name: prod}}")
	c.Apply(outward + "---\n{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: prod}, spec: {ports: [{port: 80}]}}\n")
	c.Ready("default", 3)
	walk := func(name, from string) (w cluster.NameWalk, asked []string) {
		t.Helper()
		w, err := c.WhyName(t.Context(), name, from, "default")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range w.Steps {
			asked = append(asked, s.Name+" "+s.Type+" "+s.Rcode)
		}
		return w, asked
	}
	for _, tt := range []struct {
		name, from string
		want       []string
		found      int
	}{
		{"shop.prod", "pod/plain", []string{
			"shop.prod.default.svc.cluster.local. A NXDOMAIN", "shop.prod.default.svc.cluster.local. AAAA NXDOMAIN",
			"shop.prod.svc.cluster.local. A NOERROR", "shop.prod.svc.cluster.local. AAAA NOERROR",
		}, 1},
		{"shop", "pod/default/own", []string{"shop.prod.svc.cluster.local. A NOERROR", "shop.prod.svc.cluster.local. AAAA NOERROR"}, 1},
		{"www.example.com", "pod/own", []string{"www.example.com. A NOERROR", "www.example.com. AAAA NOERROR"}, 1},
		{"away", "", []string{"away.default.svc.cluster.local. A NOERROR", "away.default.svc.cluster.local. AAAA NOERROR"}, 1},
		{"shop.prod", "pod/hosts", nil, 0},
	} {
		w, asked := walk(tt.name, tt.from)
		if diff := cmp.Diff(tt.want, asked); diff != "" || len(w.Addresses) != tt.found {
			t.Errorf("%s from %q: %v %s\n%s", tt.name, tt.from, w.Addresses, w.Explanation, diff)
		}
	}
	if w, _ := walk("kubernetes", "pod/plain"); !slices.Equal(w.Steps[0].Answers, []string{"kubernetes.default.svc.cluster.local. 0 IN A 10.96.0.1"}) {
		t.Errorf("with a TTL of 0s: got %q", w.Steps[0].Answers)
	}
	if w, _ := walk("shop", "pod/hosts"); !strings.Contains(w.Explanation, "the pod asks 192.0.2.53 and not the cluster's DNS") {
		t.Errorf("a pod that asks others: %s", w.Explanation)
	}
	if w, _ := walk("10.96.0.10", "pod/plain"); len(w.Steps) != 1 || !strings.HasSuffix(w.Explanation, "finds kube-dns.kube-system.svc.cluster.local.") {
		t.Errorf("an address: %+v", w)
	}
	for name, says := range map[string]string{
		"nobody.prod":              "no address after 8 questions in",
		"kube-dns.kube-system.svc": "after 6 questions in",
		"prod.svc.cluster.local.":  "says: No address associated with hostname",
		"_no._tcp.shop.prod":       "no SRV record after 4 questions in",
		"10.0.96.10.in-addr.arpa":  "found as 10.0.96.10.in-addr.arpa., by Service kube-system/kube-dns, after 1 question in",
		"bücher.de.":               "browsers and curl ask for xn--bcher-kva.de. instead",
	} {
		if w, _ := walk(name, "pod/plain"); !strings.Contains(w.Explanation, says) {
			t.Errorf("%s: got %q, want %q in it", name, w.Explanation, says)
		}
	}
	for name, says := range map[string]string{
		"": "name is missing", "a..b": "a label has 1 to 63 bytes", strings.Repeat("a", 64): "a label has 1 to 63 bytes", "a b": "it has white space in it",
		"https://shop.prod:8443/cart": "it is a URL, with the name shop.prod in it", "shop.prod:80": "it is a name and a port: the name is shop.prod",
		"[fd00::1]:80": "the name is fd00::1",
	} {
		if w, err := c.WhyName(t.Context(), name, "", "default"); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v %v, want %q", name, w, err, says)
		}
	}
	if w, _ := walk("shop.prod", ""); !strings.Contains(w.Explanation, "by Service prod/shop, after 4 questions") {
		t.Errorf("what the walk says: %s", w.Explanation)
	}
}

// D-22, D-12, D-37: the real C libraries find names by all their forms, a pod's own among them; with autopath they ask for one name
// where it would be up to four.
func TestAPodsCLibraryFindsNames(t *testing.T) {
	t.Parallel()
	for _, autopath := range []bool{false, true} {
		c := clustertest.Start(t, cluster.Options{Config: cluster.Config{DNS: cluster.DNSConfig{
			Upstream: cluster.Servers{upstream(t, "www.example.com. 60 IN A 192.0.2.80")}, Autopath: autopath,
		}}})
		c.Apply("{apiVersion: v1, kind: Namespace, metadata: {name: prod}}")
		c.Apply(outward + `---
{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: prod}, spec: {clusterIP: 10.96.0.88, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: near}, spec: {clusterIP: 10.96.0.89, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: sub}, spec: {clusterIP: None, selector: {app: busy}}}
---
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {app: busy}}
spec: {hostname: host, subdomain: sub, containers: [{name: c, image: "any:1", command: [sleep, "3600"]}]}
`)
		c.Ready("default", 4)
		c.Programmed()
		libraries := libraries(t, c)
		for name, want := range map[string]struct {
			address string
			names   int
		}{
			"near": {"10.96.0.89", 1}, "shop.prod": {"10.96.0.88", 2}, "shop.prod.svc": {"10.96.0.88", 3},
			"shop.prod.svc.cluster.local": {"10.96.0.88", 4}, "shop.prod.svc.cluster.local.": {"10.96.0.88", 1},
			"www.example.com": {"192.0.2.80", 4}, "away": {"192.0.2.80", 1},
		} {
			names := want.names
			if autopath {
				names = 1
			}
			for library, command := range libraries {
				before := len(asked(t, c, "pod/busy"))
				if got := resolve(t, c, command, name); !slices.Equal(got, []string{want.address}) {
					t.Errorf("%s: got %q for %s, want %s", library, got, name, want.address)
				}
				if got := slices.Compact(asked(t, c, "pod/busy")[before:]); len(got) != names {
					t.Errorf("autopath %v: for %s %s asked %q, want %d names", autopath, name, library, got, names)
				}
			}
		}
		pod, err := c.Client.CoreV1().Pods("default").Get(t.Context(), "busy", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		own := pod.Status.PodIP
		for library, command := range libraries {
			if got := resolve(t, c, command, "host.sub.default.svc.cluster.local."); !slices.Equal(got, []string{own}) {
				t.Errorf("its own name: got %q by %s, want %s", got, library, own)
			}
		}
		if got := run(t, c, nil, "grep", "-w", own, "/etc/hosts"); got != own+"\thost.sub.default.svc.cluster.local\thost\n" {
			t.Errorf("the pod's line of /etc/hosts is %q", got)
		}
		dashed := strings.ReplaceAll(own, ".", "-") + ".default.pod.cluster.local" // D-28
		for _, name := range []string{dashed, "host.sub.default.svc.cluster.local"} {
			if got, err := c.Lookup("pod/plain", name); err != nil || !slices.Equal(got, []string{own}) {
				t.Errorf("%s: got %q %v, want %s", name, got, err, own)
			}
		}
		if got, err := c.Lookup("pod/plain", "10-244-9-9.default.pod.cluster.local"); err == nil {
			t.Errorf("a pod that is not there: got %q", got)
		}
	}
}

// asked is the names that a pod asked for.
func asked(t *testing.T, c *clustertest.Cluster, from string) (names []string) {
	t.Helper()
	all, err := c.Questions(from, "default")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		names = append(names, q.Name)
	}
	return names
}

// libraries is how the C libraries are asked for a name in pod busy: glibc by a program of the host, musl by one that holds it.
func libraries(t *testing.T, c *clustertest.Cluster) map[string][]string {
	t.Helper()
	commands := map[string][]string{"glibc": {"getent", "ahosts"}}
	if runtime.GOARCH != "amd64" {
		t.Log("musl is not asked: testdata/musl/ask.gz is for amd64")
		return commands
	}
	packed, err := os.Open("testdata/musl/ask.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	program, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, program, "sh", "-c", "cat >/tmp/ask && chmod 755 /tmp/ask")
	commands["musl"] = []string{"/tmp/ask"}
	return commands
}

// run runs a command in pod busy and returns what it says.
func run(t *testing.T, c *clustertest.Cluster, in io.Reader, command ...string) string {
	t.Helper()
	var out strings.Builder
	req := execIn("busy", &out, command...)
	req.Stdin = in
	if err := c.Exec(t.Context(), req); err != nil {
		t.Errorf("%q: %v\n%s", command, err, &out)
	}
	return out.String()
}

// resolve has a command ask its C library in pod busy, and returns the addresses, each once.
func resolve(t *testing.T, c *clustertest.Cluster, command []string, name string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(run(t, c, nil, append(slices.Clip(command), name)...)) {
		if words := strings.Fields(line); !slices.Contains(all, words[0]) {
			all = append(all, words[0])
		}
	}
	return all
}
