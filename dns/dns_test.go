package dns_test

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/dns"
	"kubarium.dev/store"
)

// lab is a store and a server that follows it, answering on 127.0.0.1 over UDP and TCP.
type lab struct {
	t      testing.TB
	store  *store.Store
	server *dns.Server
	addr   string
}

func newStore(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	o.NoSync = true
	st, err := store.Open(filepath.Join(t.TempDir(), "db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return st
}

func newLab(t testing.TB, c dns.Config) *lab {
	t.Helper()
	st := newStore(t, store.Options{})
	c.Reader = st
	l := &lab{t: t, store: st, server: dns.New(c)}
	background(t, "Run", l.server.Run)
	l.addr = serve(t, l.server)
	l.apply(namespace("dev"), namespace("prod"), namespace("kube-system"))
	return l
}

// background runs fn until the test ends, which waits for it.
func background(t testing.TB, what string, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

// sockets opens a UDP and a TCP socket on one free port of 127.0.0.1.
func sockets(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if p, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
			return p, l
		}
		l.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func serve(t testing.TB, s *dns.Server) string {
	t.Helper()
	p, l := sockets(t)
	background(t, "Serve", func(ctx context.Context) error { return s.Serve(ctx, p, l) })
	return l.Addr().String()
}

// apply creates or replaces objects, and waits until the server has them.
func (l *lab) apply(objs ...api.Object) {
	l.t.Helper()
	l.update(func(tx *store.Tx) error {
		for _, obj := range objs {
			var err error
			if _, missing := tx.Get(api.KindOf(obj), obj.GetNamespace(), obj.GetName()); missing != nil {
				err = tx.Create(obj)
			} else {
				err = tx.Update(obj)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *lab) delete(obj api.Object) {
	l.t.Helper()
	l.update(func(tx *store.Tx) error {
		return tx.Delete(api.KindOf(obj), obj.GetNamespace(), obj.GetName(), store.DeleteOptions{})
	})
}

func (l *lab) update(fn func(tx *store.Tx) error) {
	l.t.Helper()
	rev, err := l.store.Update(context.Background(), fn)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.server.Progress().Wait(ctx, rev); err != nil {
		l.t.Fatalf("the server did not reach revision %d: %v", rev, err)
	}
}

// ask sends a question over UDP and over TCP and checks that both answer alike. It returns the answer of TCP.
func (l *lab) ask(name string, qtype uint16) *wire.Msg {
	l.t.Helper()
	udp := exchange(l.t, "udp", l.addr, query(name, qtype))
	tcp := exchange(l.t, "tcp", l.addr, query(name, qtype))
	if !udp.Truncated && !slices.Equal(texts(udp.Answer), texts(tcp.Answer)) || udp.Rcode != tcp.Rcode {
		l.t.Errorf("%s %s: UDP and TCP differ:\n%v\n%v", name, wire.TypeToString[qtype], udp, tcp)
	}
	return tcp
}

func query(name string, qtype uint16) *wire.Msg {
	return new(wire.Msg).SetQuestion(wire.Fqdn(name), qtype).SetEdns0(4096, false)
}

func exchange(t testing.TB, network, addr string, m *wire.Msg) *wire.Msg {
	t.Helper()
	c := &wire.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 4096}
	r, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, m.Question[0].Name, err)
	}
	return r
}

// texts is records as sorted text without the cluster's domain: "ent.dev.svc 5 A 10.96.0.10".
func texts(rrs []wire.RR) []string {
	all := []string{}
	for _, rr := range rrs {
		if rr.Header().Rrtype != wire.TypeOPT {
			all = append(all, short(rr.String()))
		}
	}
	slices.Sort(all)
	return all
}

func short(s string) string {
	return strings.NewReplacer("\tIN\t", " ", " IN ", " ", "\t", " ", ".cluster.local.", "").Replace(s)
}

// want is one expected answer, as "NOERROR" or "NXDOMAIN" and sorted records.
func (l *lab) want(name string, qtype uint16, rcode int, records ...string) *wire.Msg {
	l.t.Helper()
	m := l.ask(name, qtype)
	if m.Rcode != rcode {
		l.t.Errorf("%s %s: got %s, want %s", name, wire.TypeToString[qtype], wire.RcodeToString[m.Rcode], wire.RcodeToString[rcode])
	}
	got := texts(m.Answer)
	slices.Sort(records)
	if !slices.Equal(got, records) {
		l.t.Errorf("%s %s:\n got %q\nwant %q", name, wire.TypeToString[qtype], got, records)
	}
	return m
}

// empty expects no records, and the zone's SOA with the negative TTL.
func (l *lab) empty(name string, qtype uint16, rcode int) {
	l.t.Helper()
	m := l.want(name, qtype, rcode)
	if len(m.Ns) != 1 {
		l.t.Fatalf("%s: authority holds %v, want one SOA", name, m.Ns)
	}
	soa, ok := m.Ns[0].(*wire.SOA)
	if !ok || soa.Hdr.Ttl != 5 || soa.Minttl != 5 {
		l.t.Errorf("%s: authority is %v, want a SOA with TTL and minimum 5", name, m.Ns[0])
	}
	if !m.Authoritative {
		l.t.Errorf("%s: the answer has no authority", name)
	}
}

func has(rrs []string, text string) bool { return slices.Contains(rrs, text) }

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// virtual is a Service with addresses, headlessService one without, external an alias.
func virtual(ns, name string, ips ...string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

func headlessService(ns, name string) *corev1.Service {
	s := virtual(ns, name, corev1.ClusterIPNone)
	s.Spec.Ports = nil
	return s
}

func external(ns, name, target string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target},
	}
}

type end struct {
	ip, hostname, pod string
	unready           bool
}

func slice(ns, service, name string, port int32, ends ...end) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	if port != 0 {
		s.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Port: &port, Protocol: new(corev1.ProtocolTCP)}}
	}
	for _, e := range ends {
		if netip.MustParseAddr(e.ip).Is6() {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		d := discoveryv1.Endpoint{Addresses: []string{e.ip}, Conditions: discoveryv1.EndpointConditions{Ready: new(!e.unready)}}
		if e.hostname != "" {
			d.Hostname = new(e.hostname)
		}
		if e.pod != "" {
			d.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: e.pod}
		}
		s.Endpoints = append(s.Endpoints, d)
	}
	return s
}
