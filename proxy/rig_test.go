package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/node/netns"
	"kubarium.dev/store"
)

const inside = "PROXY_TEST_INSIDE"

// TestMain runs the tests as root of a user namespace when the user is an ordinary one.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdout, os.Stderr, append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// rig is two nodes with a proxy each, pods on them, and a client outside, on one wire.
type rig struct {
	t       *testing.T
	store   *store.Store
	full    atomic.Bool // the disk takes nothing
	wire    *netns.NS
	outside *netns.NS
	nodes   []*rigNode
}

type rigNode struct {
	name  string
	ns    *netns.NS
	ip    netip.Addr
	proxy *Proxy
	stop  func()
	pods  int
}

type rigPod struct {
	name string
	node *rigNode
	ns   *netns.NS
	ip   netip.Addr
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, wire: newNS(t), outside: newNS(t)}
	var err error
	r.store, err = store.Open(t.TempDir()+"/store", store.Options{NoSync: true, BeforeCommit: func() error {
		if r.full.Load() {
			return unix.ENOSPC
		}
		return nil
	}})
	must(t, err)
	t.Cleanup(func() { r.store.Close() })
	r.routes(r.wire, func(h *netlink.Handle) error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		return errors.Join(h.LinkAdd(br), h.LinkSetUp(br))
	})
	r.plug("outside", r.outside, "172.30.0.1/24")
	r.routes(r.outside, func(h *netlink.Handle) error {
		return errors.Join(addRoute(h, "eth0", "172.31.0.0/24", "172.30.0.11"), addRoute(h, "eth0", "10.96.0.0/16", "172.30.0.11"))
	})
	for i := 1; i <= 2; i++ {
		r.nodes = append(r.nodes, r.newNode(i))
	}
	for _, n := range r.nodes {
		r.start(n)
	}
	t.Cleanup(r.check)
	r.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "started"}})
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// routes runs fn with a netlink handle of a namespace.
func (r *rig) routes(ns *netns.NS, fn func(h *netlink.Handle) error) {
	r.t.Helper()
	must(r.t, ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	}))
}

func addRoute(h *netlink.Handle, dev, to, via string) error {
	l, err := h.LinkByName(dev)
	if err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Gw: net.ParseIP(via)}
	if via == "" {
		route.Scope = netlink.SCOPE_LINK
	}
	return h.RouteAdd(route)
}

func addAddress(h *netlink.Handle, dev, address string) error {
	l, err := h.LinkByName(dev)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD // else nobody can listen there until the kernel has made sure that nobody else has it
	}
	return errors.Join(h.AddrAdd(l, a), h.LinkSetUp(l))
}

// veth makes a pair: name in ns, eth0 in peer.
func (r *rig) veth(ns *netns.NS, name string, peer *netns.NS) {
	r.t.Helper()
	r.routes(ns, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.FD()),
		})
	})
}

func (r *rig) plug(name string, ns *netns.NS, address string) {
	r.t.Helper()
	r.veth(r.wire, name, ns)
	r.routes(r.wire, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		br, err := h.LinkByName("br")
		if err != nil {
			return err
		}
		return errors.Join(h.LinkSetMaster(l, br), h.LinkSetUp(l))
	})
	r.routes(ns, func(h *netlink.Handle) error { return addAddress(h, "eth0", address) })
	r.carry(r.wire, name)
}

// carry makes the kernel see at once that the other end of a link is up, and not when its link watch comes round: until then it
// drops what it should send, and a connection waits a second for its second attempt.
func (r *rig) carry(ns *netns.NS, name string) {
	r.t.Helper()
	r.routes(ns, func(h *netlink.Handle) error {
		_, err := h.LinkByName(name)
		return err
	})
}

