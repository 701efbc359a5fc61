package dns

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// reply is the message that a client gets for req. seed decides the order of addresses.
func (s *Server) reply(ctx context.Context, client netip.Addr, req *wire.Msg, stream bool, seed uint64) *wire.Msg {
	m, r := s.whole(ctx, client, req, seed)
	finish(m, &r, req, room(req, stream))
	return m
}

// both answers one packet the quick and the long way. quick is nil where the quick way leaves it to the other.
func both(t testing.TB, s *Server, packet []byte, seed uint64) (quick, long []byte) {
	t.Helper()
	buf := make([]byte, maxUDP)
	n := copy(buf, packet)
	var q plain
	if length, rcode, done := s.index.Load().quick(&q, buf, n, seed, s.foreign.Load().configured()); done {
		quick = buf[:length]
		if got := int(quick[3] & 15); got != rcode {
			t.Errorf("the quick way says code %d and sends %d", rcode, got)
		}
	} else if !bytes.Equal(buf[:n], packet) {
		t.Errorf("the quick way changed a packet that it left to the other:\n%x\n%x", packet, buf[:n])
	}
	req, _ := parse(packet)
	if req == nil {
		return quick, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody is to be asked
	long, err := s.reply(ctx, netip.Addr{}, req, false, seed).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return quick, long
}

// same fails when both ways answer, and not alike.
func same(t testing.TB, s *Server, packet []byte, seed uint64) bool {
	t.Helper()
	quick, long := both(t, s, packet, seed)
	if quick == nil {
		return false
	}
	if !bytes.Equal(quick, long) {
		got, want := new(wire.Msg), new(wire.Msg)
		t.Errorf("the answers to %x differ:\n got %x\nwant %x\n%v\n%v\n%v\n%v", packet, quick, long, got.Unpack(quick), got, want.Unpack(long), want)
	}
	return true
}

// asker makes random questions about the names of an index, and about others that are nearly there.
type asker struct {
	rnd   *rand.Rand
	names []string
}

func newAsker(x *index, seed uint64) *asker {
	a := &asker{rnd: rand.New(rand.NewPCG(seed, 2))}
	for n := range x.table.all {
		a.names = append(a.names, n.key)
		for _, r := range n.below {
			a.names = append(a.names, dashed(r.addr)+"."+n.key)
		}
	}
	for _, name := range []string{
		"dns.cluster.local.", "hostmaster.cluster.local.", "x.dns.cluster.local.", "ns.hostmaster.cluster.local.", ".", "local.",
		"www.example.com.", "10-244-1-7.dev.pod.cluster.local.", "10-244-1-0.s0.dev.svc.cluster.local.",
		"010-244-0-0.s0.dev.svc.cluster.local.", "10-244-0-.s0.dev.svc.cluster.local.", "fd00-0-0-0-0-0-0-7.six.dev.svc.cluster.local.", "1.1.1.10.in-addr.arpa.", "9.9.96.10.in-addr.arpa.",
		"xcluster.local.", `a\.b.dev.svc.cluster.local.`, strings.Repeat("a.", 115) + "dev.svc.cluster.local.",
	} {
		a.names = append(a.names, name, name)
	}
	return a
}

func (a *asker) name() string {
	name := []byte(a.names[a.rnd.IntN(len(a.names))])
	switch a.rnd.IntN(8) {
	case 0:
		name = append([]byte("x."), name...)
	case 1:
		i := a.rnd.IntN(len(name))
		if name[i] >= 'a' && name[i] <= 'z' {
			name[i] -= 32
		}
	case 2:
		name = bytes.ToUpper(name)
	case 3:
		if i := a.rnd.IntN(len(name)); name[i] != '.' {
			name[i] = 'q'
		}
	}
	return strings.TrimPrefix(string(name), ".") // "x.." and ".." are no names
}

func (a *asker) packet(t testing.TB) []byte {
	name := a.name()
	if _, valid := wire.IsDomainName(name); !valid || name == "" || strings.Contains(name, "..") {
		name = "."
	}
	types := []uint16{wire.TypeA, wire.TypeA, wire.TypeAAAA, wire.TypePTR, wire.TypeSRV, wire.TypeTXT, wire.TypeSOA, wire.TypeNS, wire.TypeANY, 65535}
	m := new(wire.Msg).SetQuestion(wire.Fqdn(name), types[a.rnd.IntN(len(types))])
	m.RecursionDesired, m.CheckingDisabled = a.rnd.IntN(4) > 0, a.rnd.IntN(4) == 0
	m.AuthenticatedData = a.rnd.IntN(4) == 0
	if a.rnd.IntN(2) == 0 {
		m.SetEdns0(uint16(a.rnd.IntN(5000)), a.rnd.IntN(2) == 0)
		if a.rnd.IntN(8) == 0 {
			m.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0011223344556677"}}
		}
		if a.rnd.IntN(16) == 0 {
			m.IsEdns0().SetVersion(1)
		}
	}
	p, err := m.Pack()
	if err != nil {
		t.Fatalf("%q: %v", name, err)
	}
	for a.rnd.IntN(6) == 0 { // and a few broken ones
		p[a.rnd.IntN(len(p))] = byte(a.rnd.Uint32())
	}
	return p
}

// full is an index with every shape of record.
func full(n int, pods PodRecords) *index {
	x := filled(n)
	x.pods = pods
	six := clusterService(n + 1)
	six.Name, six.Spec.ClusterIPs = "six", []string{"10.96.7.7", "fd00:96::7"}
	dnsOne := clusterService(n + 2)
	dnsOne.Namespace, dnsOne.Name = dnsNamespace, dnsService
	one := clusterService(n + 3)
	one.Name, one.Spec.ClusterIP, one.Spec.ClusterIPs = "one", corev1.ClusterIPNone, nil
	ext := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "ext"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "six.dev.svc.cluster.local"},
	}
	odd := clusterService(n + 4)
	odd.Namespace, odd.Name = "dev", "dns"
	sixSlice := endpointSlice("six", 1, 10)
	sixSlice.AddressType, sixSlice.Endpoints[0].Addresses = discoveryv1.AddressTypeIPv6, []string{"fd00::7"}
	b := store.Batch{Revision: 77}
	for _, obj := range []api.Object{six, dnsOne, one, ext, odd, endpointSlice("one", 3, 9), sixSlice} {
		b.Events = append(b.Events, store.Event{Type: store.Added, Kind: api.KindOf(obj), Object: obj})
	}
	x.apply(b)
	return x
}

