package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/node"
	"kubarium.dev/store"
)

// town is a cluster of two nodes with many Services, each with a hand-made slice and endpoints of its own. The endpoints' addresses
// are the nodes' own, a listener on each node answers at all of them.
type town struct {
	*clustertest.Cluster
	b         *testing.B
	options   cluster.Options
	dial      node.DialFunc // from the second node
	endpoints int           // of each Service
	held      int
	made      int // in all, for the names
}

// townNew is the number of the first Service beyond those held.
const townNew = 30000

// townTx is how many Services one transaction writes.
const townTx = 500

// The endpoints' addresses: in the pods' range, beside the nodes' own /24s. A node has every second one.
var (
	townPods  = netip.MustParsePrefix("10.128.0.0/9")
	townNodes = []townNode{
		{"n1", "172.30.0.11", netip.MustParsePrefix("10.192.0.0/11")},
		{"n2", "172.30.0.12", netip.MustParsePrefix("10.224.0.0/11")},
	}
)

type townNode struct {
	name, address string
	endpoints     netip.Prefix
}

func newTown(b *testing.B, endpoints int) *town {
	b.Helper()
	o := cluster.Options{StateDir: b.TempDir(), Log: slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	o.Config.Networks.Pods = townPods
	o.Progress = func(s cluster.Stage) {
		if s.Took > time.Second {
			b.Logf("the start's stage %q took %v", s.Name, s.Took)
		}
	}
	t := &town{b: b, options: o, endpoints: endpoints}
	t.begin()
	return t
}

// begin starts the town's cluster, anew or for the first time, and returns how long that took.
func (t *town) begin() time.Duration {
	t.b.Helper()
	began := time.Now()
	t.Cluster = clustertest.Start(t.b, t.options)
	took := time.Since(began)
	t.answer()
	var err error
	t.dial, err = t.Dialer("node/n2", "")
	t.must(err)
	return took
}

// answer gives the nodes the endpoints' addresses, and a listener each.
func (t *town) answer() {
	t.b.Helper()
	for _, n := range townNodes {
		ln, err := t.Listen(t.b.Context(), "node/"+n.name, "tcp4", fmt.Sprintf("0.0.0.0:%d", endpointPort))
		t.must(err)
		t.b.Cleanup(func() { ln.Close() })
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
	}
	found := 0
	for _, fd := range t.netNamespaces() {
		h, err := netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
		t.must(err)
		for i, n := range townNodes {
			eth, err := h.LinkByName("eth0")
			if err != nil || !hasAddress(h, eth, n.address) {
				continue
			}
			lo, err := h.LinkByName("lo")
			t.must(err)
			other := townNodes[1-i]
			t.must(h.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(n.endpoints), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
			t.must(h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(other.endpoints), Gw: net.ParseIP(other.address)}))
			found++
		}
		h.Close()
	}
	if found != len(townNodes) {
		t.b.Fatalf("found %d nodes' namespaces", found)
	}
}

// netNamespaces are this process's descriptors of the cluster's network namespaces, one for each.
func (t *town) netNamespaces() map[string]int {
	t.b.Helper()
	fds := map[string]int{}
	for _, inode := range t.Namespaces() {
		fds[fmt.Sprintf("net:[%d]", inode)] = -1
	}
	links, err := os.ReadDir("/proc/self/fd")
	t.must(err)
	for _, l := range links {
		name, err := os.Readlink("/proc/self/fd/" + l.Name())
		if _, ours := fds[name]; err == nil && ours {
			fds[name], err = strconv.Atoi(l.Name())
			t.must(err)
		}
	}
	return fds
}

func hasAddress(h *netlink.Handle, l netlink.Link, ip string) bool {
	all, err := h.AddrList(l, unix.AF_INET)
	return err == nil && slices.ContainsFunc(all, func(a netlink.Addr) bool { return a.IP.String() == ip })
}

func (t *town) must(err error) {
	t.b.Helper()
	if err != nil {
		t.b.Fatal(err)
	}
}

// townIP is the ClusterIP of Service i, up to 65,000 of them, strewn over 10.96.0.0/16 as the API's own choices are: it draws an
// address and takes the next free one. The first 256 are left to those that are chosen.
func townIP(i int) string {
	const step, all = 7919, 65000 // without a common divisor
	return nth(netip.MustParsePrefix("10.96.0.0/16"), 256+i*step%all).String()
}

