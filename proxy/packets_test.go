package proxy

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func keys(m map[string]int) map[string]bool {
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out
}

// only fails unless exactly these pods (with port) answered.
func only(t *testing.T, what string, got map[string]int, want ...string) {
	t.Helper()
	w := map[string]bool{}
	for _, s := range want {
		w[s] = true
	}
	if d := cmp.Diff(w, keys(got)); d != "" {
		t.Errorf("%s: answers want (-) got (+):\n%s", what, d)
	}
}

var both = ports(corev1.ServicePort{Name: "t", Protocol: corev1.ProtocolTCP, Port: 80},
	corev1.ServicePort{Name: "u", Protocol: corev1.ProtocolUDP, Port: 80})

// bothSlice serves TCP on 8080 and UDP on 9090.
func bothSlice(svc string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := slice(svc, endpoints...)
	s.Ports = []discoveryv1.EndpointPort{slicePort("t", corev1.ProtocolTCP, 8080), slicePort("u", corev1.ProtocolUDP, 9090)}
	return s
}

// P-1, P-2, P-3, P-8, P-10, P-11, P-27, P-47: a ClusterIP reaches every endpoint from pods, nodes and outside, over TCP and
// UDP.
func TestAClusterIPReachesItsEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20", both), bothSlice("web", ready(a), ready(b)))
	for network, port := range map[string]string{"tcp": "8080", "udp": "9090"} {
		got := r.spread(client.ns, network, "10.96.0.20:80", 60)
		if got["pod-1-1:"+port] < 10 || got["pod-2-1:"+port] < 10 || len(got) != 2 {
			t.Errorf("60 %s connections went to %v, want about half to each pod", network, got)
		}
	}
	for range 8 {
		if _, from := r.ask(client.ns, "tcp", "10.96.0.20:80"); from != client.ip.String() {
			t.Errorf("the endpoint saw %s, want the client pod %s", from, client.ip)
		}
	}
	for _, n := range r.nodes {
		only(t, "from "+n.name, r.spread(n.ns, "tcp", "10.96.0.20:80", 20), "pod-1-1:8080", "pod-2-1:8080")
	}
	for range 8 {
		if _, from := r.ask(r.outside, "tcp", "10.96.0.20:80"); from == "172.30.0.1" {
			t.Error("a client outside was not masqueraded")
		}
	}
}

// P-4: TCP and UDP on one port number are two service-ports; removing one stops only that one.
func TestTCPAndUDPOnOnePortAreApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20", both), bothSlice("web", ready(a)))
	only(t, "tcp", r.spread(client.ns, "tcp", "10.96.0.20:80", 2), "pod-2-1:8080")
	only(t, "udp", r.spread(client.ns, "udp", "10.96.0.20:80", 2), "pod-2-1:9090")
	r.put(service("web", "10.96.0.20", ports(corev1.ServicePort{Name: "t", Protocol: corev1.ProtocolTCP, Port: 80})))
	r.refused(client.ns, "udp", "10.96.0.20:80")
	only(t, "tcp", r.spread(client.ns, "tcp", "10.96.0.20:80", 2), "pod-2-1:8080")
}

// P-5, P-6, P-20: named ports go to their own targets, endpoints with other numbers included, over several slices.
func TestNamedPortsGoToTheirTargets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	svc := service("web", "10.96.0.20", ports(
		corev1.ServicePort{Name: "one", Protocol: corev1.ProtocolTCP, Port: 80},
		corev1.ServicePort{Name: "two", Protocol: corev1.ProtocolTCP, Port: 81}))
	first, second := slice("web", ready(a)), slice("web", ready(b))
	first.Ports = []discoveryv1.EndpointPort{slicePort("one", corev1.ProtocolTCP, 8080), slicePort("two", corev1.ProtocolTCP, 9090)}
	second.Name, second.Ports = "web-2", []discoveryv1.EndpointPort{slicePort("one", corev1.ProtocolTCP, 9090)}
	r.put(svc, first, second)
	only(t, "one", r.spread(client.ns, "tcp", "10.96.0.20:80", 20), "pod-1-1:8080", "pod-2-1:9090")
	only(t, "two", r.spread(client.ns, "tcp", "10.96.0.20:81", 4), "pod-1-1:9090")
}

