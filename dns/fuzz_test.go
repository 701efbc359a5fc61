package dns

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
)

// FuzzPacket throws bytes at the server as the sockets do: whatever is answered is answered with something that can be sent, fits and
// belongs to the question. Nothing is left pending, as there is nobody else to ask.
func FuzzPacket(f *testing.F) {
	for _, name := range []string{"s1.dev.svc.cluster.local.", "head.dev.svc.cluster.local.", ".", "_http._tcp.head.dev.svc.cluster.local."} {
		for _, qtype := range []uint16{wire.TypeA, wire.TypeSRV, wire.TypeANY, wire.TypeSOA} {
			p, err := new(wire.Msg).SetQuestion(name, qtype).SetEdns0(600, true).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(p)
		}
	}
	s := New(Config{Pods: PodsInsecure})
	s.index.Store(filled(10))
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, stream := range []bool{false, true} {
			req, m := parse(packet)
			size := wire.MinMsgSize
			if req != nil {
				size = room(req, stream)
				m, _ = s.start(asked{from: netip.IPv4Unspecified()}, req, size)
				if m == nil {
					t.Fatalf("no answer to %v", req)
				}
			}
			if m == nil {
				continue
			}
			p, err := m.Pack()
			if err != nil {
				t.Fatalf("the reply cannot be sent: %v\n%v", err, m)
			}
			if len(p) > size {
				t.Fatalf("%d bytes where the client takes %d", len(p), size)
			}
			if !m.Response || m.Id != binary.BigEndian.Uint16(packet) {
				t.Fatalf("no reply to the question: %v", m)
			}
		}
	})
}

// FuzzName asks for any name: the answer is under the name that was asked, and the same but for capitals.
func FuzzName(f *testing.F) {
	for _, name := range []string{
		"S1.dev.svc.cluster.local", "10-244-1-7.dev.pod.cluster.local", "_http._tcp.head.dev.svc.cluster.local", "a..b",
		"1.0.96.10.in-addr.arpa", `\000.dev.svc.cluster.local`, `s1\.dev.svc.cluster.local`, strings.Repeat("a.", 127),
		"-.dev.pod.cluster.local", "cluster.local", "ip6.arpa", "0--0-0.dev.pod.cluster.local",
	} {
		f.Add(name)
	}
	s := New(Config{Pods: PodsInsecure, Reverse: nil})
	s.index.Store(filled(10))
	f.Fuzz(func(t *testing.T, name string) {
		step := s.Ask(t.Context(), name, "ANY")
		if step.Rcode == "" || len(step.Answers) == 0 && step.Reason == "" {
			t.Fatalf("%q is answered without a reason: %+v", name, step)
		}
		if _, ok := wire.IsDomainName(name); !ok {
			return
		}
		asked := wire.Fqdn(name)
		small := s.Answer(new(wire.Msg).SetQuestion(wire.CanonicalName(asked), wire.TypeA))
		m := s.Answer(new(wire.Msg).SetQuestion(asked, wire.TypeA))
		if m.Rcode != small.Rcode || len(m.Answer) != len(small.Answer) {
			t.Fatalf("%q: capitals change the answer: %v\n%v", name, m, small)
		}
		for _, rr := range m.Answer {
			if rr.Header().Name != asked {
				t.Fatalf("%q: the answer is under %q", asked, rr.Header().Name)
			}
		}
	})
}
