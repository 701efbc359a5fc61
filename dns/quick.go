package dns

import (
	"encoding/binary"
	"strings"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

// The quick path answers plain questions about the cluster within the packet they came in, and allocates nothing: what pods
// ask all day. Whatever is not plain it leaves to reply, which says the very same bytes (a test compares them).

const (
	headerSize = 12
	optSize    = 11 // an OPT record without options
	// questionAt points to the name of the question, which always stands at the same place.
	questionAt = 0xC000 | headerSize

	flagQR, flagAA, flagTC, flagRD, flagRA, flagCD = 1 << 15, 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 4
	flagAD, flagDO                                 = 1 << 5, 1 << 15
)

// plain is a question as the quick path reads it.
type plain struct {
	ok     bool                     // it is plain; if not, the rest means nothing
	key    [dns.MinMsgSize / 2]byte // the name as the index has it; holds len bytes
	len    int
	hash   uint64 // the name's in the table
	end    int    // where the question ends in the packet
	upper  bool   // the name has capitals
	edns   bool
	do     bool
	qtype  uint16
	flags  uint16
	accept int // how many bytes the client takes
}

// name is the key without copying it. It must not be kept.
func (q *plain) name() string { return unsafe.String(&q.key[0], q.len) }

// read takes a packet apart. It says false for everything that is not one plain question of class IN with at most an OPT
// record without options beside it.
func (q *plain) read(p []byte) bool {
	if len(p) < headerSize+5 {
		return false
	}
	q.flags = binary.BigEndian.Uint16(p[2:])
	additional := binary.BigEndian.Uint16(p[10:])
	// Any bit but these says that this is a response, another operation, or cut short.
	if q.flags&^uint16(flagRD|flagCD|flagAD) != 0 || binary.BigEndian.Uint32(p[4:]) != 1<<16 ||
		binary.BigEndian.Uint16(p[8:]) != 0 || additional > 1 {
		return false
	}
	if !q.readName(p) || len(p) < q.end || binary.BigEndian.Uint16(p[q.end-2:]) != dns.ClassINET {
		return false
	}
	q.qtype = binary.BigEndian.Uint16(p[q.end-4:])
	q.accept, q.edns, q.do = dns.MinMsgSize, false, false
	if additional == 0 {
		return len(p) == q.end
	}
	return q.readOPT(p[q.end:])
}

// readName reads the name of ordinary letters, digits, dashes and underscores, without compression.
func (q *plain) readName(p []byte) bool {
	q.len, q.upper = 0, false
	at := headerSize
	for at < len(p) && p[at] != 0 {
		n := int(p[at])
		// 253 letters and dots are the longest name there is.
		if n > 63 || at+n >= len(p) || q.len+n+1 > 254 {
			return false
		}
		for _, c := range p[at+1 : at+1+n] {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
				q.upper = true
			default:
				return false
			}
			q.key[q.len] = c
			q.len++
		}
		q.key[q.len] = '.'
		q.len++
		at += n + 1
	}
	q.end = at + 5
	return q.len > 0 && q.end <= len(p)
}

func (q *plain) readOPT(p []byte) bool {
	if len(p) != optSize || p[0] != 0 || binary.BigEndian.Uint16(p[1:]) != dns.TypeOPT ||
		p[6] != 0 || binary.BigEndian.Uint16(p[9:]) != 0 {
		return false // another record, another version of EDNS, or options
	}
	q.edns = true
	q.do = binary.BigEndian.Uint16(p[7:])&flagDO != 0
	q.accept = min(max(int(binary.BigEndian.Uint16(p[3:])), dns.MinMsgSize), maxUDP)
	return true
}

// quick answers the question of p[:n] in p itself and returns the length and code of the answer, or false and leaves p as it
// was. p has room for maxUDP bytes. seed decides the order of addresses.
func (x *index) quick(q *plain, p []byte, n int, seed uint64, recursive bool) (length, rcode int, done bool) {
	x.prepare(q, p[:n])
	return x.respond(q, p, seed, recursive)
}

// prepare reads a question.
func (x *index) prepare(q *plain, p []byte) {
	q.ok = q.read(p) && q.qtype != dns.TypeANY && q.qtype != dns.TypeAXFR && q.qtype != dns.TypeIXFR
	q.hash = 0
	if q.ok {
		q.hash = x.table.hash(q.name())
	}
}

// respond answers the question that p begins with, as quick does.
func (x *index) respond(q *plain, p []byte, seed uint64, recursive bool) (length, rcode int, done bool) {
	if !q.ok {
		return 0, 0, false
	}
	var one [1]record
	ready, rcode, done := x.ready(q, &one)
	if !done {
		return 0, 0, false
	}
	end := p[:q.end]
	if len(ready) > 0 {
		size := packedSize(ready)
		if size == 0 || q.end+size+optSize > q.accept {
			return 0, 0, false
		}
		end = pack(end, ready, x.zones.seconds)
		shufflePacked(end[q.end:], len(ready), seed)
	} else if end, done = x.zones.appendSOA(end, q, x.serial.Load()); !done {
		return 0, 0, false
	}
	flags := uint16(flagQR|flagAA) | q.flags&(flagRD|flagCD) | uint16(rcode)
	if recursive {
		flags |= flagRA
	}
	return len(q.finish(p, end, flags, len(ready))), rcode, true
}

// finish writes the head of the answer in p and, after what ends it so far, the OPT record that EDNS wants.
func (q *plain) finish(p, end []byte, flags uint16, answers int) []byte {
	binary.BigEndian.PutUint16(p[2:], flags)
	binary.BigEndian.PutUint16(p[6:], uint16(answers))
	if answers == 0 {
		p[9] = 1
	}
	if q.edns {
		end = append(end, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xff, 0, 0, 0, 0, 0, 0)
		if q.do {
			end[len(end)-4] = flagDO >> 8
		}
	}
	return end
}