// grow holds n Services, written straight into the store, and returns how long it took until all were in effect.
func (t *town) grow(n int) time.Duration {
	t.b.Helper()
	began := time.Now()
	for t.held < n {
		upTo := min(n, t.held+townTx)
		_, err := t.Store().Update(t.b.Context(), func(tx *store.Tx) error {
			for i := t.held; i < upTo; i++ {
				name := fmt.Sprint("held-", i)
				if err := errors.Join(tx.Create(t.slice(name, i)), tx.Create(townService(name, townIP(i)))); err != nil {
					return err
				}
			}
			return nil
		})
		t.must(err)
		t.held = upTo
	}
	t.Programmed()
	return time.Since(began)
}

// townService is what the API makes of a Service without a selector.
func townService(name, ip string) *corev1.Service {
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: servicePort}},
		},
	}
	policy, traffic := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	s.Spec.IPFamilyPolicy, s.Spec.InternalTrafficPolicy = &policy, &traffic
	s.Spec.Ports[0].TargetPort.IntVal = endpointPort
	if ip != "" {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	}
	return s
}

// slice is a Service's slice; i numbers the Service among all, for its endpoints' addresses.
func (t *town) slice(name string, i int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	port, tcp, none, yes := int32(endpointPort), corev1.ProtocolTCP, "", true
	s.Ports = []discoveryv1.EndpointPort{{Name: &none, Protocol: &tcp, Port: &port}}
	for j := range t.endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{t.endpoint(i, j).String()}, NodeName: &townNodes[j%2].name, Conditions: discoveryv1.EndpointConditions{Ready: &yes},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s-%d", name, j)},
		})
	}
	return s
}

// endpoint is the address of endpoint j of Service i, on the first node for even j.
func (t *town) endpoint(i, j int) netip.Addr { return nth(townNodes[j%2].endpoints, i*t.endpoints+j+1) }

// name is a new Service's.
func (t *town) name() string {
	t.made++
	return fmt.Sprint("new-", t.made)
}

// newSlice is that of the Service named last, whose endpoints are none of those held.
func (t *town) newSlice(name string) *discoveryv1.EndpointSlice {
	return t.slice(name, townNew+t.made)
}

// create writes a slice and then its Service over HTTPS, and returns the Service and when its write was sent.
func (t *town) create(name string) (*corev1.Service, time.Time) {
	t.b.Helper()
	_, err := t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(t.b.Context(), t.newSlice(name), metav1.CreateOptions{})
	t.must(err)
	began := time.Now()
	svc, err := t.Client.CoreV1().Services(metav1.NamespaceDefault).Create(t.b.Context(), townService(name, ""), metav1.CreateOptions{})
	t.must(err)
	return svc, began
}

func (t *town) delete(name string) {
	t.b.Helper()
	t.must(t.Client.CoreV1().Services(metav1.NamespaceDefault).Delete(t.b.Context(), name, metav1.DeleteOptions{}))
}

func (t *town) deleteSlice(name string) {
	t.b.Helper()
	t.must(t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(t.b.Context(), name, metav1.DeleteOptions{}))
}

func address80(svc *corev1.Service) string { return net.JoinHostPort(svc.Spec.ClusterIP, "80") }

// attemptEvery is the pause between the beginnings of attempts: an attempt that began too early is lost, its packet dropped, and
// the next must not wait for it.
const attemptEvery = 200 * time.Microsecond

// reach connects until the address answers, and returns when the first connection stood.
func (t *town) reach(address string) time.Time {
	t.b.Helper()
	ctx, cancel := context.WithTimeout(t.b.Context(), 10*time.Second)
	defer cancel()
	stood := make(chan time.Time, 1)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()
	tick := time.NewTicker(attemptEvery)
	defer tick.Stop()
	for {
		attempts.Go(func() {
			conn, err := t.dial(ctx, "tcp", address)
			if err != nil {
				return
			}
			select {
			case stood <- time.Now():
			default:
			}
			conn.Close()
		})
		select {
		case at := <-stood:
			return at
		case <-tick.C:
		case <-ctx.Done():
			t.b.Fatalf("%s does not answer", address)
		}
	}
}

