package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// P-29: loadBalancerSourceRanges drop other sources at the load balancer's address alone; NodePorts stay open.
func TestSourceRangesGuardTheLoadBalancer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.pod(1)
	with := func(ranges ...string) *corev1.Service {
		return service("web", "10.96.0.20", nodePort(30080), loadBalancer("172.31.0.1"), externalIP("172.31.0.9"),
			func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = ranges })
	}
	r.put(with("192.0.2.0/24"), slice("web", ready(a)))
	r.dropped(r.outside, "tcp", "172.31.0.1:80")
	for _, to := range []string{"172.30.0.11:30080", "172.31.0.9:80", "10.96.0.20:80"} {
		only(t, to, r.spread(r.outside, "tcp", to, 2), "pod-1-1:8080")
	}
	for _, open := range [][]string{{"192.0.2.0/24", "172.30.0.1/32"}, {"172.30.0.0/16"}, {"192.0.2.0/24", "0.0.0.0/0"}, nil} {
		r.put(with(open...))
		only(t, strings.Join(open, ","), r.spread(r.outside, "tcp", "172.31.0.1:80", 2), "pod-1-1:8080")
	}
}

// policyPod is a pod as the API server holds it.
func policyPod(p *rigPod, label string, edits ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: p.name, Labels: map[string]string{"app": label}},
		Spec:       corev1.PodSpec{NodeName: p.node.name, Containers: []corev1.Container{{Name: "c"}}},
		Status:     corev1.PodStatus{PodIP: p.ip.String(), Phase: corev1.PodRunning},
	}
	for _, e := range edits {
		e(pod)
	}
	return pod
}

func byLabel(v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": v}}
}

// A NetworkPolicy isolates the pods it selects: default deny, pod and namespace selectors, single ports and ranges, blocks with
// exceptions, ingress and egress, and its end. Answers of allowed connections pass.
func TestNetworkPoliciesIsolatePods(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	web, friend, foe := r.pod(1), r.pod(2), r.pod(1)
	sidecar := func(p *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 9090}}},
			{Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 8080}}}} // one that has ended
	}
	r.put(policyPod(web, "web", sidecar), policyPod(friend, "friend"), policyPod(foe, "foe"),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "a"}}},
		service("web", "10.96.0.20", nodePort(30080), externalLocal), slice("web", ready(web)))
	at, service := web.ip.String()+":8080", "10.96.0.20:80"
	udp := corev1.ProtocolUDP
	policy := func(edit func(*networkingv1.NetworkPolicySpec)) {
		t.Helper()
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
		p.Spec.PodSelector, p.Spec.PolicyTypes = *byLabel("web"), []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		edit(&p.Spec)
		r.put(p)
	}
	ingress := func(ports []networkingv1.NetworkPolicyPort, peers ...networkingv1.NetworkPolicyPeer) {
		t.Helper()
		policy(func(s *networkingv1.NetworkPolicySpec) {
			s.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}}
		})
	}
	passes := func(what string, p *rigPod, network, to string) {
		t.Helper()
		if s, err := try(p.ns, network, to, patience); err != nil {
			t.Errorf("%s: %s %s: %q, %v", what, network, to, s, err)
		}
	}
	port := func(n int) *intstr.IntOrString { v := intstr.FromInt(n); return &v }

	passes("no policy", foe, "tcp", service)
	policy(func(*networkingv1.NetworkPolicySpec) {})
	r.dropped(friend.ns, "tcp", at)
	r.dropped(foe.ns, "tcp", service)
	passes("what it begins itself", web, "tcp", friend.ip.String()+":8080")
	r.ask(r.nodes[0].ns, "tcp", at) // its node always reaches it

	ingress(nil, networkingv1.NetworkPolicyPeer{PodSelector: byLabel("friend")})
	passes("selected", friend, "tcp", service)
	passes("selected", friend, "udp", at)
	r.dropped(foe.ns, "tcp", service)
	r.put(policyPod(foe, "friend")) // labels change
	passes("relabelled", foe, "tcp", service)
	r.put(policyPod(foe, "foe"))
	r.dropped(foe.ns, "tcp", service)

	teamA := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	ingress([]networkingv1.NetworkPolicyPort{{Port: port(8080)}}, networkingv1.NetworkPolicyPeer{NamespaceSelector: teamA})
	passes("namespace selected", foe, "tcp", at)
	r.dropped(foe.ns, "tcp", web.ip.String()+":9090")
	r.dropped(foe.ns, "udp", at)
	r.dropped(r.outside, "tcp", "172.30.0.11:30080")

	end := int32(9100)
	ingress([]networkingv1.NetworkPolicyPort{{Port: port(8081), EndPort: &end}, {Protocol: &udp}})
	passes("range", foe, "tcp", web.ip.String()+":9090")
	passes("protocol", foe, "udp", at)
	r.dropped(foe.ns, "tcp", at)

	side := intstr.FromString("side")
	ingress([]networkingv1.NetworkPolicyPort{{Port: &side}})
	passes("a sidecar's port by its name", foe, "tcp", web.ip.String()+":9090")
	r.dropped(foe.ns, "tcp", at)

	ingress(nil, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.244.2.0/24"}}})
	passes("in the block", foe, "tcp", at)
	r.dropped(friend.ns, "tcp", at)
	r.ask(r.outside, "tcp", "172.30.0.11:30080")

	policy(func(s *networkingv1.NetworkPolicySpec) {
		s.PodSelector, s.PolicyTypes = *byLabel("friend"), []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		s.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: byLabel("web")}}}}
	})
	passes("egress allowed", friend, "tcp", service)
	r.dropped(friend.ns, "tcp", foe.ip.String()+":8080")
	passes("others are free", foe, "tcp", friend.ip.String()+":8080")

	r.remove(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}})
	passes("no policy again", friend, "tcp", foe.ip.String()+":8080")
}

