package node

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The load balancer stands in outside. Connections to its addresses leave outside's programs by one end of a veth, come back by the
// other, and are forwarded from there to the machines, by routes of their own. The detour is what keeps a connection on its machine:
// the kernel chooses among next hops by a packet's addresses and ports when it forwards, but at random when a socket connects, and
// once more whenever any route has changed. The next hops are resilient groups
// (Documentation/networking/nexthop-group-resilient.rst): when a machine goes, the connections over the others stay where they are;
// when one comes, it takes over paths that are silent.

const (
	balancerIn, balancerOut = "lb0", "lb1" // where packets leave the programs, and where they come back
	balancerTable           = 100          // of routes for packets that come back
)

// makeBalancer makes the detour.
func (f *Fabric) makeBalancer() error {
	l := f.outside
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: balancerIn, TxQLen: -1, NumTxQueues: 1, NumRxQueues: 1, Flags: net.FlagUp},
		PeerName:  balancerOut, PeerHardwareAddr: gatewayMAC, PeerTxQLen: -1, PeerNumTxQueues: 1, PeerNumRxQueues: 1,
	}
	if err := l.netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the load balancer's interface: %w", err)
	}
	if err := l.netlink.LinkSetUp(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: balancerOut}}); err != nil {
		return fmt.Errorf("set %s up: %w", balancerOut, err)
	}
	if err := l.knows(veth.Index, gateway, gatewayMAC); err != nil {
		return err
	}
	way := route{to: f.cfg.LoadBalancers.Masked(), dev: veth.Index, via: gateway, src: f.outsideAddress()}
	if err := l.addRoute(way); err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Family, rule.IifName, rule.Table, rule.Priority = unix.AF_INET, balancerOut, balancerTable, balancerTable
	if err := l.netlink.RuleAdd(rule); err != nil {
		return fmt.Errorf("route what comes from %s: %w", balancerOut, err)
	}
	none := &netlink.Route{Dst: ipNet(f.cfg.LoadBalancers.Masked()), Table: balancerTable, Type: unix.RTN_UNREACHABLE, Priority: balancerNone}
	if err := l.netlink.RouteAdd(none); err != nil {
		return fmt.Errorf("refuse where no machine is left: %w", err)
	}
	return nil
}

// balancerNone is the metric of the route that says there is no machine: any other goes before it.
const balancerNone = 1 << 16

func (f *Fabric) outsideAddress() netip.Addr { return f.cfg.Nodes.Masked().Addr().Next() }

// steering is what outside knows about the ways to the load balancers. The Fabric's mutex guards it.
type steering struct {
	hops map[*machine]uint32   // the kernel's number of each machine as a next hop
	last uint32                // number given
	fit  []string              // the machines that may be led to; nil for all
	ways map[netip.Prefix]*way // to the whole range, and to each address with machines of its own
}

// way is one route.
type way struct {
	group uint32     // the kernel's number of its next hops
	only  []string   // the machines that it may lead to; nil for all that are fit
	to    []*machine // those that it leads to now; without any there is no route
}

// LeadTo says which machines outside's packets to the load balancers' addresses go to: those named, nil for all, of which none
// without power or cut off. Names of machines that are not there have no effect until they are.
func (f *Fabric) LeadTo(machines []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steer.fit = machines
	return f.steerLocked()
}

// LeadAddress says the same of one address; machines empty: it is led as all others are.
func (f *Fabric) LeadAddress(a netip.Addr, machines []string) error {
	if !f.cfg.LoadBalancers.Contains(a) {
		return fmt.Errorf("lead to %v: it is not in the load balancers' range %v", a, f.cfg.LoadBalancers)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.steer.ways[host(a)]
	switch {
	case w == nil && len(machines) == 0:
		return nil
	case w == nil:
		w = &way{group: f.steer.number()}
		f.steer.ways[host(a)] = w
	}
	w.only = machines
	if len(machines) > 0 {
		return f.steerLocked()
	}
	delete(f.steer.ways, host(a))
	return f.lead(host(a), w, nil)
}

// resteer brings the ways up to what the machines are now.
func (f *Fabric) resteer() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steerLocked()
}

func (f *Fabric) steerLocked() error {
	if !f.cfg.LoadBalancers.IsValid() {
		return nil
	}
	whole := f.cfg.LoadBalancers.Masked()
	if f.steer.ways[whole] == nil {
		f.steer.ways[whole] = &way{group: f.steer.number()}
	}
	for to, w := range f.steer.ways {
		if err := f.lead(to, w, f.machinesOf(w)); err != nil {
			return err
		}
	}
	return f.forgetHops()
}

// machinesOf are those that a way should lead to now.
func (f *Fabric) machinesOf(w *way) []*machine {
	names := w.only
	if names == nil {
		names = f.steer.fit
	}
	var all []*machine
	for _, m := range f.machines {
		if m.connected() && (names == nil || slices.Contains(names, m.name)) {
			all = append(all, m)
		}
	}
	return all
}

// lead makes a way lead to these machines.
func (f *Fabric) lead(to netip.Prefix, w *way, machines []*machine) error {
	if slices.Equal(w.to, machines) {
		return nil
	}
	var requests []*nl.NetlinkRequest
	for _, m := range machines {
		if f.steer.hops[m] == 0 {
			f.steer.hops[m] = f.steer.number()
			requests = append(requests, nextHop(f.steer.hops[m], f.outside.eth0, m.addr))
		}
	}
	switch {
	case len(machines) == 0:
		requests = append(requests, withoutHop(w.group)) // and the route with it
	default:
		requests = append(requests, hopGroup(w.group, f.hopsOf(machines), len(w.to) > 0))
		if len(w.to) == 0 {
			requests = append(requests, routeBy(to, w.group))
		}
	}
	if err := f.outside.execute(requests...); err != nil {
		return fmt.Errorf("lead outside to %v: %w", to, err)
	}
	w.to = machines
	return nil
}