// lose connects until the address does not answer, and returns when the first attempt that failed began.
func (t *town) lose(address string) time.Time {
	t.b.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.b.Context(), 50*time.Millisecond)
		began := time.Now()
		conn, err := t.dial(ctx, "tcp", address)
		cancel()
		if err != nil {
			return began
		}
		conn.Close()
		if began.After(deadline) {
			t.b.Fatalf("%s still answers", address)
		}
	}
}

func report(b *testing.B, took []time.Duration) {
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "p99-ms")
}

// written is the write of a Service, its slice first, to the first connection through it.
func (t *town) written(b *testing.B) {
	var took []time.Duration
	for b.Loop() {
		name := t.name()
		svc, began := t.create(name)
		took = append(took, t.reach(address80(svc)).Sub(began))
		b.StopTimer()
		t.delete(name)
		t.deleteSlice(name)
		b.StartTimer()
	}
	report(b, took)
}

// BenchmarkFlat is issue D's: what a change takes until it is seen in packets, at 1,000 and at 20,000 Services of 5 endpoints, over
// HTTPS with a durable store, the client on the other node.
func BenchmarkFlat(b *testing.B) {
	t := newTown(b, 5)
	for _, n := range []int{1000, 20000} {
		b.Logf("%d Services in effect %v after the first was written into the store", n, t.grow(n))
		at := strconv.Itoa(n)
		b.Run("write-to-first-connection/"+at, t.written)
		b.Run("delete-to-refused/"+at, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				b.StopTimer()
				name := t.name()
				svc, _ := t.create(name)
				t.reach(address80(svc))
				b.StartTimer()
				began := time.Now()
				t.delete(name)
				took = append(took, t.lose(address80(svc)).Sub(began))
				b.StopTimer()
				t.deleteSlice(name)
				b.StartTimer()
			}
			report(b, took)
		})
		b.Run("ready-to-first-connection/"+at, t.becomesReady)
	}
	b.Run("cold-start/"+strconv.Itoa(t.held), t.coldStart)
}

// coldStart is from the start of a cluster, whose store holds the Services, until each of them has answered on the second node.
func (t *town) coldStart(b *testing.B) {
	var up, all []time.Duration
	for b.Loop() {
		b.StopTimer()
		t.must(t.Close())
		b.StartTimer()
		began := time.Now()
		up = append(up, t.begin())
		t.reachAll()
		all = append(all, time.Since(began))
	}
	b.ReportMetric(percentile(up, 50)/1000, "s-until-usable")
	b.ReportMetric(percentile(all, 50)/1000, "s-until-all-answered")
}

// reachAll connects through each of the Services held.
func (t *town) reachAll() {
	t.b.Helper()
	ctx, cancel := context.WithTimeout(t.b.Context(), time.Minute)
	defer cancel()
	var callers errgroup.Group
	const callersCount = 4
	for k := range callersCount {
		callers.Go(func() error {
			for i := k; i < t.held; i += callersCount {
				conn, err := t.dial(ctx, "tcp", net.JoinHostPort(townIP(i), "80"))
				if err != nil {
					return fmt.Errorf("Service %d: %w", i, err)
				}
				conn.Close()
			}
			return nil
		})
	}
	t.must(callers.Wait())
}

// BenchmarkConnect is the time to connect through a Service with 100 and with 20,000 held, and to its endpoint without any Service: a
// connection of each after the other, in one run.
func BenchmarkConnect(b *testing.B) {
	few, many := newTown(b, 5), newTown(b, 5)
	few.grow(100)
	many.grow(20000)
	ways := []struct {
		name    string
		dial    node.DialFunc
		address string
	}{
		{"direct", few.dial, netip.AddrPortFrom(few.endpoint(99, 0), endpointPort).String()},
		{"100", few.dial, net.JoinHostPort(townIP(99), "80")},
		{"direct-beside-20000", many.dial, netip.AddrPortFrom(many.endpoint(19999, 0), endpointPort).String()},
		{"20000", many.dial, net.JoinHostPort(townIP(19999), "80")},
	}
	took := make([][]time.Duration, len(ways))
	for b.Loop() {
		for i, w := range ways {
			began := time.Now()
			conn, err := w.dial(b.Context(), "tcp", w.address)
			took[i] = append(took[i], time.Since(began))
			if err != nil {
				b.Fatalf("%s: %v", w.name, err)
			}
			conn.Close()
		}
	}
	for i, w := range ways {
		b.ReportMetric(percentile(took[i], 50)*1000, w.name+"-p50-µs")
		b.ReportMetric(percentile(took[i], 99)*1000, w.name+"-p99-µs")
	}
}

