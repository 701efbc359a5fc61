package node

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

// link is a namespace with a netlink socket in it: its interfaces, addresses and routes are changed through the socket, from any
// thread.
type link struct {
	*netns.NS
	netlink *netlink.Handle
	eth0    int // the index of the interface that leads out
}

// setting is one sysctl.
type setting struct{ name, value string }

// quiet keeps IPv6 from giving interfaces addresses on its own, and so from everything that such an address begins. It is true
// of the interfaces that are made afterwards; more settings would each cost every pod a wait for the kernel's network lock.
var quiet = []setting{{"net.ipv6.conf.default.addr_gen_mode", "1"}}

// newLink makes a namespace with the settings. One that this kernel does not have is told and left.
func newLink(log *slog.Logger, settings []setting) (*link, error) {
	l := &link{}
	var err error
	l.NS, err = netns.New(func() error {
		l.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		for _, list := range [][]setting{quiet, settings} {
			for _, s := range list {
				err := netns.Sysctl(s.name, s.value)
				if errors.Is(err, fs.ErrNotExist) {
					log.Warn("this kernel lacks a setting", "sysctl", s.name)
				} else if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		if l.netlink != nil {
			l.netlink.Close()
		}
		return nil, err
	}
	return l, nil
}

// close lets go of the namespace. A link that was never made closes well.
func (l *link) close() error {
	if l == nil {
		return nil
	}
	l.netlink.Close()
	return l.NS.Close()
}

// addBridge makes a bridge and returns its index.
func (l *link) addBridge(name string) (int, error) {
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name, bridge.Flags = name, net.FlagUp
	if err := l.netlink.LinkAdd(bridge); err != nil {
		return 0, fmt.Errorf("make the bridge %s: %w", name, err)
	}
	return bridge.Index, nil
}

// connect makes a veth from eth0 of this namespace, with the address, to an interface of another one, and returns the index it
// has there. mac is eth0's; nil for any.
func (l *link) connect(to *link, there netlink.LinkAttrs, addr netip.Prefix, mac net.HardwareAddr) (int, error) {
	there.TxQLen, there.NumTxQueues, there.NumRxQueues = -1, 1, 1
	there.Flags |= net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs: there, PeerName: "eth0", PeerNamespace: netlink.NsFd(l.FD()), PeerHardwareAddr: mac,
		PeerTxQLen: -1, PeerNumTxQueues: 1, PeerNumRxQueues: 1,
	}
	if err := to.netlink.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("make the interface %s: %w", there.Name, err)
	}
	eth0, err := l.addAddress("eth0", addr, netlink.SCOPE_UNIVERSE)
	if err != nil {
		return 0, err
	}
	if err := l.netlink.LinkSetUp(eth0); err != nil {
		return 0, fmt.Errorf("set eth0 up: %w", err)
	}
	// The end that was up first has a carrier only now, and drops what it should send until the kernel's link watch has run. To
	// ask for the link makes it run (rtnl_getlink, since Linux 6.8), so that not even a first packet is lost.
	if _, err := to.netlink.LinkByIndex(veth.Index); err != nil {
		return 0, fmt.Errorf("look at the interface %s: %w", there.Name, err)
	}
	l.eth0 = eth0.Attrs().Index
	return veth.Index, nil
}

func (l *link) addAddress(name string, addr netip.Prefix, scope netlink.Scope) (netlink.Link, error) {
	dev, err := l.netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if err := l.netlink.AddrAdd(dev, &netlink.Addr{IPNet: ipNet(addr), Scope: int(scope)}); err != nil {
		return nil, fmt.Errorf("give %s the address %v: %w", name, addr, err)
	}
	return dev, nil
}

// route leads to a range by an interface: directly, or by a next hop.
type route struct {
	to  netip.Prefix // the zero Prefix is everywhere
	dev int
	via netip.Addr // invalid: whoever has the address is on the link
	src netip.Addr // the address this namespace sends from; invalid: the link's own
}

func (l *link) addRoute(r route) error {
	if err := l.netlink.RouteAdd(r.netlink()); err != nil {
		return fmt.Errorf("route to %v: %w", r.to, err)
	}
	return nil
}

func (l *link) delRoute(r route) error {
	if err := l.netlink.RouteDel(r.netlink()); err != nil {
		return fmt.Errorf("remove the route to %v: %w", r.to, err)
	}
	return nil
}

// netlink says it in the kernel's words. A next hop needs no address on the link's network: it is on the link because we say so.
func (r route) netlink() *netlink.Route {
	k := &netlink.Route{LinkIndex: r.dev, Scope: netlink.SCOPE_LINK}
	if r.to.IsValid() {
		k.Dst = ipNet(r.to)
	}
	if r.via.IsValid() {
		k.Gw, k.Scope, k.Flags = r.via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	if r.src.IsValid() {
		k.Src = r.src.AsSlice()
	}
	return k
}

// knows writes a neighbour down for ever: nobody waits for ARP, and such an entry does not count in the kernel's limit, which
// all namespaces share (1,024 by default).
func (l *link) knows(dev int, ip netip.Addr, mac net.HardwareAddr) error {
	err := l.netlink.NeighSet(&netlink.Neigh{LinkIndex: dev, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac})
	if err != nil {
		return fmt.Errorf("write down neighbour %v: %w", ip, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// host is the range of one address.
func host(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }
