package cluster

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/dns"
)

func TestALabelChangeReadsAsKubectlWritesIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		old, now map[string]string
		want     string
	}{
		{nil, nil, ""},
		{map[string]string{"a": "1"}, map[string]string{"a": "1"}, ""},
		{nil, map[string]string{"track": "stable"}, "track=stable"},
		{map[string]string{"a": "1", "b": "2"}, map[string]string{"a": "3"}, "a=3 b-"},
		{map[string]string{"y": "", "x": ""}, nil, "x- y-"},
	} {
		if got := labelChange(tt.old, tt.now); got != tt.want {
			t.Errorf("%v to %v: got %q, want %q", tt.old, tt.now, got, tt.want)
		}
	}
}

func TestPodsAreGroupedByWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	pod := func(labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: labels}}
	}
	for _, tt := range []struct {
		pod  *corev1.Pod
		by   string
		want string
	}{
		{pod(map[string]string{"version": "v1", "app": "shop"}), "", "v1"},
		{pod(map[string]string{"app": "shop"}), "version", "shop"},
		{pod(nil), "version", groupOther},
		{pod(map[string]string{"version": "v1"}), "pod", "p"},
		{pod(map[string]string{"tier": "gold", "version": "v1"}), "label=tier", "gold"},
		{pod(map[string]string{"version": "v1"}), "label=tier", groupOther},
	} {
		if got := groupOf(tt.pod, tt.by); got != tt.want {
			t.Errorf("%v by %q: got %q, want %q", tt.pod.Labels, tt.by, got, tt.want)
		}
	}
}

func TestSharesAreOfWhatWasCounted(t *testing.T) {
	t.Parallel()
	got := finish(map[string]*Share{"v1": {Group: "v1", Ready: 3, Requests: 30, Connections: 1}, "v2": {Group: "v2", Ready: 1, Requests: 10}}, 4)
	if len(got) != 2 || got[0].Expected != 0.75 || got[0].Observed != 0.75 || got[1].Observed != 0.25 {
		t.Errorf("by requests: %+v", got)
	}
	got = finish(map[string]*Share{"v1": {Group: "v1", Connections: 1}, "v2": {Group: "v2", Connections: 3}}, 0)
	if got[0].Expected != 0 || got[0].Observed != 0.25 {
		t.Errorf("by connections: %+v", got)
	}
}

func TestAPortThatMayNotBeBoundMovesUp(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ port, first, want uint16 }{{80, 0, 80}, {80, 1024, 8080}, {443, 1024, 8443}, {30080, 1024, 30080}, {80, 80, 80}} {
		if got := hostPort(tt.port, tt.first); got != tt.want {
			t.Errorf("%d, bindable from %d: got %d, want %d", tt.port, tt.first, got, tt.want)
		}
	}
}

