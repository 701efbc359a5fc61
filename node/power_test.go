package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/node/netns"
	"kubarium.dev/store"
)

// second puts another machine on the bench's wire and runs it.
func (b *bench) second() *Node {
	b.t.Helper()
	c := b.cfg
	c.Name, c.Address, c.PodCIDR = "n2", netip.MustParseAddr("172.30.0.12"), netip.MustParsePrefix("10.244.2.0/24")
	n, err := b.fabric.AddNode(b.t.Context(), c)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop := b.stop
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("Run ended with %v", err)
		}
		stop()
	})
	if err := n.Registered(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// reaches waits long for what should answer; cut does not for what should not.
func reaches(t *testing.T, from *netns.NS, to string) bool {
	t.Helper()
	return connects(t, from, to, 10*time.Second)
}

func cut(t *testing.T, from *netns.NS, to string) bool {
	t.Helper()
	return !connects(t, from, to, 300*time.Millisecond)
}

func connects(t *testing.T, from *netns.NS, to string, patience time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp4", to)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// N-3
func TestAMachineThatLosesItsPowerComesBackWithItsPods(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	to := greet(t, b.NS(), b.cfg.Address)
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	if !cut(t, b.fabric.Outside(), to) {
		t.Error("a machine without power answers")
	}
	if _, ok := b.PodNS("dev", "web-1"); ok {
		t.Error("its pod still has a network")
	}
	if got := b.await(pod, "as it was", func(*corev1.Pod) bool { return true }); !isReady(got) {
		t.Error("a machine without power told of its pods")
	}
	gone := webPod("gone")
	b.create(gone)
	b.remove(gone, 0)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	got := b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if got.Status.PodIP != ip {
		t.Errorf("came back at %s, was %s", got.Status.PodIP, ip)
	}
	b.until("its answer", func() bool { return !cut(t, b.fabric.Outside(), to) })
}

// N-3: pods of both sides run on; who is cut off hears and tells nothing until the wire is whole again.
func TestAPartitionCutsPacketsAndNews(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	n2 := b.second()
	one, two := webPod("one"), webPod("two")
	two.Spec.NodeName = "n2"
	two.Spec.Containers[0].ReadinessProbe = httpProbe("/readyz")
	b.create(one)
	b.create(two)
	from, to := b.awaitReady(one), b.awaitReady(two)
	podNS, _ := b.PodNS("dev", "one")
	if !reaches(t, podNS, to.Status.PodIP+":80") {
		t.Fatal("no way before the partition")
	}
	if err := b.fabric.Partition("n2"); err != nil {
		t.Fatal(err)
	}
	if err := b.fabric.Partition("nobody"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if !cut(t, podNS, to.Status.PodIP+":80") {
		t.Error("a packet crossed the partition")
	}
	if !reaches(t, n2.NS(), to.Status.PodIP+":80") {
		t.Error("a node does not reach its own pod")
	}
	if err := n2.Exec(t.Context(), ExecRequest{Namespace: "dev", Pod: "two", Command: []string{"true"}}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
	late := webPod("late")
	late.Spec.NodeName = "n2"
	b.create(late)
	b.remove(two, 0) // the object goes; the machine does not hear of it
	if !reaches(t, n2.NS(), to.Status.PodIP+":80") {
		t.Error("the machine heard of a deletion")
	}
	if err := b.fabric.Heal(); err != nil {
		t.Fatal(err)
	}
	got := b.awaitReady(late)
	if !reaches(t, podNS, got.Status.PodIP+":80") || !reaches(t, n2.NS(), from.Status.PodIP+":80") {
		t.Error("no way after the partition")
	}
	b.until("the end of the deleted pod", func() bool { return n2.find("dev", "two") == nil })
}

// N-1, N-3: a machine is heard of again and again; the time is the one the API knows.
func TestAMachineIsHeardOfFourTimesInALease(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *NodeConfig) { c.Lease = 200 * time.Millisecond })
	if err := b.Registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := func() string {
		lease, err := store.Get[*coordinationv1.Lease](b.store, api.Leases, "kube-node-lease", "n1")
		if err != nil || *lease.Spec.HolderIdentity != "n1" || *lease.Spec.LeaseDurationSeconds != 1 {
			return ""
		}
		return lease.Spec.RenewTime.String()
	}
	b.until("the first beat", func() bool { return last() != "" })
	first := last()
	b.until("another beat", func() bool { return last() != first })
}

// N-3: removing a machine leaves no route to it.
func TestAMachineThatIsRemovedLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newWire(t)
	one := f.newMachine(t, 1)
	store, err := store.Open(t.TempDir()+"/db", store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for range 2 { // its name and addresses are free again
		n, err := f.AddNode(t.Context(), NodeConfig{Name: "n2", Address: netip.MustParseAddr("172.30.0.12"),
			PodCIDR: netip.MustParsePrefix("10.244.2.0/24"), Store: store})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.RemoveNode(n); err != nil {
			t.Fatal(err)
		}
	}
	routes, err := one.link.netlink.RouteList(nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst != nil && strings.HasPrefix(r.Dst.String(), "10.244.2.") {
			t.Errorf("a route is left: %v", r)
		}
	}
}

// N-2, N-3, P-60: outside is led to the load balancers' addresses by the machines that live and are fit for it, each address by its own.
func TestOutsideIsLedToTheMachinesThatLive(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.second()
	own := netip.MustParseAddr("172.31.0.7")
	c, third := b.cfg, (*Node)(nil)
	c.Name, c.Address, c.PodCIDR = "n3", netip.MustParseAddr("172.30.0.13"), netip.MustParsePrefix("10.244.3.0/24")
	for _, step := range []struct {
		what       string
		do         func() error
		whole, one string // the machines on the way to the range, and to the address with a way of its own
	}{
		{"at the beginning", func() error { return nil }, "11 12", ""},
		{"with an address of its own", func() error { return b.fabric.LeadAddress(own, []string{"n2", "n9"}) }, "11 12", "12"},
		{"without n1", b.Stop, "12", "12"},
		{"with n2 cut off", func() error { return b.fabric.Partition("n2") }, "", ""},
		{"with n2 alone", b.fabric.Heal, "12", "12"},
		{"with both", b.Start, "11 12", "12"},
		{"with n1 alone fit", func() error { return b.fabric.LeadTo([]string{"n1"}) }, "11", "12"},
		{"with none fit", func() error { return b.fabric.LeadTo([]string{}) }, "", "12"},
		{"with all fit", func() error { return b.fabric.LeadTo(nil) }, "11 12", "12"},
		{"with the address led as all", func() error { return b.fabric.LeadAddress(own, nil) }, "11 12", ""},
		{"twice so", func() error { return b.fabric.LeadAddress(own, nil) }, "11 12", ""},
		{"with n3 come", func() (err error) { third, err = b.fabric.AddNode(t.Context(), c); return err }, "11 12 13", ""},
		{"with n3 gone for good", func() error { return b.fabric.RemoveNode(third) }, "11 12", ""},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if got := ledTo(t, b.fabric, "172.31.0.0/24"); got != step.whole {
			t.Errorf("%s: the range is led to %q, want %q", step.what, got, step.whole)
		}
		if got := ledTo(t, b.fabric, "172.31.0.7/32"); got != step.one {
			t.Errorf("%s: the address is led to %q, want %q", step.what, got, step.one)
		}
	}
	if err := b.fabric.LeadAddress(netip.MustParseAddr("172.30.0.7"), []string{"n1"}); err == nil {
		t.Error("an address outside the range was taken")
	}
}

// ledTo is the last number of each machine's address on outside's way to a prefix.
func ledTo(t *testing.T, f *Fabric, prefix string) string {
	t.Helper()
	routes, err := f.outside.netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: balancerTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range routes {
		if r.Dst == nil || r.Dst.String() != prefix {
			continue
		}
		for _, hop := range r.MultiPath {
			all = append(all, fmt.Sprint(hop.Gw.To4()[3]))
		}
		if r.Gw != nil {
			all = append(all, fmt.Sprint(r.Gw.To4()[3]))
		}
	}
	return strings.Join(all, " ")
}
