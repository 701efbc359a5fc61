package cluster_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// resolver is what a resolv.conf says: the words after nameserver, search and options.
type resolver struct{ servers, search, options []string }

func readResolver(text string) (r resolver) {
	for line := range strings.Lines(text) {
		switch words := strings.Fields(line); {
		case len(words) < 2:
		case words[0] == "nameserver":
			r.servers = append(r.servers, words[1])
		case words[0] == "search":
			r.search = words[1:]
		case words[0] == "options":
			r.options = append(r.options, words[1:]...)
		}
	}
	return r
}

func (r resolver) String() string { return fmt.Sprintf("%v %v %v", r.servers, r.search, r.options) }

// asking is a pod with settings for its resolver, and a program to look at its files with.
func asking(name string, policy corev1.DNSPolicy, change func(*corev1.PodSpec)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		DNSPolicy: policy, DNSConfig: &corev1.PodDNSConfig{},
		Containers: []corev1.Container{{Name: "c", Image: "any:1", Command: []string{"sleep", "3600"}}},
	}}
	change(&pod.Spec)
	return pod
}

// numbered is n search paths of about so many characters.
func numbered(n, length int) (all []string) {
	for i := range n {
		label := fmt.Sprintf("n%d.", i)
		all = append(all, label+strings.Repeat("a", length-len(label)))
	}
	return all
}

// D-20, D-21: what pods have in their /etc/resolv.conf by policy and config, and the event of what did not fit.
func TestPodsHaveTheirResolverSettings(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	host := readResolver(string(raw))
	host.search = slices.DeleteFunc(host.search, func(s string) bool { return s == "." }) // systemd's word for none
	mine := []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}
	first := resolver{[]string{"10.96.0.10"}, append(mine, host.search...), []string{"ndots:5"}}
	ndots := "1"
	c := clustertest.Start(t, cluster.Options{Nodes: 1})
	cases := map[string]struct {
		policy corev1.DNSPolicy
		change func(*corev1.PodSpec)
		want   resolver
		cut    string // what the event says
	}{
		"first":    {corev1.DNSClusterFirst, func(*corev1.PodSpec) {}, first, ""},
		"default":  {corev1.DNSDefault, func(*corev1.PodSpec) {}, host, ""},
		"host":     {corev1.DNSClusterFirst, func(s *corev1.PodSpec) { s.HostNetwork = true }, host, ""},
		"host-dns": {corev1.DNSClusterFirstWithHostNet, func(s *corev1.PodSpec) { s.HostNetwork = true }, first, ""},
		"none": {corev1.DNSNone, func(s *corev1.PodSpec) {
			s.DNSConfig.Nameservers, s.DNSConfig.Searches = []string{"192.0.2.1"}, []string{"_a.example", "."}
		}, resolver{[]string{"192.0.2.1"}, []string{"_a.example", "."}, nil}, ""},
		"merged": {corev1.DNSClusterFirst, func(s *corev1.PodSpec) {
			s.DNSConfig.Nameservers, s.DNSConfig.Searches = []string{"10.96.0.10", "192.0.2.1"}, []string{"svc.cluster.local", "x.example"}
			s.DNSConfig.Options = []corev1.PodDNSConfigOption{{Name: "ndots", Value: &ndots}, {Name: "edns0"}}
		}, resolver{[]string{"10.96.0.10", "192.0.2.1"}, append(slices.Clip(first.search), "x.example"), []string{"ndots:1", "edns0"}}, ""},
		"servers": {corev1.DNSClusterFirst, func(s *corev1.PodSpec) {
			s.DNSConfig.Nameservers = []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}
		}, resolver{[]string{"10.96.0.10", "192.0.2.1", "192.0.2.2"}, first.search, first.options}, "the applied nameserver line is: 10.96.0.10 192.0.2.1 192.0.2.2"},
		"paths": {corev1.DNSClusterFirst, func(s *corev1.PodSpec) { s.DNSConfig.Searches = numbered(32, 9) },
			resolver{first.servers, append(slices.Clip(first.search), numbered(32, 9)...)[:32], first.options}, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: default.svc"},
		// Ten of 200 characters are 2,009 with the spaces; with the cluster's own there is room for nine.
		"characters": {corev1.DNSClusterFirst, func(s *corev1.PodSpec) {
			s.DNSConfig.Searches = []string{}
			for i := range 10 {
				s.DNSConfig.Searches = append(s.DNSConfig.Searches, strings.Repeat(fmt.Sprintf("%d.", i), 99)+"aa")
			}
		}, resolver{}, "the applied search line is: default.svc"},
	}
	for name, tt := range cases {
		if _, err := c.Client.CoreV1().Pods("default").Create(t.Context(), asking(name, tt.policy, tt.change), metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	c.Ready("default", len(cases))
	for name, tt := range cases {
		var out strings.Builder
		if err := c.Exec(t.Context(), execIn(name, &out, "cat", "/etc/resolv.conf")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := readResolver(out.String())
		if name == "characters" {
			if n := len(strings.Join(got.search, " ")); n > 2048 || n < 1800 || len(got.search) < len(first.search)+8 {
				t.Errorf("%s: %d characters in %d search paths, want as many as fit into 2,048", name, n, len(got.search))
			}
		} else if got.String() != tt.want.String() {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
		if tt.cut != "" {
			c.Until(name+": an event about what is left out", func() bool { return cutEvent(t, c, name, tt.cut) })
		} else if cutEvent(t, c, name, "") {
			t.Errorf("%s: an event says that something is left out", name)
		}
	}
}

// cutEvent says whether an event tells of a pod that words were left out of its resolv.conf.
func cutEvent(t *testing.T, c *clustertest.Cluster, pod, says string) bool {
	t.Helper()
	list, err := c.Store().List(t.Context(), api.Events, store.Query{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(store.All[*corev1.Event](list.Items), func(e *corev1.Event) bool {
		return e.Reason == "DNSConfigForming" && e.InvolvedObject.Name == pod && strings.Contains(e.Message, says)
	})
}

// D-21: what could never be in a resolv.conf is refused.
func TestImpossibleResolverSettingsAreRefused(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 1})
	for says, change := range map[string]func(*corev1.PodDNSConfig){
		"must provide at least one DNS nameserver": func(d *corev1.PodDNSConfig) { d.Nameservers = nil },
		"must not have more than 3 nameservers": func(d *corev1.PodDNSConfig) {
			d.Nameservers = []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}
		},
		"must not have more than 32 search paths":   func(d *corev1.PodDNSConfig) { d.Searches = numbered(33, 9) },
		"must not have more than 2048 characters":   func(d *corev1.PodDNSConfig) { d.Searches = numbered(32, 64) },
		"must be no more than 253":                  func(d *corev1.PodDNSConfig) { d.Searches = []string{strings.Repeat("a.", 128)} },
		"spec.dnsConfig.options[0]: Required value": func(d *corev1.PodDNSConfig) { d.Options = []corev1.PodDNSConfigOption{{}} },
	} {
		pod := asking("odd", corev1.DNSNone, func(s *corev1.PodSpec) { s.DNSConfig.Nameservers = []string{"192.0.2.1"}; change(s.DNSConfig) })
		if _, err := c.Client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}
