package node

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

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

// reaches tells whether a connection comes about within a moment.
func reaches(t *testing.T, from *netns.NS, to string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
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
	if reaches(t, b.fabric.Outside(), to) {
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
	b.until("its answer", func() bool { return reaches(t, b.fabric.Outside(), to) })
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
	if reaches(t, podNS, to.Status.PodIP+":80") {
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

// N-2, N-3: outside reaches the load balancers' addresses by a machine that lives.
func TestALivingMachineSpeaksForTheLoadBalancers(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.second()
	speaker := func() string {
		routes, err := b.fabric.outside.netlink.RouteList(nil, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Dst != nil && r.Dst.String() == "172.31.0.0/24" {
				return r.Gw.String()
			}
		}
		return ""
	}
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"at the beginning", func() error { return nil }, "172.30.0.11"},
		{"without n1", b.Stop, "172.30.0.12"},
		{"with n2 cut off", func() error { return b.fabric.Partition("n2") }, ""},
		{"with n2 alone", b.fabric.Heal, "172.30.0.12"},
		{"with both", b.Start, "172.30.0.11"},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
		if got := speaker(); got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
	}
}