// P-9: a pod that is chosen for its own call is answered.
func TestAPodReachesItself(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.pod(1)
	r.put(service("web", "10.96.0.20", both, nodePort(30080)), bothSlice("web", ready(a)))
	only(t, "tcp", r.spread(a.ns, "tcp", "10.96.0.20:80", 3), "pod-1-1:8080")
	only(t, "udp", r.spread(a.ns, "udp", "10.96.0.20:80", 3), "pod-1-1:9090")
	only(t, "node port", r.spread(a.ns, "tcp", "172.30.0.11:30080", 3), "pod-1-1:8080")
}

// P-12, P-18: only ready pods get connections; with none ready, those that serve while they terminate.
func TestReadinessDecides(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(2)
	r.put(service("web", "10.96.0.20"), slice("web", ready(a), ready(b)))
	steps := []struct {
		what      string
		endpoints []discoveryv1.Endpoint
		want      []string
	}{
		{"one unready", []discoveryv1.Endpoint{unready(a), ready(b)}, []string{"pod-2-1:8080"}},
		{"ready again", []discoveryv1.Endpoint{ready(a), ready(b)}, []string{"pod-1-1:8080", "pod-2-1:8080"}},
		{"one terminating", []discoveryv1.Endpoint{ready(a), terminating(b)}, []string{"pod-1-1:8080"}},
		{"none ready", []discoveryv1.Endpoint{unready(a), terminating(b)}, []string{"pod-2-1:8080"}},
		{"ready once more", []discoveryv1.Endpoint{ready(a), terminating(b)}, []string{"pod-1-1:8080"}},
	}
	for _, s := range steps {
		r.put(slice("web", s.endpoints...))
		only(t, s.what, r.spread(client.ns, "tcp", "10.96.0.20:80", 20), s.want...)
	}
}

// P-13: a deleted Service leaves nothing, neither answers nor elements.
func TestADeletedServiceLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(1), r.pod(1)
	svc, sl := service("web", "10.96.0.20", both, nodePort(30080), loadBalancer("172.31.0.1"), externalLocal, sticky(60)), bothSlice("web", ready(a))
	before := len(r.nodes[0].proxy.sides[0].planner.table())
	r.put(svc, sl)
	only(t, "before", r.spread(r.outside, "tcp", "172.31.0.1:80", 2), "pod-1-1:8080")
	r.remove(svc)
	r.remove(sl)
	r.dropped(client.ns, "tcp", "10.96.0.20:80")
	r.refused(r.outside, "tcp", "172.30.0.11:30080")
	if _, err := try(r.outside, "tcp", "172.31.0.1:80", silence); err == nil {
		t.Error("the load-balancer address still answers")
	}
	// The jump of the affinity timeout is a shape, and stays.
	if got := len(r.nodes[0].proxy.sides[0].planner.table()) - 1; got != before {
		t.Errorf("%d elements are left, want %d", got, before)
	}
}

// P-14, P-15, P-16: without an endpoint a connection is refused at once; an undefined port too; an address nobody has is
// dropped.
func TestNoEndpointIsRefusedAndNoServiceIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(1), r.pod(1)
	r.put(service("web", "10.96.0.20", both, nodePort(30080), loadBalancer("172.31.0.1"), externalIP("172.31.0.9"), externalLocal),
		bothSlice("web", unready(a)))
	for _, network := range []string{"tcp", "udp"} {
		r.refused(client.ns, network, "10.96.0.20:80")
		r.refused(r.nodes[0].ns, network, "10.96.0.20:80")
		r.refused(r.outside, network, "10.96.0.20:80")
		r.refused(client.ns, network, "10.96.0.20:81")
		r.refused(r.outside, network, "172.31.0.1:80")
		r.refused(r.outside, network, "172.31.0.9:80")
		r.refused(r.outside, network, "172.30.0.11:30080")
		r.dropped(client.ns, network, "10.96.0.99:80")
		r.dropped(r.nodes[0].ns, network, "10.96.0.99:80")
	}
}

