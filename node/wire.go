package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

// FabricConfig says which addresses are in use on the wire. All but Log, LoadBalancers and Executable are needed.
type FabricConfig struct {
	Nodes    netip.Prefix // the machines' range; its first address is outside's
	Services netip.Prefix // leads to a machine's own rules when one of its own processes calls a Service
	DNS      netip.Addr   // every machine holds it on its loopback interface
	Log      *slog.Logger // nil for none
	// LoadBalancers leads outside to the machines, and a machine to its own rules; the zero Prefix for none.
	LoadBalancers netip.Prefix
	Executable    string // a program with node/podinit in it, for pods' processes; "" for this one
}

// Fabric is the wire between the machines: a bridge in a namespace of its own, the machines, and outside, a client that stands
// on the wire without being a machine, and knows the way to machines and load balancers only. No packet passes the host's network.
type Fabric struct {
	cfg     FabricConfig
	wire    *link // the namespace with the bridge
	bridge  int   // its interface index
	outside *link
	spawner *spawner

	mu       sync.Mutex // guards all below
	machines []*machine
	islands  int   // made so far, for their names
	bridges  []int // of the islands that a partition made
	steer    steering
}

// NewFabric makes the wire with outside on it and no machine yet.
func NewFabric(_ context.Context, c FabricConfig) (*Fabric, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fabric{cfg: c, steer: steering{hops: map[*machine]uint32{}, ways: map[netip.Prefix]*way{}}}
	err := f.makeWire()
	if err == nil {
		err = f.makeOutside()
	}
	if err == nil {
		f.spawner, err = newSpawner(c.Executable, f.wire.NS)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fabric) makeWire() error {
	l, err := newLink(f.cfg.Log, nil)
	if err != nil {
		return fmt.Errorf("make the wire: %w", err)
	}
	f.wire = l
	f.bridge, err = l.addBridge("wire")
	return err
}

// outsideSettings let a load generator make many connections: every port may be a client's, and soon again.
var outsideSettings = []setting{
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
	{"net.ipv4.ip_local_port_range", "1024 65535"},
	{"net.ipv4.tcp_tw_reuse", "1"},
	// For the load balancer: it forwards what outside itself sends, chooses by addresses and ports, and says at once that nobody is there.
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv4.conf.all.accept_local", "1"},
	{"net.ipv4.fib_multipath_hash_policy", "1"},
	{"net.ipv4.icmp_ratelimit", "0"},
}

func (f *Fabric) makeOutside() error {
	l, err := newLink(f.cfg.Log, outsideSettings)
	if err != nil {
		return fmt.Errorf("make outside: %w", err)
	}
	f.outside = l
	if _, err := f.plug(l, "outside", f.outsideAddress()); err != nil || !f.cfg.LoadBalancers.IsValid() {
		return err
	}
	return f.makeBalancer()
}

// plug connects a namespace to the wire, by eth0 with the address, and returns the index of the wire's end.
func (f *Fabric) plug(l *link, name string, addr netip.Addr) (int, error) {
	port := netlink.LinkAttrs{Name: name, MasterIndex: f.bridge}
	return l.connect(f.wire, port, netip.PrefixFrom(addr, f.cfg.Nodes.Bits()), macOf(addr))
}

// Outside is the namespace of a client that reaches the machines' addresses and nothing behind them.
func (f *Fabric) Outside() *netns.NS { return f.outside.NS }

// Close lets go of every namespace; they end when their processes and sockets have.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, m := range f.machines {
		errs = append(errs, m.link.close())
	}
	f.machines = nil
	f.spawner.close()
	return errors.Join(append(errs, f.outside.close(), f.wire.close())...)
}

// Namespaces are the inode numbers of all namespaces: the wire's, outside's, the machines' and their pods'.
func (f *Fabric) Namespaces() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := []uint64{f.wire.Inode(), f.outside.Inode()}
	for _, m := range f.machines {
		all = append(all, m.link.Inode())
		m.mu.Lock()
		for p := range m.nets {
			all = append(all, p.NS.Inode())
		}
		m.mu.Unlock()
	}
	return all
}

// machine is the network of a node: eth0 on the wire, the DNS address on lo, and a routed veth for each pod.
type machine struct {
	link *link
	log  *slog.Logger
	name string
	addr netip.Addr
	pods netip.Prefix

	fabric    *Fabric
	wire      *link // where its end of the wire is
	portIndex int   // of that end
	power     *power

	mu     sync.Mutex // guards all below
	serial int        // of the pods' interfaces
	last   netip.Addr // the pod address given out last
	used   map[netip.Addr]bool
	nets   map[*podNet]bool // those that stand
}

// machineSettings: a new namespace has the host's values (dataplane.md). Refusals must not be rate-limited, and connections that
// ended must not fill the range of ports.
var machineSettings = []setting{
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
	{"net.ipv4.icmp_ratelimit", "0"},
	{"net.ipv4.icmp_ratemask", "0"},
	{"net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1"},
}