func (f *Fabric) hopsOf(machines []*machine) []uint32 {
	var all []uint32
	for _, m := range machines {
		all = append(all, f.steer.hops[m])
	}
	return all
}

// forgetHops drops the machines that are gone for good.
func (f *Fabric) forgetHops() error {
	for m, hop := range f.steer.hops {
		if slices.Contains(f.machines, m) {
			continue
		}
		if err := f.outside.execute(withoutHop(hop)); err != nil {
			return fmt.Errorf("forget the way to %s: %w", m.name, err)
		}
		delete(f.steer.hops, m)
	}
	return nil
}

func (s *steering) number() uint32 {
	s.last++
	return s.last
}

// connected tells whether the machine has power and is on the wire that outside is on.
func (m *machine) connected() bool {
	m.power.mu.Lock()
	defer m.power.mu.Unlock()
	return !m.power.off && !m.power.cut
}

// execute sends requests of the routing kind, one after another, in the link's namespace.
func (l *link) execute(requests ...*nl.NetlinkRequest) error {
	return l.Do(func() error {
		for _, r := range requests {
			if _, err := r.Execute(unix.NETLINK_ROUTE, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// What neither the netlink library nor package unix has of linux/nexthop.h and linux/rtnetlink.h.
const (
	nhaResGroup    = 12 // NHA_RES_GROUP, with the attributes below
	nhaBuckets     = 1  // 16 bits
	nhaIdleTimer   = 2  // 32 bits, in hundredths of a second
	nhaUnbalanced  = 3  // the same
	groupResilient = 1  // NEXTHOP_GRP_TYPE_RES
	rtaNextHop     = 30 // RTA_NH_ID
)

const (
	// buckets are what a group's connections are hashed to; each belongs to one machine. With 512, four machines' shares differ by
	// less than 1 %.
	buckets = 512
	// bucketIdle is how long no packet must have come for a bucket before a machine that is new takes it over, and bucketForced
	// how long it waits for that, in hundredths of a second. Longer, and the machine waits for its share; shorter, and connections
	// that pause are cut.
	bucketIdle, bucketForced = 100, 1000
)

// nhmsg is struct nhmsg, the head of every request about a next hop.
type nhmsg struct {
	family uint8
	flags  uint32
}

// Len implements nl.NetlinkRequestData.
func (nhmsg) Len() int { return 8 }

// Serialize implements nl.NetlinkRequestData.
func (m nhmsg) Serialize() []byte {
	return binary.NativeEndian.AppendUint32([]byte{m.family, 0, 0, 0}, m.flags)
}

// nextHop makes one machine a next hop.
func nextHop(id uint32, dev int, via netip.Addr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	r.AddData(nhmsg{family: unix.AF_INET, flags: unix.RTNH_F_ONLINK})
	r.AddData(nl.NewRtAttr(unix.NHA_ID, nl.Uint32Attr(id)))
	r.AddData(nl.NewRtAttr(unix.NHA_OIF, nl.Uint32Attr(uint32(dev))))
	r.AddData(nl.NewRtAttr(unix.NHA_GATEWAY, via.AsSlice()))
	return r
}

// hopGroup makes a group of next hops, or gives one that exists other members.
func hopGroup(id uint32, members []uint32, exists bool) *nl.NetlinkRequest {
	how := unix.NLM_F_CREATE | unix.NLM_F_EXCL
	if exists {
		how = unix.NLM_F_REPLACE
	}
	r := nl.NewNetlinkRequest(unix.RTM_NEWNEXTHOP, how|unix.NLM_F_ACK)
	r.AddData(nhmsg{family: unix.AF_UNSPEC})
	r.AddData(nl.NewRtAttr(unix.NHA_ID, nl.Uint32Attr(id)))
	var list []byte
	for _, m := range members {
		list = binary.NativeEndian.AppendUint32(list, m)
		list = append(list, 0, 0, 0, 0) // the weight (0 is one share), and three bytes that must be 0
	}
	r.AddData(nl.NewRtAttr(unix.NHA_GROUP, list))
	r.AddData(nl.NewRtAttr(unix.NHA_GROUP_TYPE, nl.Uint16Attr(groupResilient)))
	resilient := nl.NewRtAttr(nhaResGroup|unix.NLA_F_NESTED, nil)
	resilient.AddRtAttr(nhaBuckets, nl.Uint16Attr(buckets))
	resilient.AddRtAttr(nhaIdleTimer, nl.Uint32Attr(bucketIdle))
	resilient.AddRtAttr(nhaUnbalanced, nl.Uint32Attr(bucketForced))
	r.AddData(resilient)
	return r
}

// withoutHop removes a next hop or a group, and the routes that use it.
func withoutHop(id uint32) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_DELNEXTHOP, unix.NLM_F_ACK)
	r.AddData(nhmsg{})
	r.AddData(nl.NewRtAttr(unix.NHA_ID, nl.Uint32Attr(id)))
	return r
}

// routeBy leads to a prefix by a group.
func routeBy(to netip.Prefix, group uint32) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	m := nl.NewRtMsg()
	m.Family, m.Dst_len, m.Table = unix.AF_INET, uint8(to.Bits()), balancerTable
	r.AddData(m)
	r.AddData(nl.NewRtAttr(unix.RTA_DST, to.Addr().AsSlice()))
	r.AddData(nl.NewRtAttr(rtaNextHop, nl.Uint32Attr(group)))
	return r
}
