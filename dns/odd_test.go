package dns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	wire "github.com/miekg/dns"

	"kubarium.dev/dns"
	"kubarium.dev/store"
)

// asking is the packet of a question for the Service of these tests, after a change of the message.
func asking(t *testing.T, change func(m *wire.Msg)) []byte {
	t.Helper()
	m := query("ent.dev.svc.cluster.local", wire.TypeA)
	m.Id = 7
	if change != nil {
		change(m)
	}
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// flags is the packet of a question with bits of its header turned on.
func flags(t *testing.T, bits uint16) []byte {
	p := asking(t, nil)
	binary.BigEndian.PutUint16(p[2:], binary.BigEndian.Uint16(p[2:])|bits)
	return p
}

// pointing is the packet of a question without EDNS0 whose name is a pointer to at.
func pointing(at byte) []byte {
	return append([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 0xc0, at, 0, 1, 0, 1)
}

const nothing = -1 // no answer at all

// What pods do not ask, and others might: each is answered as the RFCs and CoreDNS have it, over both protocols, and the next
// question over the same socket or connection finds its answer.
func TestOddQuestionsHaveTheirAnswers(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	opt := func(change func(*wire.OPT)) []byte {
		return asking(t, func(m *wire.Msg) { change(m.IsEdns0()) })
	}
	qtype := func(n uint16) []byte { return asking(t, func(m *wire.Msg) { m.Question[0].Qtype = n }) }
	class := func(n uint16) []byte { return asking(t, func(m *wire.Msg) { m.Question[0].Qclass = n }) }
	good := asking(t, nil)
	for what, c := range map[string]struct {
		packet  []byte
		rcode   int
		answers int
	}{
		"a plain question":  {good, ok, 1},
		"ANY":               {qtype(wire.TypeANY), ok, 2},
		"type 0":            {qtype(wire.TypeNone), ok, 0},
		"type OPT":          {qtype(wire.TypeOPT), ok, 0},
		"type 65535":        {qtype(65535), ok, 0},
		"class CH":          {class(wire.ClassCHAOS), wire.RcodeRefused, 0},
		"class NONE":        {class(wire.ClassNONE), wire.RcodeRefused, 0},
		"class ANY":         {class(wire.ClassANY), wire.RcodeRefused, 0},
		"EDNS version 1":    {opt(func(o *wire.OPT) { o.SetVersion(1) }), wire.RcodeBadVers, 0},
		"DNSSEC wanted":     {opt(func(o *wire.OPT) { o.SetDo() }), ok, 1},
		"all flags of EDNS": {opt(func(o *wire.OPT) { o.Hdr.Ttl |= 0xffff }), ok, 1},
		"a cookie": {opt(func(o *wire.OPT) {
			o.Option = []wire.EDNS0{&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0011223344556677"}}
		}), ok, 1},
		"an option nobody knows":   {opt(func(o *wire.OPT) { o.Option = []wire.EDNS0{&wire.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}} }), ok, 1},
		"two OPT records":          {asking(t, func(m *wire.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), wire.RcodeFormatError, 0},
		"an OPT record for a name": {opt(func(o *wire.OPT) { o.Hdr.Name = "x." }), wire.RcodeFormatError, 0},
		"TC":                       {flags(t, 1<<9), ok, 1},
		"AA, RA, Z, AD and CD":     {flags(t, 1<<10|1<<7|1<<6|1<<5|1<<4), ok, 1},
		"a response":               {flags(t, 1<<15), nothing, 0},
		"more than the message":    {append(slices.Clone(good), 1, 2, 3), ok, 1},
		"a name that is a circle":  {pointing(12), wire.RcodeFormatError, 0},
		"a name over itself":       {pointing(13), wire.RcodeFormatError, 0},
		"a name beyond the end":    {pointing(255), wire.RcodeFormatError, 0},
		"a cut name":               {good[:20], wire.RcodeFormatError, 0},
		"a question without class": {good[:len(good)-13], wire.RcodeRefused, 0},
		"a cut question":           {good[:len(good)-14], wire.RcodeFormatError, 0},
		"a cut OPT record":         {good[:len(good)-3], wire.RcodeFormatError, 0},
		"a header alone":           {good[:12], wire.RcodeFormatError, 0},
		"a cut header":             {good[:11], nothing, 0},
		"a byte":                   {good[:1], nothing, 0},
		"nothing":                  {nil, nothing, 0},
	} {
		next := asking(t, func(m *wire.Msg) { m.Id = 8 })
		for protocol, conn := range map[string]*wire.Conn{"UDP": {Conn: dialUDP(t, l.addr), UDPSize: 4096}, "TCP": dialTCP(t, l.addr)} {
			for _, p := range [][]byte{c.packet, next} {
				if _, err := conn.Write(p); err != nil {
					t.Fatalf("%s over %s: %v", what, protocol, err)
				}
			}
			read := func() *wire.Msg {
				m, err := conn.ReadMsg()
				if err != nil {
					t.Fatalf("%s over %s: %v", what, protocol, err)
				}
				return m
			}
			if c.rcode != nothing {
				if m := read(); m.Id != 7 || m.Rcode != c.rcode || len(m.Answer) != c.answers || m.Truncated || m.Zero || m.AuthenticatedData {
					t.Errorf("%s over %s: got\n%v\nwant %s and %d records", what, protocol, m, wire.RcodeToString[c.rcode], c.answers)
				} else if o := m.IsEdns0(); o != nil && (o.Version() != 0 || len(o.Option) > 0 || o.Hdr.Ttl&0x7fff != 0) {
					t.Errorf("%s over %s: its EDNS0 record is %v", what, protocol, o)
				}
			}
			if m := read(); m.Id != 8 || len(m.Answer) != 1 {
				t.Errorf("%s over %s: the question after it got %v", what, protocol, m)
			}
		}
	}
}

// exhausted is a listener that at first has no file descriptors for connections.
type exhausted struct {
	net.Listener
	left int
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.left--; l.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestTheServerOutlivesAWantOfFileDescriptors(t *testing.T) {
	t.Parallel()
	s := dns.New(dns.Config{Reader: newStore(t, store.Options{})})
	_, l := sockets(t)
	background(t, "Serve", func(ctx context.Context) error { return s.Serve(ctx, nil, &exhausted{Listener: l, left: 3}) })
	if m := exchange(t, "tcp", l.Addr().String(), query("cluster.local", wire.TypeSOA)); m.Rcode != failed {
		t.Errorf("got %v, want SERVFAIL from a server that has read nothing yet", m)
	}
}

// handled is how many packets and messages the server has answered or found to be no question.
func handled(t *testing.T, s *dns.Server) (n int) {
	t.Helper()
	for line := range strings.Lines(metrics(s)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "kubarium_dns_requests_total{") || name == "kubarium_dns_malformed_total" {
			one, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			n += one
		}
	}
	return n
}

// Bad packets beside good ones: each of the bad is looked at, each of the good is answered. How many a second, BenchmarkBesideMalformed
// measures.
func TestMalformedPacketsDoNoHarm(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	c := dialUDP(t, l.addr)
	good := asking(t, nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	spoil := func() []byte {
		bad := slices.Clone(good[:rnd.IntN(len(good)+1)])
		for range rnd.IntN(6) {
			if len(bad) > 0 {
				bad[rnd.IntN(len(bad))] = byte(rnd.Uint32())
			}
		}
		return bad
	}
	answered := func() { l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10") }
	const rounds, each = 100, 100
	for range rounds {
		for range each { // fewer than a socket holds: none is lost
			if _, err := c.Write(spoil()); err != nil {
				t.Fatal(err)
			}
		}
		answered()
	}
	if got, want := handled(t, l.server), rounds*(each+2); got != want {
		t.Errorf("the server looked at %d packets of %d", got, want)
	}
	// Over TCP the lengths are spoilt as well, and so whatever follows.
	for range rounds {
		stream := dialTCP(t, l.addr)
		for range each {
			if _, err := stream.Conn.Write(spoil()); err != nil {
				break // the server has given the connection up
			}
		}
		answered()
		stream.Close()
	}
}

// Serve ends with an error, and not in silence, when it has no socket that it can use.
func TestServeTellsOfSocketsThatAreOfNoUse(t *testing.T) {
	t.Parallel()
	s := dns.New(dns.Config{Reader: newStore(t, store.Options{})})
	local, err := net.ListenPacket("unixgram", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), local, nil); err == nil || !strings.Contains(err.Error(), "*net.UnixConn is no UDP socket") {
		t.Errorf("a socket that is not UDP: got %v", err)
	}
	p, l := sockets(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), p, l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a listener that is closed: got %v", err)
	}
	if err := p.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the UDP socket beside it is still open: %v", err)
	}
}
