package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"kubarium.dev/node/netns"
)

func newWire(t testing.TB) *Fabric {
	t.Helper()
	f, err := NewFabric(t.Context(), FabricConfig{
		Nodes: netip.MustParsePrefix("172.30.0.0/24"), Services: netip.MustParsePrefix("10.96.0.0/16"), DNS: netip.MustParseAddr("10.96.0.10"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *Fabric) newMachine(t testing.TB, i int) *machine {
	t.Helper()
	m, err := f.attach(fmt.Sprintf("n%d", i), netip.AddrFrom4([4]byte{172, 30, 0, byte(10 + i)}),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) newPod(t testing.TB) *podNet {
	t.Helper()
	ip, err := m.takeIP(netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.addPod(ip, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// greet serves connections to addr in a namespace: each gets its own source address, as the server sees it, and ends.
func greet(t testing.TB, ns *netns.NS, addr netip.Addr) string {
	t.Helper()
	ln, err := ns.Listen(t.Context(), "tcp4", netip.AddrPortFrom(addr, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func seenAs(t testing.TB, from *netns.NS, to string) string {
	t.Helper()
	c, err := from.DialContext(t.Context(), "tcp4", to)
	if err != nil {
		t.Errorf("to %s: %v", to, err)
		return ""
	}
	defer c.Close()
	raw, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(raw)
}

// N-1, N-2: pods of all nodes reach each other and the nodes by their own addresses; outside reaches nodes only.
func TestTheWireRoutesBetweenPodsAndNodes(t *testing.T) {
	t.Parallel()
	f := newWire(t)
	m1, m2 := f.newMachine(t, 1), f.newMachine(t, 2)
	a, b, c := m1.newPod(t), m1.newPod(t), m2.newPod(t)
	podB, podC := greet(t, b.NS, b.IP), greet(t, c.NS, c.IP)
	node1, node2 := greet(t, m1.ns(), m1.addr), greet(t, m2.ns(), m2.addr)
	outside := f.Outside()
	for _, tt := range []struct {
		name string
		from *netns.NS
		to   string
		want string
	}{
		{"a pod to its neighbour", a.NS, podB, a.IP.String()},
		{"a pod to another node's pod", a.NS, podC, a.IP.String()},
		{"a pod to its node", a.NS, node1, a.IP.String()},
		{"a pod to another node", a.NS, node2, a.IP.String()},
		{"a node to its pod", m1.ns(), podB, m1.addr.String()},
		{"a node to another's pod", m1.ns(), podC, m1.addr.String()},
		{"a node to a node", m1.ns(), node2, m1.addr.String()},
		{"outside to a node", outside, node2, "172.30.0.1"},
	} {
		if got := seenAs(t, tt.from, tt.to); got != tt.want {
			t.Errorf("%s: seen as %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, err := outside.DialContext(t.Context(), "tcp4", podB); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("outside to a pod: %v, want unreachable", err)
	}
	if _, err := a.NS.DialContext(t.Context(), "tcp4", "192.0.2.1:80"); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a pod to the world: %v, want unreachable at once", err)
	}
}

func TestAClashingMachineIsRefused(t *testing.T) {
	t.Parallel()
	f := newWire(t)
	m := f.newMachine(t, 1)
	for _, c := range []struct {
		name, addr, pods string
	}{{"n1", "172.30.0.12", "10.244.2.0/24"}, {"n2", m.addr.String(), "10.244.2.0/24"}, {"n2", "172.30.0.12", "10.244.1.128/25"}} {
		if _, err := f.attach(c.name, netip.MustParseAddr(c.addr), netip.MustParsePrefix(c.pods)); err == nil {
			t.Errorf("%v stands beside %s", c, m.name)
		}
	}
}

func TestAddressesAreUsedAgainAsLateAsPossible(t *testing.T) {
	t.Parallel()
	pods := netip.MustParsePrefix("10.244.1.0/29")
	m := &machine{name: "n1", pods: pods, last: pods.Addr(), used: map[netip.Addr]bool{}}
	take := func(want string) {
		t.Helper()
		if ip, err := m.takeIP(netip.Addr{}); err != nil || ip.String() != want {
			t.Errorf("got %v (%v), want %s", ip, err, want)
		}
	}
	for _, want := range []string{"10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4"} {
		take(want)
	}
	m.freeIP(netip.MustParseAddr("10.244.1.2"))
	for _, want := range []string{"10.244.1.5", "10.244.1.6", "10.244.1.2"} {
		take(want)
	}
	if ip, err := m.takeIP(netip.Addr{}); err == nil {
		t.Errorf("got %v from a full range", ip)
	}
	if _, err := m.takeIP(netip.MustParseAddr("10.244.1.3")); err == nil {
		t.Error("an address was given out twice")
	}
}

// An address may come back before the kernel has taken its last pod down.
func TestAPodFollowsAnotherAtItsAddress(t *testing.T) {
	t.Parallel()
	f := newWire(t)
	m := f.newMachine(t, 1)
	ip := netip.MustParseAddr("10.244.1.9")
	for range 20 {
		p, err := m.addPod(ip, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := seenAs(t, m.ns(), greet(t, p.NS, ip)); got != m.addr.String() {
			t.Fatalf("seen as %q", got)
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A packet that is sent the moment a pod's network stands arrives, and so does the answer.
func TestAFreshPodLosesNoPacket(t *testing.T) {
	t.Parallel()
	f := newWire(t)
	m := f.newMachine(t, 1)
	server, err := m.ns().ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(m.addr, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { server.Close(); <-done })
	for i := range 100 {
		p := m.newPod(t)
		conn, err := p.NS.DialContext(t.Context(), "udp4", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "hello")
		if _, err := conn.Read(make([]byte, 64)); err != nil {
			t.Errorf("pod %d: %v", i, err)
		}
		conn.Close()
	}
}

func BenchmarkAddPod(b *testing.B) {
	f := newWire(b)
	m := f.newMachine(b, 1)
	for b.Loop() {
		ip, err := m.takeIP(netip.Addr{})
		if err != nil {
			b.Fatal(err)
		}
		p, err := m.addPod(ip, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.close(); err != nil {
			b.Fatal(err)
		}
		m.freeIP(ip)
	}
}
