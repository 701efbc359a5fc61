package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/store"
)

// modelOf holds one Service and its slices, seen from node1.
func modelOf(svc *corev1.Service, slices ...*discoveryv1.EndpointSlice) *model {
	m, dirty := newModel("node1"), map[types.NamespacedName]struct{}{}
	m.take(event(store.Added, svc, nil), dirty)
	for _, s := range slices {
		m.take(event(store.Added, s, nil), dirty)
	}
	return m
}

// at is an entry of a slice; flags: r ready, s serving, t terminating, - all left nil.
func at(address, node, pod, flags string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{address}, NodeName: &node,
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod},
	}
	if flags == "-" {
		return e
	}
	ready, serving, terminating := strings.Contains(flags, "r"), strings.Contains(flags, "s"), strings.Contains(flags, "t")
	e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	return e
}

// P-17, P-18, P-19, P-21, P-22: which endpoints a service-port uses, under the Cluster and under the Local policy of node1.
func TestWhichEndpointsAreUsed(t *testing.T) {
	t.Parallel()
	type entries []discoveryv1.Endpoint
	for name, c := range map[string]struct {
		first, second  entries
		cluster, local []string
	}{
		"P-22 conditions left nil mean ready": {
			first: entries{at("10.244.1.1", "node1", "a", "-")}, cluster: []string{"a"}, local: []string{"a"},
		},
		"P-17 published not-ready and terminating ones are ready in the slice": {
			first:   entries{at("10.244.1.1", "node1", "a", "r"), at("10.244.2.1", "node2", "b", "rt")},
			cluster: []string{"a", "b"}, local: []string{"a"},
		},
		"P-18 with one ready only the ready": {
			first:   entries{at("10.244.1.1", "node1", "a", "rs"), at("10.244.2.1", "node2", "b", "st")},
			cluster: []string{"a"}, local: []string{"a"},
		},
		"P-18 with none ready those that serve": {
			first:   entries{at("10.244.1.1", "node1", "a", "t"), at("10.244.2.1", "node2", "b", "st"), at("10.244.2.2", "node2", "c", "s")},
			cluster: []string{"b"},
		},
		"P-19 Local is judged among this node's": {
			first:   entries{at("10.244.1.1", "node1", "a", "st"), at("10.244.2.1", "node2", "b", "rs")},
			cluster: []string{"b"}, local: []string{"a"},
		},
		"P-20 several slices": {
			first: entries{at("10.244.1.1", "node1", "a", "rs")}, second: entries{at("10.244.2.1", "node2", "b", "rs")},
			cluster: []string{"a", "b"}, local: []string{"a"},
		},
		"P-21 a duplicate counts once": {
			first: entries{at("10.244.1.1", "node1", "a", "rs")}, second: entries{at("10.244.1.1", "node1", "a", "rs")},
			cluster: []string{"a"}, local: []string{"a"},
		},
		"P-21 of duplicates the one that stays wins": {
			first: entries{at("10.244.1.1", "node1", "old", "rst")}, second: entries{at("10.244.1.1", "node1", "new", "rs")},
			cluster: []string{"new"}, local: []string{"new"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := slice("web", c.first...), slice("web", c.second...)
			two.Name = "web-2"
			d := modelOf(service("web", "10.96.0.20", internalLocal), one, two).desired(nn("web"), ipv4)
			pods := func(list []endpoint) []string {
				var out []string
				for _, e := range list {
					out = append(out, e.Pod[len("default/"):])
				}
				return out
			}
			if diff := cmp.Diff(c.cluster, pods(d.Ports[0].Cluster), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("Cluster: want (-) got (+):\n%s", diff)
			}
			if diff := cmp.Diff(c.local, pods(d.Ports[0].Local), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("Local: want (-) got (+):\n%s", diff)
			}
		})
	}
}

// P-7, P-53: Services that are DNS names only, or another proxy's, ask for nothing, and Explain says why.
func TestServicesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	label := func(k, v string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Labels = map[string]string{k: v} }
	}
	for name, svc := range map[string]*corev1.Service{
		"headless":          service("web", "None"),
		"external name":     service("web", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }),
		"another proxy's":   service("web", "10.96.0.20", label(labelProxyName, "kubarium-dns")),
		"labelled headless": service("web", "10.96.0.20", label(labelHeadless, "")),
		"no address yet":    service("web", ""),
	} {
		p, _ := onFake()
		p.model = modelOf(svc, slice("web", at("10.244.1.1", "node1", "a", "rs")))
		if d := p.model.desired(nn("web"), ipv4); d != nil {
			t.Errorf("%s: got %+v, want nothing", name, d)
		}
		if e := p.Explain(nn("web")); e.Absent == "" {
			t.Errorf("%s: Explain gives no reason", name)
		}
	}
}

// P-28, P-32: addresses with ipMode Proxy have no rules; a load balancer without NodePorts has its address alone.
func TestLoadBalancerAddresses(t *testing.T) {
	t.Parallel()
	proxied := corev1.LoadBalancerIPModeProxy
	svc := service("web", "10.96.0.20", loadBalancer("172.31.0.1"), externalIP("172.31.0.1"), externalIP("172.31.0.7"))
	svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: "172.31.0.2", IPMode: &proxied})
	d := modelOf(svc).desired(nn("web"), ipv4)
	var got []string
	for _, a := range d.External {
		got = append(got, a.String())
	}
	if diff := cmp.Diff([]string{"172.31.0.1", "172.31.0.7"}, got); diff != "" {
		t.Errorf("want (-) got (+):\n%s", diff)
	}
	if d.Ports[0].NodePort != 0 {
		t.Errorf("got NodePort %d, want none", d.Ports[0].NodePort)
	}
}

// Explain gives every candidate a verdict, and the numbers and ways that the table holds.
func TestExplainGivesReasons(t *testing.T) {
	t.Parallel()
	p, _ := onFake()
	p.model = modelOf(service("web", "10.96.0.20", nodePort(30080), externalLocal),
		slice("web", at("10.244.1.1", "node1", "a", "rs"), at("10.244.2.1", "node2", "b", ""), at("10.244.1.2", "node1", "c", "st")))
	must(t, p.reconcile(false))
	e := p.Explain(nn("web"))
	if len(e.Ports) != 1 || e.Ports[0].ID != firstID || len(e.Ports[0].Endpoints) != 3 {
		t.Fatalf("got %+v", e)
	}
	var got []Verdict
	for _, c := range e.Ports[0].Endpoints {
		got = append(got, c.Verdict, c.LocalVerdict)
	}
	want := []Verdict{VerdictReady, VerdictReady, VerdictNotReady, "", VerdictLeaving, VerdictLeaving}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts: want (-) got (+):\n%s", diff)
	}
	ways := []string{}
	for _, w := range e.Ports[0].Ways {
		ways = append(ways, w.String())
	}
	if diff := cmp.Diff([]string{"10.96.0.20:80 (ClusterIP)", "172.30.0.11:30080 (NodePort, endpoints of this node only)"}, ways); diff != "" {
		t.Errorf("ways: want (-) got (+):\n%s", diff)
	}
	if e := p.Explain(nn("none")); e.Absent == "" {
		t.Error("a Service that is not there has no reason")
	}
}