// P-23, P-24: a NodePort answers on every node's address, also on one without an endpoint, never on loopback, and to a pod
// that calls the other node and draws an endpoint beside itself.
func TestANodePortAnswersEverywhere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, beside, far := r.pod(1), r.pod(1), r.pod(2)
	r.put(service("web", "10.96.0.20", nodePort(30080)), slice("web", ready(a)))
	for _, node := range []string{"172.30.0.11:30080", "172.30.0.12:30080"} {
		pod, from := r.ask(r.outside, "tcp", node)
		if pod != "pod-1-1:8080" || from == "172.30.0.1" {
			t.Errorf("%s from outside: pod %s saw %s, want pod-1-1 and a masqueraded source", node, pod, from)
		}
		only(t, "from beside", r.spread(beside.ns, "tcp", node, 3), "pod-1-1:8080")
		only(t, "from far", r.spread(far.ns, "tcp", node, 3), "pod-1-1:8080")
		only(t, "from itself", r.spread(a.ns, "tcp", node, 3), "pod-1-1:8080")
		only(t, "from node 2", r.spread(r.nodes[1].ns, "tcp", node, 3), "pod-1-1:8080")
	}
	r.refused(r.nodes[0].ns, "tcp", "127.0.0.1:30080")
}

// P-25, P-26, P-28, P-33: under externalTrafficPolicy Local a client outside keeps its address and reaches only endpoints of
// the node it came to; pods and nodes fall back to Cluster.
func TestExternalLocalKeepsTheClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, far := r.pod(1), r.pod(2), r.pod(2)
	svc := service("web", "10.96.0.20", nodePort(30080), loadBalancer("172.31.0.1"), externalIP("172.31.0.9"), externalLocal)
	svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: "172.31.0.2"})
	r.put(svc, slice("web", ready(a), ready(b)))
	for _, to := range []string{"172.30.0.11:30080", "172.31.0.1:80", "172.31.0.2:80", "172.31.0.9:80"} {
		for range 5 {
			if pod, from := r.ask(r.outside, "tcp", to); pod != "pod-1-1:8080" || from != "172.30.0.1" {
				t.Errorf("%s: %s saw %s, want pod-1-1:8080 and 172.30.0.1", to, pod, from)
			}
		}
	}
	r.put(slice("web", ready(a)))
	r.dropped(r.outside, "tcp", "172.30.0.12:30080")
	only(t, "pod on the node without", r.spread(far.ns, "tcp", "172.31.0.1:80", 3), "pod-1-1:8080")
	only(t, "pod to its node's port", r.spread(far.ns, "tcp", "172.30.0.12:30080", 3), "pod-1-1:8080")
	only(t, "the node without", r.spread(r.nodes[1].ns, "tcp", "172.31.0.1:80", 3), "pod-1-1:8080")
}

// P-31: under internalTrafficPolicy Local the ClusterIP uses this node's endpoints only; NodePorts are not affected.
func TestInternalLocalStaysOnTheNode(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, near, far := r.pod(1), r.pod(1), r.pod(2)
	b := r.pod(2)
	r.put(service("web", "10.96.0.20", nodePort(30080), internalLocal), slice("web", ready(a), ready(b)))
	only(t, "near", r.spread(near.ns, "tcp", "10.96.0.20:80", 10), "pod-1-1:8080")
	only(t, "far", r.spread(far.ns, "tcp", "10.96.0.20:80", 10), "pod-2-2:8080")
	r.put(slice("web", ready(a)))
	r.dropped(far.ns, "tcp", "10.96.0.20:80")
	r.dropped(r.nodes[1].ns, "tcp", "10.96.0.20:80")
	only(t, "node port", r.spread(r.outside, "tcp", "172.30.0.12:30080", 3), "pod-1-1:8080")
	only(t, "itself", r.spread(a.ns, "tcp", "10.96.0.20:80", 3), "pod-1-1:8080")
}