// D-2, D-10, D-14, D-15, D-25, D-30: the quick way says, byte for byte, what the long way says.
func TestQuickAnswersAreTheLongOnesToTheByte(t *testing.T) {
	t.Parallel()
	for _, pods := range []PodRecords{PodsOff, PodsInsecure} {
		for _, up := range [][]string{nil, {"192.0.2.1"}} {
			s := New(Config{Pods: pods, Upstream: up})
			s.index.Store(full(10, pods))
			a := newAsker(s.index.Load(), uint64(len(up)))
			quick := 0
			for range 20000 {
				if same(t, s, a.packet(t), a.rnd.Uint64()) {
					quick++
				}
				if t.Failed() {
					return
				}
			}
			if quick < 4000 {
				t.Errorf("only %d of 20000 questions were answered the quick way: the test proves little", quick)
			}
		}
	}
}

// The questions of a pod's day are all answered the quick way.
func TestPlainQuestionsTakeTheQuickWay(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	s.index.Store(full(10, PodsOff))
	for _, c := range []struct {
		name  string
		qtype uint16
		edns  uint16
		quick bool
	}{
		{"s1.dev.svc.cluster.local.", wire.TypeA, 0, true},
		{"S1.dev.svc.cluster.local.", wire.TypeA, 1232, true},
		{"s1.dev.svc.cluster.local.", wire.TypeAAAA, 1232, true},
		{"six.dev.svc.cluster.local.", wire.TypeAAAA, 0, true},
		{"one.dev.svc.cluster.local.", wire.TypeA, 0, true},
		{"www.example.com.dev.svc.cluster.local.", wire.TypeA, 0, true},
		{"1.0.96.10.in-addr.arpa.", wire.TypePTR, 0, true},
		{"9.9.96.10.in-addr.arpa.", wire.TypePTR, 0, true},
		{"head.dev.svc.cluster.local.", wire.TypeA, 4096, true},
		{"head.dev.svc.cluster.local.", wire.TypeA, 1232, false}, // too large: the long way cuts it
		{"ext.dev.svc.cluster.local.", wire.TypeA, 0, false},
		{"www.example.com.", wire.TypeA, 0, false},
	} {
		m := new(wire.Msg).SetQuestion(c.name, c.qtype)
		if c.edns > 0 {
			m.SetEdns0(c.edns, true)
		}
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if got := same(t, s, p, 5); got != c.quick {
			t.Errorf("%s %s: quick is %v, want %v", c.name, wire.TypeToString[c.qtype], got, c.quick)
		}
	}
}

func TestQuickAnswersAllocateNothing(t *testing.T) {
	s := New(Config{})
	s.index.Store(full(10, PodsOff))
	x := s.index.Load()
	for _, name := range []string{"s1.dev.svc.cluster.local.", "head.dev.svc.cluster.local.", "no.dev.svc.cluster.local.", "9.9.96.10.in-addr.arpa."} {
		packet, err := new(wire.Msg).SetQuestion(name, wire.TypeA).SetEdns0(4096, false).Pack()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, maxUDP)
		var q plain
		if n := testing.AllocsPerRun(100, func() {
			copy(buf, packet)
			if _, _, done := x.quick(&q, buf, len(packet), 1, false); !done {
				t.Error("not answered")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// D-30: every order of three addresses comes about as often as any other, in both ways.
func TestAllOrdersAreAboutAsLikely(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 9))
	seen := map[string]int{}
	for range 6000 {
		three := []byte("abc")
		shuffle(3, rnd.Uint64(), func(i, j int) { three[i], three[j] = three[j], three[i] })
		seen[string(three)]++
	}
	for order, n := range seen {
		if len(seen) != 6 || n < 800 || n > 1200 {
			t.Errorf("%s: %d of 6000, %d orders", order, n, len(seen))
		}
	}
}

// FuzzQuick compares both ways over any bytes.
func FuzzQuick(f *testing.F) {
	s := New(Config{})
	s.index.Store(full(10, PodsOff))
	a := newAsker(s.index.Load(), 3)
	for range 100 {
		f.Add(a.packet(f), a.rnd.Uint64())
	}
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, packet []byte, seed uint64) {
		if len(packet) <= maxUDP {
			same(t, s, packet, seed)
		}
	})
}