// attach makes a machine, and the routes between its pods and those of the others.
func (f *Fabric) attach(name string, addr netip.Addr, pods netip.Prefix) (*machine, error) {
	l, err := newLink(f.cfg.Log, machineSettings)
	if err != nil {
		return nil, err
	}
	pods = pods.Masked()
	m := &machine{fabric: f, wire: f.wire, power: &power{}, link: l, log: f.cfg.Log, name: name, addr: addr, pods: pods, last: pods.Addr(), used: map[netip.Addr]bool{}, nets: map[*podNet]bool{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.join(m); err != nil {
		return nil, errors.Join(err, l.close())
	}
	f.machines = append(f.machines, m)
	return m, f.steerLocked()
}

func (f *Fabric) join(m *machine) error {
	for _, other := range f.machines {
		if other.name == m.name || other.addr == m.addr || other.pods.Overlaps(m.pods) {
			return fmt.Errorf("%s, %v and the pods' range %v clash with node %s", m.name, m.addr, m.pods, other.name)
		}
	}
	var err error
	if m.portIndex, err = f.plug(m.link, m.name, m.addr); err != nil {
		return err
	}
	// The scope keeps the kernel from choosing it as a sender's address, for what it masquerades above all.
	if _, err := m.link.addAddress("lo", host(f.cfg.DNS), netlink.SCOPE_HOST); err != nil {
		return err
	}
	for _, to := range []netip.Prefix{f.cfg.Services, f.cfg.LoadBalancers} { // no packet goes there: the machine's rules know better
		if !to.IsValid() {
			continue
		}
		if err := m.link.addRoute(route{to: to.Masked(), dev: m.link.eth0}); err != nil {
			return err
		}
	}
	for _, other := range f.machines {
		if err := errors.Join(m.reach(other), other.reach(m)); err != nil {
			return fmt.Errorf("route between the pods of %s and %s: %w", m.name, other.name, err)
		}
	}
	return nil
}

// reach routes to another machine's pods.
func (m *machine) reach(other *machine) error {
	return m.link.addRoute(route{to: other.pods, dev: m.link.eth0, via: other.addr})
}

func (m *machine) ns() *netns.NS { return m.link.NS }

// takeIP takes the address that is wanted, or, without one, the free one that was in use longest ago.
func (m *machine) takeIP(want netip.Addr) (netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if want.IsValid() {
		if m.used[want] {
			return netip.Addr{}, fmt.Errorf("the address %v is taken", want)
		}
		m.used[want] = true
		return want, nil
	}
	for ip := m.after(m.last); ip != m.last; ip = m.after(ip) {
		if !m.used[ip] {
			m.used[ip], m.last = true, ip
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is free in the pods' range %v of node %s", m.pods, m.name)
}

// after is the next address for pods, round and round; the network's own and the broadcast address are none.
func (m *machine) after(ip netip.Addr) netip.Addr {
	next := ip.Next()
	if !m.pods.Contains(next) || !m.pods.Contains(next.Next()) {
		return m.pods.Addr().Next()
	}
	return next
}

func (m *machine) freeIP(ip netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.used, ip)
}

// podNet is the network of a pod.
type podNet struct {
	NS     *netns.NS
	IP     netip.Addr
	HostIf string // its interface in the machine

	machine *machine
	index   int // of HostIf
}

// gateway is the next hop of every pod: nobody has the address, each pod knows it as a neighbour on its veth (Calico does the
// same), so that the pods' range gives up no address for it.
var gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// gatewayMAC is the machine's end of every pod's veth; no two are on one link.
var gatewayMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// addPod makes the network of a pod: its own namespace, with eth0 routed to and from the machine. early may be nil; it is called
// with the namespace before it is wired.
func (m *machine) addPod(ip netip.Addr, early func(*netns.NS)) (*podNet, error) {
	l, err := newLink(m.log, nil)
	if err != nil {
		return nil, err
	}
	defer l.netlink.Close() // nothing will change in there
	if early != nil {
		early(l.NS)
	}
	m.mu.Lock()
	m.serial++
	p := &podNet{NS: l.NS, IP: ip, HostIf: fmt.Sprintf("pod%d", m.serial), machine: m}
	m.mu.Unlock()
	if err := p.wire(l); err != nil {
		return nil, errors.Join(fmt.Errorf("make a pod's network at %v: %w", ip, err), l.NS.Close())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nets[p] = true
	return p, nil
}

func (p *podNet) wire(l *link) error {
	var err error
	p.index, err = l.connect(p.machine.link, netlink.LinkAttrs{Name: p.HostIf, HardwareAddr: gatewayMAC}, host(p.IP), macOf(p.IP))
	if err != nil {
		return err
	}
	if err := l.knows(l.eth0, gateway, gatewayMAC); err != nil {
		return err
	}
	if err := l.addRoute(route{dev: l.eth0, via: gateway}); err != nil {
		return err
	}
	if err := p.machine.link.knows(p.index, p.IP, macOf(p.IP)); err != nil {
		return err
	}
	return p.machine.link.addRoute(p.route())
}

func (p *podNet) route() route { return route{to: host(p.IP), dev: p.index, src: p.machine.addr} }

// macOf is a locally administered address made of an interface's own: whoever follows at an address has what its neighbours remember.
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x02, 0x00, b[0], b[1], b[2], b[3]}
}

// close takes the pod off the network at once; the kernel takes the namespace down afterwards, when its last socket is gone.
func (p *podNet) close() error {
	err := p.machine.link.delRoute(p.route())
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
		err = nil
	}
	p.machine.mu.Lock()
	defer p.machine.mu.Unlock()
	delete(p.machine.nets, p)
	return errors.Join(err, p.NS.Close())
}