func (r *rig) newNode(i int) *rigNode {
	r.t.Helper()
	n := &rigNode{name: fmt.Sprintf("node%d", i), ns: newNS(r.t), ip: netip.AddrFrom4([4]byte{172, 30, 0, byte(10 + i)})}
	for _, s := range []string{"net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv4.icmp_ratelimit=0"} {
		k, v, _ := strings.Cut(s, "=")
		must(r.t, n.ns.Sysctl(k, v))
	}
	r.plug(n.name, n.ns, n.ip.String()+"/24")
	other := 3 - i
	r.routes(n.ns, func(h *netlink.Handle) error {
		return errors.Join(addRoute(h, "eth0", fmt.Sprintf("10.244.%d.0/24", other), fmt.Sprintf("172.30.0.%d", 10+other)),
			addRoute(h, "eth0", "0.0.0.0/0", "172.30.0.1"))
	})
	return n
}

func (r *rig) config(n *rigNode) Config {
	return Config{
		Node: n.name, NS: n.ns, NodeAddresses: []netip.Addr{n.ip}, PodCIDR: testNetwork.podCIDR,
		ServiceCIDR: testNetwork.serviceCIDR, DNSAddress: testNetwork.dns, Reader: r.store.Ahead(),
	}
}

// start runs the node's proxy.
func (r *rig) start(n *rigNode) { r.startWith(n, r.config(n)) }

func (r *rig) startWith(n *rigNode, c Config) {
	r.t.Helper()
	p, err := New(c)
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	n.proxy = p
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("Run of %s: %v", n.name, err)
			}
		})
	}
	r.t.Cleanup(n.stop)
}

// programmed waits until both proxies have done all that was written.
func (r *rig) programmed() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, n := range r.nodes {
		if err := n.proxy.Progress().Wait(ctx, r.store.Revision()); err != nil {
			r.t.Fatalf("%s did not program revision %d: %v", n.name, r.store.Revision(), err)
		}
	}
}

// check is what must hold after every test: the kernel holds the plan, and nft can list it.
func (r *rig) check() {
	for _, n := range r.nodes {
		n.proxy.mu.Lock()
		want, chains := n.proxy.sides[0].planner.table(), ruleset(n.proxy.sides[0].network, n.proxy.sides[0].planner.shapes)
		n.proxy.mu.Unlock()
		k, err := openKernel(n.ns, ipv4)
		must(r.t, err)
		got, err := k.read()
		k.Close()
		must(r.t, err)
		if d := cmp.Diff(want, got.Elements); d != "" {
			r.t.Errorf("%s: plan (-) and kernel (+) differ:\n%s", n.name, d)
		}
		rules := 0
		for _, c := range chains {
			rules += len(c.rules)
		}
		if got.Rules != rules {
			r.t.Errorf("%s: the kernel has %d rules, want %d", n.name, got.Rules, rules)
		}
		nft(r.t, n.ns, "", "list", "ruleset")
	}
}

// pod makes a pod on node 1 or 2 that answers on 8080 and 9090, TCP and UDP: its name and the client's address.
func (r *rig) pod(node int) *rigPod {
	r.t.Helper()
	n := r.nodes[node-1]
	n.pods++
	p := &rigPod{
		name: fmt.Sprintf("pod-%d-%d", node, n.pods), node: n, ns: newNS(r.t),
		ip: netip.AddrFrom4([4]byte{10, 244, byte(node), byte(10 + n.pods)}),
	}
	veth := fmt.Sprintf("pod%d", n.pods)
	r.veth(n.ns, veth, p.ns)
	r.routes(n.ns, func(h *netlink.Handle) error {
		return errors.Join(addAddress(h, veth, "169.254.1.1/32"), addRoute(h, veth, p.ip.String()+"/32", ""))
	})
	r.routes(p.ns, func(h *netlink.Handle) error {
		return errors.Join(addAddress(h, "eth0", p.ip.String()+"/32"), addRoute(h, "eth0", "169.254.1.1/32", ""),
			addRoute(h, "eth0", "0.0.0.0/0", "169.254.1.1"))
	})
	r.carry(n.ns, veth)
	for _, port := range []int{8080, 9090} {
		r.serveTCP(p, port)
		r.serveUDP(p, port)
	}
	return p
}

func answer(p *rigPod, port int, from net.Addr) string {
	host, _, _ := net.SplitHostPort(from.String())
	return fmt.Sprintf("%s:%d %s", p.name, port, host)
}

