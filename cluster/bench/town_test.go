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
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