// ready returns the records that answer a question, none when the name has none of the type, or false when the answer is not as
// simple as that. one has room for a record that is made for the occasion.
func (x *index) ready(q *plain, one *[1]record) (records []record, rcode int, ok bool) {
	name := q.name()
	if found := x.table.look(q.hash, name); found != nil {
		records, ok = found.ready(q.qtype)
		return records, dns.RcodeSuccess, ok
	}
	if one[0], ok = x.below(name); ok {
		if one[0].typ != q.qtype {
			return nil, dns.RcodeSuccess, q.qtype != dns.TypeSOA
		}
		return one[:], dns.RcodeSuccess, true
	}
	return nil, dns.RcodeNameError, x.pods != PodsInsecure && x.paths == nil && x.zones.of(name) != ""
}

// ready is the same for one name.
func (n *node) ready(typ uint16) ([]record, bool) {
	if typ == dns.TypeSOA {
		return nil, false
	}
	if len(n.records) > 0 && n.records[0].typ == dns.TypeCNAME { // which stands alone
		return nil, false
	}
	return n.of(typ), true
}

// shufflePacked brings n addresses into the order that shuffle gives the same number of records.
func shufflePacked(packed []byte, n int, seed uint64) {
	if n < 2 {
		return
	}
	var spare [recordHead + 16]byte
	size := len(packed) / n
	shuffle(n, seed, func(i, j int) {
		a, b := packed[i*size:(i+1)*size], packed[j*size:(j+1)*size]
		copy(spare[:], a)
		copy(a, b)
		copy(b, spare[:size])
	})
}

// shuffle is an order of n things that follows from the seed alone.
func shuffle(n int, seed uint64, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		// Knuth's multiplier for 64 bits; the upper half of the product is what is random about it.
		seed = seed*6364136223846793005 + 1442695040888963407
		swap(i, int(seed>>32*uint64(i+1)>>32))
	}
}

// recordHead is what stands before a record's data: a pointer to the owner, type, class, TTL and length.
const recordHead = 12

// packedSize is how many bytes records of one type take after the question, or 0 where that depends on more than the records: on
// the capitals of the question, or on the addresses of a target.
func packedSize(records []record) int {
	switch r := &records[0]; r.typ {
	case dns.TypeA:
		return len(records) * (recordHead + 4)
	case dns.TypeAAAA:
		return len(records) * (recordHead + 16)
	case dns.TypePTR, dns.TypeTXT:
		if len(records) == 1 && len(r.text) <= 255 && !strings.Contains(r.text, `\`) { // escapes are for others
			return recordHead + len(r.text) + 1
		}
	}
	return 0
}

// pack appends what is the whole answer after the question, packedSize bytes.
func pack(p []byte, records []record, seconds uint32) []byte {
	for i := range records {
		r := &records[i]
		if r.typ == dns.TypeTXT {
			seconds = uint32(versionTTL / time.Second)
		}
		p = append(p, questionAt>>8, questionAt&0xff, 0, byte(r.typ), 0, dns.ClassINET)
		p = binary.BigEndian.AppendUint32(p, seconds)
		switch r.typ {
		case dns.TypeA:
			b := r.addr.As4()
			p = append(append(p, 0, 4), b[:]...)
		case dns.TypeAAAA:
			b := r.addr.As16()
			p = append(append(p, 0, 16), b[:]...)
		case dns.TypeTXT:
			p = append(p, 0, byte(len(r.text)+1), byte(len(r.text)))
			p = append(p, r.text...)
		case dns.TypePTR:
			p = binary.BigEndian.AppendUint16(p, uint16(len(r.text)+1))
			p = appendName(p, r.text)
		}
	}
	return p
}

// appendName appends a name, fully qualified and without escapes: each label's length in place of the dot behind it.
func appendName(p []byte, name string) []byte {
	for len(name) > 0 {
		n := strings.IndexByte(name, '.')
		p = append(append(p, byte(n)), name[:n]...)
		name = name[n+1:]
	}
	return append(p, 0)
}

// appendSOA appends the SOA record of the zone that the question lies in, as miekg/dns compresses it. It says false where the
// names within the record have more in common with the question than the zone, or the question has capitals.
func (z *zones) appendSOA(p []byte, q *plain, serial uint32) ([]byte, bool) {
	name := q.name()
	apex := z.of(name)
	if q.upper || apex == "" || z.shares(name, apex) {
		return p, false
	}
	p = binary.BigEndian.AppendUint16(p, uint16(questionAt+len(name)-len(apex)))
	p = append(p, 0, byte(dns.TypeSOA), 0, dns.ClassINET)
	p = binary.BigEndian.AppendUint32(p, z.seconds)
	lengthAt := len(p)
	p = append(p, 0, 0, 2, 'n', 's', 3, 'd', 'n', 's')
	domain := 0
	if apex == z.domain {
		domain = questionAt + len(name) - len(apex)
		p = binary.BigEndian.AppendUint16(p, uint16(domain))
	} else {
		domain = 0xC000 | len(p)
		p = append(p, z.wire...)
	}
	p = append(p, 10, 'h', 'o', 's', 't', 'm', 'a', 's', 't', 'e', 'r')
	p = binary.BigEndian.AppendUint16(p, uint16(domain))
	for _, n := range [5]uint32{serial, soaRefresh, soaRetry, soaExpire, z.seconds} {
		p = binary.BigEndian.AppendUint32(p, n)
	}
	binary.BigEndian.PutUint16(p[lengthAt:], uint16(len(p)-lengthAt-2))
	return p, true
}
