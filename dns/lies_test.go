package dns_test

import (
	"net"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"kubarium.dev/dns"
)

// liar is an upstream server over UDP that answers each question with the packets that lie makes of it: those of
// its own, and before them those that somebody sends from another port.
func liar(t *testing.T, lie func(req *wire.Msg) (genuine, elsewhere []*wire.Msg)) string {
	t.Helper()
	var socks [2]net.PacketConn
	for i := range socks {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		socks[i] = p
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, peer, err := socks[0].ReadFrom(buf)
			if err != nil {
				return
			}
			req := new(wire.Msg)
			if err := req.Unpack(buf[:n]); err != nil {
				t.Error(err)
				return
			}
			genuine, elsewhere := lie(req)
			for i, all := range [][]*wire.Msg{elsewhere, genuine} {
				for _, m := range all {
					p, err := m.Pack()
					if err == nil {
						_, err = socks[1-i].WriteTo(p, peer)
					}
					if err != nil {
						t.Error(err)
					}
				}
			}
		}
	}()
	t.Cleanup(func() {
		for _, p := range socks {
			p.Close()
		}
		<-ended
	})
	return socks[0].LocalAddr().String()
}

// saying is a reply that holds an address for the question.
func saying(req *wire.Msg, ip string, change func(*wire.Msg)) *wire.Msg {
	m := new(wire.Msg).SetReply(req)
	m.Answer = []wire.RR{&wire.A{Hdr: wire.RR_Header{Name: req.Question[0].Name, Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 60}, A: net.ParseIP(ip)}}
	if change != nil {
		change(m)
	}
	return m
}

// D-23, D-33: neither a client nor the cache gets what a forger sends, or a server that mixes its answers up; the next server is
// asked instead.
func TestRepliesToOtherQuestionsAreNotBelieved(t *testing.T) {
	t.Parallel()
	const bad, good = "203.0.113.66", "192.0.2.80"
	honest := upstream(t, map[string][]string{"www.example.com.": {"www.example.com. 60 IN A " + good}})
	for what, lie := range map[string]func(req *wire.Msg) (genuine, elsewhere []*wire.Msg){
		"another id, then the right one": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, bad, func(m *wire.Msg) { m.Id++ }), saying(req, good, nil)}, nil
		},
		"from another port": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, good, nil)}, []*wire.Msg{saying(req, bad, nil)}
		},
		"another name": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, bad, func(m *wire.Msg) { m.Question[0].Name = "bank.example.com." })}, nil
		},
		"another type": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, bad, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeTXT })}, nil
		},
		"no question": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, bad, func(m *wire.Msg) { m.Question = nil })}, nil
		},
		"a question instead of a reply": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, bad, func(m *wire.Msg) { m.Response = false })}, nil
		},
		"an address for another name": func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
			return []*wire.Msg{saying(req, good, func(m *wire.Msg) {
				extra := wire.Copy(m.Answer[0]).(*wire.A)
				extra.Hdr.Name, extra.A = "bank.example.com.", net.ParseIP(bad)
				m.Extra = append(m.Extra, extra)
			})}, nil
		},
	} {
		l := newLab(t, dns.Config{Upstream: []string{liar(t, lie), honest}})
		for range 2 { // the second time from the cache
			l.want("www.example.com", wire.TypeA, ok, "www.example.com. 60 A "+good)
		}
		if m := l.udp("bank.example.com", wire.TypeA); has(texts(m.Answer), "bank.example.com. 60 A "+bad) && what == "an address for another name" {
			t.Errorf("%s: got %v", what, m.Answer)
		}
		if t.Failed() {
			t.Fatalf("it was: %s", what)
		}
	}
}

// D-23: a server that cuts its answer and gives no whole one over TCP: the part reaches the client, marked as such.
func TestACutAnswerIsPassedOnAsCut(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{Upstream: []string{liar(t, func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
		return []*wire.Msg{saying(req, "192.0.2.80", func(m *wire.Msg) { m.Truncated = true })}, nil
	})}})
	for range 2 {
		if m := l.udp("www.example.com", wire.TypeA); !m.Truncated || len(m.Answer) != 1 {
			t.Errorf("got %v, want one record and TC", m)
		}
	}
	if text := metrics(l.server); !strings.Contains(text, "kubarium_dns_cache_hits_total 0\n") {
		t.Errorf("a part was kept:\n%s", text)
	}
}

// What an answer without connection may be larger than its question is bounded: by what the client says it takes, and by 4,096.
func TestAnswersOverUDPAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	var ends []end
	for i := range 250 {
		ends = append(ends, end{ip: net.IPv4(10, 0, 1, byte(i)).String()})
	}
	l.apply(headlessService("dev", "db"), slice("dev", "db", "s", 1, ends...))
	for _, qtype := range []uint16{wire.TypeA, wire.TypeANY, wire.TypeSRV} {
		for size, limit := range map[uint16]int{0: 512, 512: 512, 1232: 1232, 65535: 4096} {
			m := new(wire.Msg).SetQuestion("db.dev.svc.cluster.local.", qtype)
			if size > 0 {
				m.SetEdns0(size, false)
			}
			p, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if n := len(bare(t, l.addr, p)); n > limit {
				t.Errorf("%s for a client that takes %d bytes: %d bytes", wire.TypeToString[qtype], size, n)
			}
		}
	}
}

func dialUDP(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// bare sends one packet and returns the reply.
func bare(t *testing.T, addr string, packet []byte) []byte {
	t.Helper()
	c := dialUDP(t, addr)
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// D-38, over both protocols: what asks for a change or for a whole zone is refused, and what is no query is not implemented.
func TestChangesAndTransfersAreRefusedOverBothProtocols(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	for what, c := range map[string]struct {
		change func(*wire.Msg)
		rcode  int
	}{
		"AXFR":          {func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAXFR }, wire.RcodeRefused},
		"IXFR":          {func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeIXFR }, wire.RcodeRefused},
		"CHAOS":         {func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS }, wire.RcodeRefused},
		"NOTIFY":        {func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify }, wire.RcodeNotImplemented},
		"UPDATE":        {func(m *wire.Msg) { m.Opcode = wire.OpcodeUpdate }, wire.RcodeNotImplemented},
		"STATUS":        {func(m *wire.Msg) { m.Opcode = wire.OpcodeStatus }, wire.RcodeNotImplemented},
		"7":             {func(m *wire.Msg) { m.Opcode = 7 }, wire.RcodeNotImplemented},
		"two questions": {func(m *wire.Msg) { m.Question = append(m.Question, m.Question[0]) }, wire.RcodeFormatError},
		"none":          {func(m *wire.Msg) { m.Question = nil }, wire.RcodeFormatError},
	} {
		m := query("cluster.local", wire.TypeSOA)
		c.change(m)
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		udp, tcp := new(wire.Msg), dialTCP(t, l.addr)
		if err := udp.Unpack(bare(t, l.addr, p)); err != nil || udp.Rcode != c.rcode || len(udp.Answer) > 0 {
			t.Errorf("%s over UDP: got %v, %v, want %s", what, udp, err, wire.RcodeToString[c.rcode])
		}
		if _, err := tcp.Write(p); err != nil {
			t.Fatal(err)
		}
		if r, err := tcp.ReadMsg(); err != nil || r.Rcode != c.rcode || len(r.Answer) > 0 {
			t.Errorf("%s over TCP: got %v, %v, want %s", what, r, err, wire.RcodeToString[c.rcode])
		}
	}
}