// Every mistake in a configuration is told, with its line where there is one.
func TestAWrongConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: kubarium.dev/v1alpha1\nkind: Cluster\n"
	for text, want := range map[string]string{
		"kind: Cluster\n":                                       "it must begin with apiVersion",
		head + "nodez: []\n":                                    "line 3: field nodez not found",
		head + "nodes: [{name: A_b}]\n":                         `nodes[0].name "A_b"`,
		head + "nodes: [{name: a}, {name: a}]\n":                `nodes[1].name "a" is there twice`,
		head + "terminationOrder: random\n":                     "terminationOrder",
		head + "networks: {services: 'fd00::/108'}\n":           "must be an IPv4 range",
		head + "networks: {services: 10.0.0.0/28}\n":            "networks.services a /24 or larger",
		head + "networks: {dns: 10.1.2.3}\n":                    "networks.dns 10.1.2.3 is not in networks.services",
		head + "dns: {upstream: [resolver.example]}\n":          `dns.upstream[0] "resolver.example" must be an address`,
		head + "dns: {stubDomains: {a.b: none}}\n":              "dns.stubDomains[a.b]: it has no server",
		head + "dns: {hosts: {x.cluster.local: [192.0.2.1]}}\n": "names of the cluster come from its objects",
		head + "dns: {hosts: {x.example: []}}\n":                "it needs at least one address",
		head + "dns: {pods: all}\n":                             `dns.pods "all" must be verified, insecure or off`,
		head + "dns: {ttl: -1s}\n":                              "dns.ttl -1s must be whole seconds from 0s to 1h",
		head + "dns: {ttl: 1h1s}\n":                             "dns.ttl 1h0m1s must be whole seconds from 0s to 1h",
		head + "dns: {ttl: 100ms}\n":                            "dns.ttl 100ms must be whole seconds from 0s to 1h",
		head + "dns: {hots: {}}\n":                              "line 3: field hots not found",
		head + "nodePortAddresses: [primary, 10.0.0.0/8]\n":     "primary stands alone",
		head + "images: [{command: [sleep]}]\n":                 "images[0].image is missing",
		head + "networks: {pods: 10.244.0.0/20}\nnodes: []\n\n": "networks.pods needs a /16 or larger",
	} {
		path := filepath.Join(t.TempDir(), "cluster.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(path)
		if err == nil {
			_, err = Options{StateDir: t.TempDir(), Config: c}.WithDefaults()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestEachNodeHasItsOwnRanges(t *testing.T) {
	t.Parallel()
	o, err := Options{StateDir: t.TempDir()}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	n := o.Config.Networks
	if got := n.nodeAddress(1); got != netip.MustParseAddr("172.30.0.12") {
		t.Errorf("got %v", got)
	}
	if got := n.podRange(1); got != netip.MustParsePrefix("10.244.2.0/24") {
		t.Errorf("got %v", got)
	}
	if got := n.DNS; got != netip.MustParseAddr("10.96.0.10") {
		t.Errorf("got %v", got)
	}
}

// D-23: the words of a resolv.conf that count are those that a C library reads.
func TestTheHostsResolvConfIsReadAsCLibrariesReadIt(t *testing.T) {
	t.Parallel()
	const text = "# nameserver 192.0.2.1\nnameserver 127.0.0.53\nsearch a.example\nnameserver fd00::1\nnameserver fe80::1%eth0\n" +
		"nameserver not-an-address\noptions edns0 ndots:3\nsearch b.example c.example\n;nameserver 192.0.2.2\nnameserver\n"
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, got := hostServers(path, func(text string, _ ...any) { t.Error(text) })
	if want := []string{"127.0.0.53", "fd00::1", "fe80::1%eth0"}; !slices.Equal(got, want) {
		t.Errorf("servers: got %q, want %q", got, want)
	}
	if got := resolvWords(text, "search"); !slices.Equal(got, []string{"b.example", "c.example"}) {
		t.Errorf("search: got %q", got)
	}
	if got := ndots(text); got != 3 {
		t.Errorf("ndots: got %d", got)
	}
	warned := false
	if _, got := hostServers(path+".gone", func(string, ...any) { warned = true }); len(got) > 0 || !warned {
		t.Errorf("a host without the file: got %q, warned %v", got, warned)
	}
}

func TestNoServersAreNotTheSameAsTheHosts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Servers{
		"{}": nil, "{upstream: none}": {}, "{upstream: []}": {}, "{upstream: null}": nil, "{upstream: [9.9.9.9, '[fd00::1]:53']}": {"9.9.9.9", "[fd00::1]:53"},
	} {
		var got DNSConfig
		if err := yaml.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if !slices.Equal(got.Upstream, want) || (got.Upstream == nil) != (want == nil) {
			t.Errorf("%s: got %#v, want %#v", text, got.Upstream, want)
		}
	}
}

// What a walk ends with is what glibc's res_search makes of its questions.
func TestTheVerdictOfAWalkIsThatOfGlibc(t *testing.T) {
	t.Parallel()
	const unknown, empty, failed = "Name or service not known", "No address associated with hostname", "Temporary failure in name resolution"
	for _, c := range []struct {
		steps, want string
	}{
		{"x.dev. NXDOMAIN, x. NXDOMAIN", unknown},
		{"x.dev. NOERROR, x. NXDOMAIN", empty},
		{"x.dev. SERVFAIL, x. NXDOMAIN", failed},
		{"x.dev. SERVFAIL, x. NOERROR", empty},
		{"x. NXDOMAIN, x.dev. NOERROR", unknown}, // asked for first, the name itself decides
		{"x. SERVFAIL, x.dev. NXDOMAIN", failed},
		{"x. NOERROR, x.dev. SERVFAIL", empty},
	} {
		w := NameWalk{Name: "x"}
		for step := range strings.SplitSeq(c.steps, ", ") {
			name, rcode, _ := strings.Cut(step, " ")
			w.Steps = append(w.Steps, dns.Step{Name: name, Type: "A", Rcode: rcode})
		}
		if got := w.verdict(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.steps, got, c.want)
		}
	}
}

// The generator keeps no connection that is not in use: a request on one that a server is about to close would be lost.
func TestTheGeneratorLetsIdleConnectionsGo(t *testing.T) {
	t.Parallel()
	made, closed := make(chan struct{}, 8), make(chan struct{}, 8)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			made <- struct{}{}
		case http.StateClosed:
			closed <- struct{}{}
		}
	}
	s.Start()
	defer s.Close()
	client := &http.Client{Transport: transportOver((&net.Dialer{}).DialContext, true)}
	for range 3 {
		resp, err := client.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	select {
	case <-closed:
	case <-time.After(10 * idleLife):
		t.Error("an idle connection is kept")
	}
	if n := len(made); n != 1 {
		t.Errorf("%d connections were made for three requests in a row, want 1", n)
	}
}
