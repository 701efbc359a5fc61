package dns

import (
	"fmt"
	"net/netip"
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

// node is what readers find under a name: its records by type. It never changes. Without sets the name is an empty
// non-terminal: it exists, and has no records.
type node struct {
	sets []set
}

// set is the records of one type.
type set struct {
	typ    uint16
	rrs    []dns.RR
	packed []byte // the whole answer after the question, where it can be known; nil where not
}

func (n *node) of(typ uint16) []dns.RR {
	for i := range n.sets {
		if n.sets[i].typ == typ {
			return n.sets[i].rrs
		}
	}
	return nil
}

func (n *node) types() []string {
	var t []string
	for i := range n.sets {
		t = append(t, dns.TypeToString[n.sets[i].typ])
	}
	return t
}

// compile makes the node of a name from what its parts say.
func compile(owner string, parts []part, ttl time.Duration) *node {
	n := &node{}
	for _, p := range parts {
		for _, r := range p.records {
			n.add(r, owner, ttl)
		}
	}
	for i := range n.sets {
		n.sets[i].packed = pack(&n.sets[i])
	}
	return n
}

func (n *node) add(r record, owner string, ttl time.Duration) {
	for i := range n.sets {
		if n.sets[i].typ == r.typ {
			n.sets[i].rrs = append(n.sets[i].rrs, r.rr(owner, ttl))
			return
		}
	}
	n.sets = append(n.sets, set{typ: r.typ, rrs: []dns.RR{r.rr(owner, ttl)}})
}