// A hostPort leads to its pod on its node alone, and keeps the client's address.
func TestAHostPortLeadsToItsPod(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.pod(1)
	pod := policyPod(a, "a", func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 7000, ContainerPort: 8080}}
	})
	r.put(pod)
	if got, from := r.ask(r.outside, "tcp", "172.30.0.11:7000"); got != "pod-1-1:8080" || from != "172.30.0.1" {
		t.Errorf("%s saw %s", got, from)
	}
	r.refused(r.outside, "tcp", "172.30.0.12:7000")
	r.remove(pod)
	r.refused(r.outside, "tcp", "172.30.0.11:7000")
}

// P-30: the health-check port answers 200 with the number of ready local endpoints, 503 without any.
func TestTheHealthCheckPortTellsOfLocalEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.pod(1)
	r.put(service("web", "10.96.0.20", nodePort(30080), loadBalancer("172.31.0.1"), externalLocal,
		func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 31000 }), slice("web", ready(a)))
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: r.outside.DialContext, DisableKeepAlives: true}}
	expect := func(node string, code int, weight, body string) {
		t.Helper()
		resp, err := client.Get("http://" + node + ":31000/")
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != code || resp.Header.Get("X-Load-Balancing-Endpoint-Weight") != weight || strings.TrimSpace(string(b)) != body {
			t.Errorf("%s: got %d %v %s, want %d, weight %s, %s", node, resp.StatusCode, resp.Header, b, code, weight, body)
		}
	}
	const one = `{"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}`
	none := strings.Replace(one, ":1,", ":0,", 1)
	expect("172.30.0.11", 200, "1", one)
	expect("172.30.0.12", 503, "0", none)
	r.put(slice("web", terminating(a)))
	expect("172.30.0.11", 503, "0", none)
}

// P-44: a table that somebody else deletes, or changes, comes back by itself, without a change of any object.
func TestWhatOthersDoToTheTableIsMended(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(1), r.pod(1)
	r.put(service("web", "10.96.0.20"), slice("web", ready(a)))
	for i, harm := range [][]string{
		{"delete", "table", "ip", "kubarium"}, {"flush", "ruleset"}, {"delete", "element", "ip", "kubarium", "clusterips", "{ 10.96.0.20 }"},
	} {
		n := r.nodes[0]
		nft(t, n.ns, "", harm...)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for !(n.proxy.Stats().Intrusions > uint64(i) && n.proxy.Healthy() == nil && whole(t, n)) && ctx.Err() == nil {
			pause(ctx, time.Millisecond)
		}
		cancel()
		if got := n.proxy.Stats(); got.Intrusions < uint64(i+1) {
			t.Errorf("%v: got %+v, want %d intrusions", harm, got, i+1)
		}
		must(t, n.proxy.Healthy())
		only(t, strings.Join(harm, " "), r.spread(client.ns, "tcp", "10.96.0.20:80", 2), "pod-1-1:8080")
	}
	if own := r.nodes[1].proxy.Stats().Intrusions; own != 0 {
		t.Errorf("our own changes were taken for %d intrusions", own)
	}
}

