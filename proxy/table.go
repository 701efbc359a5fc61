package proxy

import (
	"encoding/binary"
	"net/netip"
)

// Bounds of the numbers in the table; dataplane.md says what each means.
const (
	// localBit marks the Local variant of a service-port id.
	localBit = 0x80000000
	// classShift is where a handle carries the class of its affinity timeout (four bits; class 0: none).
	classShift = 28
	classCount = 16
	classMask  = (classCount - 1) << classShift
	// firstHandle lies above every index that can be drawn: after a draw that found no slot the mark still holds the index,
	// and must not be mistaken for a handle.
	firstHandle = 1 << 20
	firstID     = 1
)

// The named maps and sets of the table.
const (
	mapServices    = "services"
	mapExternal    = "external"
	mapNodePorts   = "nodeports"
	mapNodeAddrs   = "nodeaddrs"
	mapClusterIPs  = "clusterips"
	mapExternalIPs = "externalips"
	mapSizes       = "sizes"
	mapSlots       = "slots"
	mapEndpoints   = "endpoints"
	mapHairpin     = "hairpin"
	mapAffinity    = "affinity"
	mapDraws       = "draws"
	mapTimeouts    = "timeouts"

	mapGuarded        = "guarded"
	mapRanges         = "ranges"
	mapIsolatedIn     = "isolated-in"
	mapIsolatedOut    = "isolated-out"
	mapPeers          = "peers"
	mapBlocks         = "blocks"
	mapPairs          = "pairs"
	mapPermitAll      = "permit-all"
	mapPermitProtocol = "permit-protocol"
	mapPermitPort     = "permit-port"
)

// field is the type of one part of a key or value.
type field uint8

const (
	fieldAddr field = iota
	fieldProto
	fieldPort
	fieldMark
	fieldClass // a number in the packet's priority, which nft calls classid
)

// mapDef declares one map (data given) or set.
type mapDef struct {
	name      string
	key, data []field
	verdicts  bool // the values are verdicts
	counter   bool
	// remembers: the kernel itself adds elements, with a timeout.
	remembers bool
}

// mapDefs are all maps and sets of the table, in the order they are listed.
var mapDefs = []mapDef{
	{name: mapServices, key: []field{fieldAddr, fieldProto, fieldPort}, data: []field{fieldMark}},
	{name: mapExternal, key: []field{fieldAddr, fieldProto, fieldPort}, data: []field{fieldMark}},
	{name: mapNodePorts, key: []field{fieldProto, fieldPort}, data: []field{fieldMark}},
	{name: mapNodeAddrs, key: []field{fieldAddr}},
	{name: mapClusterIPs, key: []field{fieldAddr}},
	{name: mapExternalIPs, key: []field{fieldAddr}},
	{name: mapSizes, key: []field{fieldMark}, data: []field{fieldMark}},
	{name: mapSlots, key: []field{fieldMark, fieldMark}, data: []field{fieldMark}},
	{name: mapEndpoints, key: []field{fieldMark}, data: []field{fieldAddr, fieldPort}, counter: true},
	{name: mapAffinity, key: []field{fieldAddr, fieldMark}, data: []field{fieldMark}, remembers: true},
	{name: mapHairpin, key: []field{fieldAddr, fieldAddr}},
	{name: mapDraws, key: []field{fieldMark}, verdicts: true},
	{name: mapTimeouts, key: []field{fieldMark}, verdicts: true},
	{name: mapGuarded, key: []field{fieldAddr, fieldProto, fieldPort}},
	{name: mapRanges, key: []field{fieldMark, fieldAddr, fieldMark}},
	{name: mapIsolatedIn, key: []field{fieldAddr}, data: []field{fieldMark}},
	{name: mapIsolatedOut, key: []field{fieldAddr}, data: []field{fieldMark}},
	{name: mapPeers, key: []field{fieldAddr}, data: []field{fieldClass}},
	{name: mapBlocks, key: []field{fieldAddr, fieldMark}, data: []field{fieldClass}},
	{name: mapPairs, key: []field{fieldMark, fieldClass}, data: []field{fieldMark}},
	{name: mapPermitAll, key: []field{fieldMark}},
	{name: mapPermitProtocol, key: []field{fieldMark, fieldProto}},
	{name: mapPermitPort, key: []field{fieldMark, fieldClass, fieldProto, fieldPort}},
}

var mapDefByName = func() map[string]mapDef {
	m := make(map[string]mapDef, len(mapDefs))
	for _, d := range mapDefs {
		m[d.name] = d
	}
	return m
}()

// elemKey names one element: the map and the key's bytes as the kernel holds them.
type elemKey struct{ Map, Key string }

// elemValue is what an element says: the bytes of its value (empty in a set) and the comment for people. In a verdict map
// Value is the name of the chain jumped to.
type elemValue struct{ Value, Comment string }

// element is one element of a named map or set.
type element struct {
	elemKey
	elemValue
}

// elements is the content of the table.
type elements map[elemKey]elemValue

// commentMax is the longest comment in bytes that nft prints; it takes 128 with the closing zero byte.
const commentMax = 127

func comment(s string) string {
	if len(s) > commentMax {
		return s[:commentMax]
	}
	return s
}

// The encoders: each part of a key is padded to four bytes, marks are in the machine's byte order.

func packMark(marks ...uint32) string {
	var b []byte
	for _, m := range marks {
		b = binary.NativeEndian.AppendUint32(b, m)
	}
	return string(b)
}

func packAddr(addrs ...netip.Addr) string {
	var b []byte
	for _, a := range addrs {
		b = append(b, a.AsSlice()...)
	}
	return string(b)
}

func packService(a netip.Addr, protocol uint8, port uint16) string {
	return packAddr(a) + packNodePort(protocol, port)
}

func packNodePort(protocol uint8, port uint16) string {
	return string([]byte{protocol, 0, 0, 0, byte(port >> 8), byte(port), 0, 0})
}

// packPrefix is a CIDR as an address with its length.
func packPrefix(p netip.Prefix) string {
	return packAddr(p.Masked().Addr()) + packMark(uint32(p.Bits()))
}

func packEndpoint(a netip.AddrPort) string {
	return packAddr(a.Addr()) + string([]byte{byte(a.Port() >> 8), byte(a.Port()), 0, 0})
}

// The decoders assume the lengths that the kernel checked when the element went in.

func unpackMark(s string, i int) uint32 { return binary.NativeEndian.Uint32([]byte(s[4*i : 4*i+4])) }

func unpackAddr(s string) netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(s))
	return a
}

func unpackPort(s string) uint16 { return uint16(s[0])<<8 | uint16(s[1]) }

func unpackEndpoint(s string) netip.AddrPort {
	at := len(s) - 4
	return netip.AddrPortFrom(unpackAddr(s[:at]), unpackPort(s[at:]))
}
