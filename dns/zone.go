package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// zones is what the server answers for with authority: the cluster's domain, and the reverse zones of its address ranges.
type zones struct {
	domain string              // "cluster.local."
	under  string              // ".cluster.local."
	wire   []byte              // the domain as packets have it
	apexes map[string]struct{} // all zones, the domain among them
	ttl    time.Duration
	// seconds is ttl as packets have it.
	seconds uint32
}

func newZones(domain string, reverse []netip.Prefix, ttl time.Duration) *zones {
	z := &zones{
		domain: dns.CanonicalName(domain), apexes: map[string]struct{}{}, ttl: ttl, seconds: uint32(ttl / time.Second),
	}
	buf := make([]byte, 256)
	if n, err := dns.PackDomainName(z.domain, buf, 0, nil, false); err == nil {
		z.wire = buf[:n]
	}
	z.under = "." + z.domain
	z.apexes[z.domain] = struct{}{}
	for _, p := range reverse {
		for _, apex := range reverseZones(p) {
			z.apexes[apex] = struct{}{}
		}
	}
	return z
}

// of returns the apex of the zone a name lies in, or "".
func (z *zones) of(name string) string {
	if name == z.domain || strings.HasSuffix(name, z.under) {
		return z.domain
	}
	if !isReverse(name) {
		return ""
	}
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if _, ok := z.apexes[name[off:]]; ok {
			return name[off:]
		}
	}
	return ""
}

// shares says that the names within a zone's SOA record may end with more of name than its apex.
func (z *zones) shares(name, apex string) bool {
	if apex != z.domain {
		return strings.HasSuffix(z.domain, "arpa.")
	}
	label := strings.TrimSuffix(strings.TrimSuffix(name, apex), ".")
	label = label[strings.LastIndexByte(label, '.')+1:]
	return label == "dns" || label == "hostmaster"
}

func isReverse(name string) bool {
	return strings.HasSuffix(name, ".in-addr.arpa.") || strings.HasSuffix(name, ".ip6.arpa.")
}

// server is the name that SOA and NS records give for this server. It resolves to the addresses of Service
// kube-system/kube-dns.
func (z *zones) server() string { return "ns.dns." + z.domain }

// Nobody transfers the zone; the times are CoreDNS's.
const soaRefresh, soaRetry, soaExpire = 7200, 1800, 86400

// soa is a zone's SOA record. Its TTL and its minimum are how long clients may remember that a name is not there.
func (z *zones) soa(apex string, serial uint32) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.seconds},
		Ns:  z.server(), Mbox: "hostmaster." + z.domain,
		Serial: serial, Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: z.seconds,
	}
}

// ValidName says whether a name can be asked for at all: dns.IsDomainName lets names pass that are too long by a byte or two, which
// no client can read.
func ValidName(name string) bool {
	var wire [255]byte // the longest name
	_, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	return err == nil
}

// records is what is there without any object: apex, version, and the two branches.
func (z *zones) records() desired {
	d := desired{
		"dns-version." + z.domain: {{typ: dns.TypeTXT, text: "1.1.0"}},
		"svc." + z.domain:         nil,
		"pod." + z.domain:         nil,
		z.server():                nil,
	}
	for apex := range z.apexes {
		d[apex] = []record{{typ: dns.TypeNS, text: z.server()}}
	}
	return d
}

// reverseZones is the zones that cover a range: 10.96.0.0/12 has sixteen, 96.10.in-addr.arpa. to 111.10.in-addr.arpa. A range
// ends within a label (8 bits, 4 for IPv6), so there are at most 128.
func reverseZones(p netip.Prefix) []string {
	if !p.IsValid() {
		return nil
	}
	step := 8
	if p.Addr().Is6() {
		step = 4
	}
	whole := (p.Bits() + step - 1) / step * step
	b := p.Masked().Addr().AsSlice()
	var all []string
	for i := range 1 << (whole - p.Bits()) {
		c := append([]byte(nil), b...)
		if whole > 0 {
			// The last label's own bits lie at its low end: in a whole byte, or in a byte's upper half.
			shift := (8 - whole%8) % 8
			c[(whole-1)/8] |= byte(i << shift)
		}
		a, _ := netip.AddrFromSlice(c)
		labels := strings.SplitAfter(reverseName(a), ".")
		all = append(all, strings.Join(labels[len(labels)-3-whole/step:], ""))
	}
	return all
}

// ReverseName is the name that holds an address's PTR records: "1.0.96.10.in-addr.arpa.".
func ReverseName(a netip.Addr) string { return reverseName(a.WithZone("")) }

// reverseName is the name that holds an address's PTR record.
func reverseName(a netip.Addr) string {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
	}
	const digits = "0123456789abcdef"
	b := a.As16()
	s := make([]byte, 0, 73)
	for i := len(b) - 1; i >= 0; i-- {
		s = append(s, digits[b[i]&15], '.', digits[b[i]>>4], '.')
	}
	return string(s) + "ip6.arpa."
}

// dashed is an address as one label: "10-244-1-7", "fd00--1". A label may not begin or end with a dash, so an IPv6 address
// that would is written out in full.
func dashed(a netip.Addr) string {
	a = a.Unmap()
	if a.Is4() {
		return strings.ReplaceAll(a.String(), ".", "-")
	}
	s := strings.ReplaceAll(a.WithZone("").String(), ":", "-")
	if strings.HasPrefix(s, "-") || strings.HasSuffix(s, "-") {
		s = strings.ReplaceAll(a.WithZone("").StringExpanded(), ":", "-")
	}
	return s
}

// undashed reads such a label back.
func undashed(label string) (netip.Addr, bool) {
	sep := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		sep = "."
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", sep))
	return a, err == nil
}

// undashed4 is undashed for IPv4. It allocates nothing: the quick path uses it.
func undashed4(label string) (netip.Addr, bool) {
	var b [4]byte
	part, digits, n := 0, 0, 0
	for i := range len(label) {
		switch c := label[i]; {
		case c == '-' && digits > 0 && part < 3:
			b[part] = byte(n)
			part, digits, n = part+1, 0, 0
		case c >= '0' && c <= '9' && (digits == 0 || n > 0):
			n, digits = 10*n+int(c-'0'), digits+1
			if n > 255 {
				return netip.Addr{}, false
			}
		default:
			return netip.Addr{}, false
		}
	}
	b[part] = byte(n)
	return netip.AddrFrom4(b), part == 3 && digits > 0
}