// P-39, P-40: an edit stops what was and starts what is.
func TestEditsMoveAService(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(1), r.pod(2)
	r.put(service("web", "10.96.0.20", nodePort(30080)), slice("web", ready(a)))
	r.ask(r.outside, "tcp", "172.30.0.12:30080")
	r.put(service("web", "10.96.0.20", nodePort(30081)))
	r.ask(r.outside, "tcp", "172.30.0.12:30081")
	r.refused(r.outside, "tcp", "172.30.0.12:30080")
	r.put(service("web", "10.96.0.20", ports(corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 81})))
	r.refused(r.outside, "tcp", "172.30.0.12:30081")
	r.refused(client.ns, "tcp", "10.96.0.20:80")
	r.ask(client.ns, "tcp", "10.96.0.20:81")
	r.put(service("web", "10.96.0.20", ports(corev1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 81})))
	r.ask(client.ns, "udp", "10.96.0.20:81")
	r.refused(client.ns, "tcp", "10.96.0.20:81")
	r.put(service("web", "", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "example.org", nil
	}))
	r.dropped(client.ns, "udp", "10.96.0.20:81")
	r.put(service("web", "10.96.0.21", nodePort(30082)))
	r.ask(client.ns, "tcp", "10.96.0.21:80")
	r.ask(r.outside, "tcp", "172.30.0.12:30082")
}

// P-42: connections and rules survive the proxy; what changed meanwhile, and what does not belong, is put right.
func TestARestartKeepsConnectionsAndClearsWhatIsStale(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	gone := service("gone", "10.96.0.30")
	r.put(service("web", "10.96.0.20", sticky(600)), slice("web", ready(a), ready(b)), gone, slice("gone", ready(a)))
	conn, err := dial(client.ns, "tcp", "10.96.0.20:80", patience)
	must(t, err)
	defer conn.Close()
	first, err := exchange(conn)
	must(t, err)
	counts := func() map[string]uint64 {
		out := map[string]uint64{}
		got, err := r.nodes[0].proxy.Counts(t.Context(), nn("web"))
		must(t, err)
		for _, c := range got {
			out[c.Pod] = c.Connections
		}
		return out
	}
	counted := counts()
	for _, n := range r.nodes {
		n.stop()
	}
	nft(t, r.nodes[0].ns, "", "add", "chain", "ip", "kubarium", "stray")
	nft(t, r.nodes[0].ns, "", "add", "set", "ip", "kubarium", "strayset", "{ type ipv4_addr; }")
	nft(t, r.nodes[0].ns, "", "delete", "element", "ip", "kubarium", "clusterips", "{ 10.96.0.20 }")
	only(t, "without a proxy", r.spread(client.ns, "tcp", "10.96.0.20:80", 3), first[:len("pod-1-1:8080")])
	_, err = r.store.Update(t.Context(), removing(gone))
	must(t, err)
	for _, n := range r.nodes {
		r.start(n)
	}
	r.programmed()
	fmt.Fprintln(conn, "still there")
	if s, err := exchange(conn); err != nil || s != "still there" {
		t.Errorf("the old connection answered %q, %v", s, err)
	}
	only(t, "after", r.spread(client.ns, "tcp", "10.96.0.20:80", 10), first[:len("pod-1-1:8080")])
	r.dropped(client.ns, "tcp", "10.96.0.30:80")
	for pod, n := range counts() {
		if n < counted[pod] {
			t.Errorf("the counter of %s went from %d back to %d", pod, counted[pod], n)
		}
	}
}

// P-46: a UDP client with a fixed source port follows endpoint changes, also through none at all; TCP is left alone.
func TestUDPClientsFollowEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20", both, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[1].NodePort = corev1.ServiceTypeNodePort, 30053
	}), bothSlice("web", ready(a)))
	udp, err := dialFrom(client.ns, "udp", "10.96.0.20:80", time.Minute, 4444)
	must(t, err)
	defer udp.Close()
	np, err := dialFrom(r.outside, "udp", "172.30.0.12:30053", time.Minute, 4445)
	must(t, err)
	defer np.Close()
	tcp, err := dial(client.ns, "tcp", "10.96.0.20:80", time.Minute)
	must(t, err)
	defer tcp.Close()
	if _, err := exchange(tcp); err != nil {
		t.Fatal(err)
	}
	expect := func(what, want string) {
		t.Helper()
		for _, c := range []net.Conn{udp, np} {
			s, err := exchange(c)
			if want == "" && err == nil || want != "" && (err != nil || s[:len(want)] != want) {
				t.Errorf("%s: got %q, %v, want %q", what, s, err, want)
			}
		}
	}
	expect("first", "pod-1-1:9090")
	r.put(bothSlice("web", ready(b)))
	expect("moved", "pod-2-1:9090")
	r.put(bothSlice("web"))
	expect("none left", "")
	expect("none left", "")
	moved := bothSlice("web", ready(a))
	moved.Ports[1] = slicePort("u", corev1.ProtocolUDP, 8080)
	r.put(moved)
	expect("back, with another target port", "pod-1-1:8080")
	fmt.Fprintln(tcp, "still there")
	if s, err := exchange(tcp); err != nil || s != "still there" {
		t.Errorf("the TCP connection answered %q, %v", s, err)
	}
}