// BenchmarkManyEndpoints is 5,000 Services of 50 endpoints each: loading all into a store and a cluster that runs, a write to the first
// connection, and one endpoint more to the ruleset of every node.
func BenchmarkManyEndpoints(b *testing.B) {
	t := newTown(b, 50)
	took := t.grow(5000)
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			t.reachAll()
		}
		b.ReportMetric(took.Seconds(), "s-written-and-in-effect")
	})
	b.Run("write-to-first-connection", t.written)
	b.Run("scale-to-in-effect", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			t.endpoints = 99 - t.endpoints // 49, then 50, and so on
			s, err := t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(b.Context(), "held-7", metav1.GetOptions{})
			t.must(err)
			s.Endpoints = t.slice("held-7", 7).Endpoints
			began := time.Now()
			_, err = t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Update(b.Context(), s, metav1.UpdateOptions{})
			t.must(err)
			t.Programmed()
			took = append(took, time.Since(began))
		}
		report(b, took)
	})
	t.endpoints = 50
	b.Run("cold-start", t.coldStart)
}

// gated is a pod whose readiness this benchmark decides, and its Service.
const gated = `
apiVersion: v1
kind: Pod
metadata: {name: gated, labels: {app: gated}}
spec:
  nodeName: n1
  readinessGates: [{conditionType: bench/open}]
  containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: gated}
spec: {selector: {app: gated}, ports: [{port: 80}]}
`

// becomesReady is a pod that becomes Ready, as the store has it, to the first connection to it through its Service.
func (t *town) becomesReady(b *testing.B) {
	t.Apply(gated)
	defer func() {
		t.must(t.Client.CoreV1().Pods(metav1.NamespaceDefault).Delete(b.Context(), "gated", metav1.DeleteOptions{}))
		t.must(t.Client.CoreV1().Services(metav1.NamespaceDefault).Delete(b.Context(), "gated", metav1.DeleteOptions{}))
	}()
	svc, err := t.Client.CoreV1().Services(metav1.NamespaceDefault).Get(b.Context(), "gated", metav1.GetOptions{})
	t.must(err)
	t.Until("the pod runs", func() bool {
		p := t.pod()
		return p.Status.PodIP != "" && p.Status.Phase == corev1.PodRunning
	})
	var took, fromGate []time.Duration
	for b.Loop() {
		ready := make(chan time.Time, 1)
		go func() { ready <- t.whenReady() }()
		began := time.Now()
		t.gate(corev1.ConditionTrue)
		stood := t.reach(address80(svc))
		fromGate, took = append(fromGate, stood.Sub(began)), append(took, stood.Sub(<-ready))
		b.StopTimer()
		t.gate(corev1.ConditionFalse)
		t.lose(address80(svc))
		t.Until("the pod is not ready", func() bool { return !api.Ready(t.pod()) })
		t.Programmed()
		b.StartTimer()
	}
	report(b, took)
	b.ReportMetric(percentile(fromGate, 50), "p50-ms-with-the-gate's-write")
}

func (t *town) pod() *corev1.Pod {
	obj, err := t.Store().Get(api.Pods, metav1.NamespaceDefault, "gated")
	t.must(err)
	return obj.(*corev1.Pod)
}

// whenReady returns when the store tells that the pod is Ready.
func (t *town) whenReady() time.Time {
	ctx, cancel := context.WithTimeout(t.b.Context(), 10*time.Second)
	defer cancel()
	w, err := t.Store().Watch(ctx, t.Store().Revision(), api.Pods)
	if err != nil {
		t.b.Error(err)
		return time.Now()
	}
	defer w.Close()
	for !api.Ready(t.pod()) {
		if _, err := w.Next(ctx); err != nil {
			t.b.Error(err)
			break
		}
	}
	return time.Now()
}

func (t *town) gate(status corev1.ConditionStatus) {
	t.b.Helper()
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"bench/open","status":%q}]}}`, status)
	_, err := t.Client.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.b.Context(), "gated", "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
	t.must(err)
}
