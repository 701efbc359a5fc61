package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// record is what one resource record says, without its owner and TTL. Records are compared with ==.
type record struct {
	typ    uint16
	port   uint16 // SRV
	weight uint16 // SRV
	addr   netip.Addr
	text   string // CNAME, PTR, SRV, NS: the target, fully qualified; TXT: the text
}

// versionTTL is CoreDNS's for a record that changes with the program only.
const versionTTL = 8 * time.Hour

// addressRecord is the A or AAAA record of an address.
func addressRecord(a netip.Addr) record {
	a = a.Unmap()
	if a.Is4() {
		return record{typ: dns.TypeA, addr: a}
	}
	return record{typ: dns.TypeAAAA, addr: a}
}

// rr makes the record that miekg/dns sends.
func (r record) rr(owner string, ttl time.Duration) dns.RR {
	h := dns.RR_Header{Name: owner, Rrtype: r.typ, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
	switch r.typ {
	case dns.TypeA:
		return &dns.A{Hdr: h, A: r.addr.AsSlice()}
	case dns.TypeAAAA:
		return &dns.AAAA{Hdr: h, AAAA: r.addr.AsSlice()}
	case dns.TypeCNAME:
		return &dns.CNAME{Hdr: h, Target: r.text}
	case dns.TypePTR:
		return &dns.PTR{Hdr: h, Ptr: r.text}
	case dns.TypeNS:
		return &dns.NS{Hdr: h, Ns: r.text}
	case dns.TypeSRV:
		return &dns.SRV{Hdr: h, Weight: r.weight, Port: r.port, Target: r.text}
	case dns.TypeTXT:
		h.Ttl = uint32(versionTTL / time.Second)
		return &dns.TXT{Hdr: h, Txt: []string{r.text}}
	}
	panic(fmt.Sprintf("dns: no records of type %d are made", r.typ))
}

// node is what readers find under a name: its records. It never changes. Without records the name is an empty non-terminal: it
// exists, and has none. What is sent of the records is made when somebody asks.
type node struct {
	key     string
	records []record // those of one type stand together
	// below are the addresses that have a name one label down, spelled with dashes, in order. Such names are not in the table:
	// there is one for every endpoint of every Service, and nobody asks for most of them.
	below []record
	owner *name // nil for what is not in the table
}

// typeBelow marks a record of an address that has a name one label down. On the wire it is a type that nothing has.
const typeBelow = dns.TypeNone

// of returns the records of a type.
func (n *node) of(typ uint16) []record {
	for i := range n.records {
		if n.records[i].typ == typ {
			return n.records[i : i+alike(n.records[i:])]
		}
	}
	return nil
}

// alike is how many records at the beginning have the same type.
func alike(records []record) int {
	n := 1
	for n < len(records) && records[n].typ == records[0].typ {
		n++
	}
	return n
}

// sets walks the records, those of one type at a time.
func (n *node) sets(yield func([]record) bool) {
	for rest := n.records; len(rest) > 0; {
		size := alike(rest)
		if !yield(rest[:size]) {
			return
		}
		rest = rest[size:]
	}
}

func (n *node) types() []string {
	var t []string
	for records := range n.sets {
		t = append(t, dns.TypeToString[records[0].typ])
	}
	return t
}

// inOrder is the order of a name's records: by type, and the names below by address. Else they stay as they came.
func inOrder(a, b record) int {
	if a.typ == typeBelow && b.typ == typeBelow {
		return a.addr.Compare(b.addr)
	}
	return cmp.Compare(a.typ, b.typ)
}

// compile makes the node of a name from what its parts say. Each part's records are in order. The node of a single part shares them.
func compile(key string, parts []part) *node {
	var all []record
	if len(parts) == 1 {
		all = parts[0].records
	} else {
		for _, p := range parts {
			for _, r := range p.records {
				if !slices.Contains(all, r) { // two pods on their node's network have the same address
					all = append(all, r)
				}
			}
		}
		slices.SortStableFunc(all, inOrder)
	}
	n := &node{key: key, records: all}
	if len(all) > 0 && all[0].typ == typeBelow { // the lowest type
		size := alike(all)
		n.below, n.records = all[:size], all[size:]
	}
	return n
}

// named returns the address of a name one label down, as a record.
func (n *node) named(label string) (record, bool) {
	if len(n.below) == 0 {
		return record{}, false
	}
	a, ok := undashed4(label)
	if !ok {
		if a, ok = undashed(label); !ok || dashed(a) != label { // a name has one spelling
			return record{}, false
		}
	}
	_, found := slices.BinarySearchFunc(n.below, a, func(r record, a netip.Addr) int { return r.addr.Compare(a) })
	return addressRecord(a), found
}