// whole tells whether a node's table holds what is planned.
func whole(t *testing.T, n *rigNode) bool {
	t.Helper()
	k, err := openKernel(n.ns, ipv4)
	must(t, err)
	defer k.Close()
	got, err := k.read()
	n.proxy.mu.Lock()
	defer n.proxy.mu.Unlock()
	return err == nil && maps.Equal(n.proxy.sides[0].planner.table(), got.Elements)
}

// P-49: hints for this node, then for its zone, are heeded when every ready endpoint has some; else all endpoints are used.
func TestHintsAreHeeded(t *testing.T) {
	t.Parallel()
	hinted := func(e discoveryv1.Endpoint, zone, node string) discoveryv1.Endpoint {
		e.Hints = &discoveryv1.EndpointHints{}
		if zone != "" {
			e.Hints.ForZones = []discoveryv1.ForZone{{Name: zone}}
		}
		if node != "" {
			e.Hints.ForNodes = []discoveryv1.ForNode{{Name: node}}
		}
		return e
	}
	a, b, c := at("10.244.1.1", "node1", "a", "rs"), at("10.244.2.1", "node2", "b", "rs"), at("10.244.3.1", "node3", "c", "rs")
	for name, x := range map[string]struct {
		zone string
		with []discoveryv1.Endpoint
		want []string
	}{
		"this zone":      {"z1", []discoveryv1.Endpoint{hinted(a, "z1", ""), hinted(b, "z2", ""), hinted(c, "z1", "")}, []string{"a", "c"}},
		"no zone known":  {"", []discoveryv1.Endpoint{hinted(a, "z1", ""), hinted(b, "z2", "")}, []string{"a", "b"}},
		"one lacks":      {"z1", []discoveryv1.Endpoint{hinted(a, "z1", ""), b}, []string{"a", "b"}},
		"none for here":  {"z9", []discoveryv1.Endpoint{hinted(a, "z1", ""), hinted(b, "z2", "")}, []string{"a", "b"}},
		"this node":      {"z1", []discoveryv1.Endpoint{hinted(a, "z1", "node1"), hinted(c, "z1", "node3")}, []string{"a"}},
		"node falls out": {"z1", []discoveryv1.Endpoint{hinted(b, "z1", "node2"), hinted(c, "z2", "node3")}, []string{"b"}},
	} {
		m := modelOf(service("web", "10.96.0.20"), slice("web", x.with...))
		m.zone = x.zone
		var got []string
		for _, e := range m.desired(nn("web"), ipv4).Ports[0].Cluster {
			got = append(got, e.Pod[len("default/"):])
		}
		if d := cmp.Diff(x.want, got); d != "" {
			t.Errorf("%s: want (-) got (+):\n%s", name, d)
		}
	}
}

