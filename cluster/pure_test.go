package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
