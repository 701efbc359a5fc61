package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

// flows forgets UDP connections. conntrack keeps a client with a fixed source port on the endpoint of its first packet for as
// long as it sends; TCP tells its peers by itself.
type flows interface {
	// forget deletes the entries of endpoints that left, and those that were made while an address led nowhere.
	forget(left []leftEndpoint, joined []netip.AddrPort) error
}

// conntrack is the real flows, over a socket opened inside the node's namespace.
type conntrack struct {
	family family
	handle *netlink.Handle
}

// conntrackTries bounds the repetitions when the table changes while it is read, which is common and harmless.
const conntrackTries = 5

func openConntrack(ns *netns.NS, f family) (*conntrack, error) {
	c := &conntrack{family: f}
	err := ns.Do(func() error {
		var err error
		c.handle, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open conntrack in the node's namespace: %w", err)
	}
	return c, nil
}

// Close closes the socket.
func (c *conntrack) Close() { c.handle.Close() }

func (c *conntrack) forget(left []leftEndpoint, joined []netip.AddrPort) error {
	match := newStaleUDP(left, joined)
	var err error
	for range conntrackTries {
		_, err = c.handle.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(c.family.proto()), match)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: an entry ended by itself
		return fmt.Errorf("delete conntrack entries: %w", err)
	}
	return nil
}

// staleUDP matches the entries to forget.
type staleUDP struct {
	left   map[leftEndpoint]struct{}
	joined map[netip.AddrPort]struct{}
}

func newStaleUDP(left []leftEndpoint, joined []netip.AddrPort) staleUDP {
	s := staleUDP{left: map[leftEndpoint]struct{}{}, joined: map[netip.AddrPort]struct{}{}}
	for _, l := range left {
		s.left[l] = struct{}{}
	}
	for _, a := range joined {
		s.joined[a] = struct{}{}
	}
	return s
}

// MatchConntrackFlow is called for each entry.
func (s staleUDP) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != protoUDP {
		return false
	}
	to, from := addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
	if _, ok := s.left[leftEndpoint{f.Mark &^ localBit, from}]; ok && f.Mark != 0 {
		return true
	}
	_, ok := s.joined[to]
	return ok && to == from
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}