func (r *rig) serveTCP(p *rigPod, port int) {
	ln, err := p.ns.Listen(context.Background(), "tcp", fmt.Sprintf("0.0.0.0:%d", port))
	must(r.t, err)
	r.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { // answers every line; a first empty read ends it
				defer c.Close()
				fmt.Fprintln(c, answer(p, port, c.RemoteAddr()))
				io.Copy(c, c)
			}()
		}
	}()
}

func (r *rig) serveUDP(p *rigPod, port int) {
	pc, err := p.ns.ListenPacket(context.Background(), "udp", fmt.Sprintf("0.0.0.0:%d", port))
	must(r.t, err)
	r.serveOn(p, port, pc)
}

func (r *rig) serveOn(p *rigPod, port int, pc net.PacketConn) {
	r.t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo([]byte(answer(p, port, from)), from)
		}
	}()
}

// ask is try that must succeed; it returns the pod with its port, and the client address the pod saw.
func (r *rig) ask(ns *netns.NS, network, address string) (pod, client string) {
	r.t.Helper()
	s, err := try(ns, network, address, patience)
	if err != nil {
		r.t.Fatalf("%s %s: %v", network, address, err)
	}
	pod, client, _ = strings.Cut(s, " ")
	return pod, client
}

// refused must be a refusal, fast.
func (r *rig) refused(ns *netns.NS, network, address string) {
	r.t.Helper()
	began := time.Now()
	s, err := try(ns, network, address, patience)
	if !errors.Is(err, syscall.ECONNREFUSED) && !r.stopped(ns, network, err) {
		r.t.Errorf("%s %s: got %q, %v, want connection refused", network, address, s, err)
	}
	if took := time.Since(began); took > time.Second {
		r.t.Errorf("%s %s: refused after %v", network, address, took)
	}
}

// stopped tells of the error that the kernel gives a process whose own datagram a rule of its own namespace stopped.
func (r *rig) stopped(ns *netns.NS, network string, err error) bool {
	return network == "udp" && (ns == r.nodes[0].ns || ns == r.nodes[1].ns) && errors.Is(err, syscall.EPERM)
}

// dropped must be silence.
func (r *rig) dropped(ns *netns.NS, network, address string) {
	r.t.Helper()
	s, err := try(ns, network, address, silence)
	if !errors.Is(err, context.DeadlineExceeded) && !os.IsTimeout(err) && !r.stopped(ns, network, err) {
		r.t.Errorf("%s %s: got %q, %v, want silence", network, address, s, err)
	}
}

// spread asks n times, and counts the answers by pod and port.
func (r *rig) spread(ns *netns.NS, network, address string, n int) map[string]int {
	r.t.Helper()
	out := map[string]int{}
	for range n {
		pod, _ := r.ask(ns, network, address)
		out[pod]++
	}
	return out
}

// put creates or updates objects.
func (r *rig) put(objs ...api.Object) {
	r.t.Helper()
	_, err := r.store.Update(context.Background(), func(tx *store.Tx) error {
		for _, obj := range objs {
			obj = api.Copy(obj)
			obj.SetResourceVersion("")
			if _, err := tx.Get(api.KindOf(obj), obj.GetNamespace(), obj.GetName()); err == nil {
				if err := tx.Update(obj); err != nil {
					return err
				}
				continue
			}
			if err := tx.Create(obj); err != nil {
				return err
			}
		}
		return nil
	})
	must(r.t, err)
	r.programmed()
}

func (r *rig) remove(obj api.Object) {
	r.t.Helper()
	_, err := r.store.Update(context.Background(), func(tx *store.Tx) error { return tx.Remove(obj) })
	must(r.t, err)
	r.programmed()
}

// holdDNS puts the cluster DNS address on a node's loopback and answers there.
func (r *rig) holdDNS(n *rigNode) {
	r.t.Helper()
	r.routes(n.ns, func(h *netlink.Handle) error { return addAddress(h, "lo", testNetwork.dns.String()+"/32") })
	p := &rigPod{name: "dns", node: n, ns: n.ns, ip: testNetwork.dns}
	r.serveTCP(p, 8080)
	pc, err := n.ns.ListenPacket(context.Background(), "udp", "10.96.0.10:8080")
	must(r.t, err)
	r.serveOn(p, 8080, pc)
}