// P-51, P-57: the tables of both families are in the kernel as planned, with source ranges, SCTP and policies, and nft lists them;
// the IPv4 one as it lists the text. (nft 1.0.6 itself aborts when it reads an update of a map keyed by an IPv6 address.)
func TestBothFamiliesAsTextAndInTheKernelAreTheSame(t *testing.T) {
	t.Parallel()
	for f, n := range map[family]network{
		ipv4: testNetwork,
		ipv6: {family: ipv6, podCIDR: netip.MustParsePrefix("fd00:10:244::/48"), serviceCIDR: netip.MustParsePrefix("fd00:10:96::/112")},
	} {
		ip := pick(f, []string{"10.96.0.20", "172.31.0.1", "10.0.0.0/8", "10.1.0.0/16", "10.244.1.9"},
			[]string{"fd00:10:96::20", "fd00:31::1", "fd00::/16", "fd00:1::/32", "fd00:10:244:1::9"})
		svc := service("web", ip[0], loadBalancer(ip[1]), sticky(60), ports(corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 80},
			corev1.ServicePort{Name: "s", Protocol: corev1.ProtocolSCTP, Port: 81}), func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{ip[2], ip[4] + pick(f, "/32", "/128")}
		})
		sl := slice("web", at(ip[4], "node1", "a", "rs"))
		sl.AddressType = f.slices()
		m := modelOf(svc, sl)
		m.policies.takePod(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Spec: corev1.PodSpec{NodeName: "node1"},
			Status: corev1.PodStatus{PodIP: ip[4]},
		}, false)
		end, from := int32(9000), intstr.FromInt(8000)
		m.policies.takePolicy(&networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
			Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{
				Ports: []networkingv1.NetworkPolicyPort{{Port: &from, EndPort: &end}},
				From:  []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: ip[2], Except: []string{ip[3]}}}},
			}}},
		}, false)
		p := newPlanner(2, nil)
		p.takePolicies(m.policies.of(f))
		p.full(held{}, m.all(f))
		if len(p.policies) < 5 || len(p.services) != 1 {
			t.Fatalf("%s: %d elements of policies, %d services", f, len(p.policies), len(p.services))
		}
		chains := ruleset(n, p.shapes)
		var text strings.Builder
		must(t, writeTable(&text, f, chains, p.table()))
		byText, byNetlink := newNS(t), newNS(t)
		k, err := openKernel(byNetlink, f)
		must(t, err)
		must(t, k.apply(batch{Declare: true, Chains: chains, Verbs: diff(nil, p.all())}))
		got, err := k.read()
		must(t, err)
		must(t, k.Close())
		if d := cmp.Diff(p.table(), got.Elements); d != "" {
			t.Errorf("%s: plan (-) and kernel (+) differ:\n%s", f, d)
		}
		listed := nft(t, byNetlink, "", "list", "ruleset")
		if f == ipv6 {
			continue
		}
		nft(t, byText, text.String(), "-f", "-")
		if d := cmp.Diff(nft(t, byText, "", "list", "ruleset"), listed); d != "" {
			t.Errorf("%s: text (-) and messages (+) differ:\n%s", f, d)
		}
	}
}

// P-48: a dual-stack Service has an address of each family, and each leads to the endpoints of its own family's slices.
func TestADualStackServiceAnswersInBothFamilies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	n := &rigNode{name: "both", ns: newNS(t)}
	r.routes(n.ns, func(h *netlink.Handle) error {
		return errors.Join(addAddress(h, "lo", "fd00:10:244:1::9/128"), addAddress(h, "lo", "10.244.1.9/32"),
			addRoute(h, "lo", "fd00:10:96::/112", ""), addRoute(h, "lo", "10.96.0.0/16", ""))
	})
	cfg := r.config(n)
	cfg.NodeAddresses, cfg.PodCIDR6, cfg.ServiceCIDR6 = nil, netip.MustParsePrefix("fd00:10:244::/48"), netip.MustParsePrefix("fd00:10:96::/112")
	p, err := New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-done)
	}()
	six := slice("web", at("fd00:10:244:1::9", "both", "six", "rs"))
	six.Name, six.AddressType = "web-6", discoveryv1.AddressTypeIPv6
	r.put(service("web", "10.96.0.20", sticky(60), func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.20", "fd00:10:96::20"} }),
		slice("web", at("10.244.1.9", "both", "four", "rs")), six)
	must(t, p.Progress().Wait(ctx, r.store.Revision()))
	for vip, ep := range map[string]string{"10.96.0.20:80": "10.244.1.9:8080", "[fd00:10:96::20]:80": "[fd00:10:244:1::9]:8080"} {
		l, err := n.ns.Listen(ctx, "tcp", ep)
		must(t, err)
		defer l.Close()
		for range 3 {
			c, err := n.ns.DialContext(ctx, "tcp", vip)
			must(t, err)
			got, err := l.Accept()
			must(t, err)
			must(t, errors.Join(c.Close(), got.Close()))
		}
	}
}