// P-61: scaling 2 to 1 and back without pause loses no new connection.
func TestScalingWithoutPauseLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.pod(1), r.pod(2)
	clients := []*rigPod{r.pod(1), r.pod(2)}
	r.put(service("web", "10.96.0.20"), slice("web", ready(a), ready(b)))
	var wg sync.WaitGroup
	var asked, lost atomic.Int64
	stop := make(chan struct{})
	for _, c := range clients {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				if _, err := try(c.ns, "tcp", "10.96.0.20:80", patience); err != nil {
					lost.Add(1)
					t.Errorf("lost: %v", err)
				}
			}
		})
	}
	for i := range 300 {
		r.put(slice("web", ready([]*rigPod{a, b}[i%2])))
		r.put(slice("web", ready(a), ready(b)))
	}
	close(stop)
	wg.Wait()
	t.Logf("%d connections during 600 changes, %d lost", asked.Load(), lost.Load())
}

// The cluster DNS address that the node holds itself is neither translated nor refused, and makes no conntrack entry.
func TestTheDNSAddressIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	client := r.pod(1)
	r.holdDNS(r.nodes[0])
	for _, network := range []string{"udp", "tcp"} {
		for _, ns := range []string{"pod", "node"} {
			from := client.ns
			if ns == "node" {
				from = r.nodes[0].ns
			}
			if got, _ := r.ask(from, network, "10.96.0.10:8080"); got != "dns:8080" {
				t.Errorf("%s from a %s: got %q", network, ns, got)
			}
		}
	}
}

// P-57: nft lists every node's table, exits 0, and names each Service and pod.
func TestNftNamesEachService(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.pod(1)
	long := service("a-name-as-long-as-kubernetes-lets-a-service-be-which-is-63-bytes", "10.96.0.21", sticky(5))
	long.Namespace = "default"
	r.put(service("web", "10.96.0.20", nodePort(30080)), slice("web", ready(a)), long, slice(long.Name, ready(a)))
	for _, n := range r.nodes {
		text := nft(t, n.ns, "", "list", "ruleset")
		for _, want := range []string{"default/web", "default/pod-1-1 pod", "default/" + long.Name} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: nft list ruleset does not name %q", n.name, want)
			}
		}
	}
}

// Counts are the kernel's own, exact through changes.
func TestCountsAreExact(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20"), slice("web", ready(a), ready(b)))
	seen := r.spread(client.ns, "tcp", "10.96.0.20:80", 40)
	r.put(slice("web", ready(b)))
	for range 10 {
		r.ask(client.ns, "tcp", "10.96.0.20:80")
	}
	got, err := r.nodes[0].proxy.Counts(t.Context(), nn("web"))
	must(t, err)
	want := []Count{{Port: "80/TCP", Endpoint: got[0].Endpoint, Pod: "default/pod-2-1", Connections: uint64(seen["pod-2-1:8080"] + 10)}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b Count) bool { return a == b })); d != "" {
		t.Errorf("want (-) got (+):\n%s", d)
	}
}

// P-54: with MasqueradeAll an endpoint sees the node instead of a pod that calls it, but for Local policies.
func TestMasqueradeAllHidesEveryClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20"), slice("web", ready(a)))
	if _, from := r.ask(client.ns, "tcp", "10.96.0.20:80"); from != client.ip.String() {
		t.Errorf("without it the endpoint saw %s, want the pod %s", from, client.ip)
	}
	n := r.nodes[0]
	n.stop()
	c := r.config(n)
	c.MasqueradeAll = true
	r.startWith(n, c)
	r.programmed()
	if _, from := r.ask(client.ns, "tcp", "10.96.0.20:80"); from != n.ip.String() {
		t.Errorf("with it the endpoint saw %s, want the node %s", from, n.ip)
	}
}
