package proxy

import (
	"net/netip"

	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// family is one of the two address families. Each has a table of its own, "ip kubarium" and "ip6 kubarium", of the same maps
// and chains.
type family uint8

const (
	ipv4 family = iota
	ipv6
)

// choose picks the value for the family.
func pick[T any](f family, four, six T) T {
	if f == ipv6 {
		return six
	}
	return four
}

// String is the family as nft writes it.
func (f family) String() string { return pick(f, "ip", "ip6") }

// proto is the family's number in netfilter, which is that of its sockets.
func (f family) proto() byte { return pick[byte](f, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6) }

// size is the length of an address in bytes.
func (f family) size() uint32 { return pick[uint32](f, 4, 16) }

// source and destination are the offsets of the addresses in the header.
func (f family) source() uint32 { return pick[uint32](f, 12, 8) }

func (f family) destination() uint32 { return pick[uint32](f, 16, 24) }

// slices is the type of the EndpointSlices that carry the family's addresses.
func (f family) slices() discoveryv1.AddressType {
	return pick(f, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
}

// has tells whether an address is of the family.
func (f family) has(a netip.Addr) bool { return a.IsValid() && a.Is4() == (f == ipv4) }

// parse reads an address of the family.
func (f family) parse(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && f.has(a)
}

// prefix reads a CIDR of the family.
func (f family) prefix(s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil && f.has(p.Addr())
}
