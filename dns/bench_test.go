package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	wire "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func mustAddr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func clusterService(i int) *corev1.Service {
	ip := fmt.Sprintf("10.96.%d.%d", i/256, i%256)
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: fmt.Sprintf("s%d", i)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// filled is an index with n Services of two endpoints each, and a headless one of 100 endpoints.
func filled(n int) *index {
	x := newIndex(newZones("cluster.local", []netip.Prefix{mustPrefix("10.96.0.0/12")}, defaultTTL), PodsOff)
	b := store.Batch{Revision: 8}
	add := func(obj api.Object) {
		b.Events = append(b.Events, store.Event{Type: store.Added, Kind: api.KindOf(obj), Object: obj})
	}
	add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dev"}})
	for i := range n {
		add(clusterService(i))
		add(endpointSlice(fmt.Sprintf("s%d", i), 2, i))
	}
	head := clusterService(n)
	head.Name, head.Spec.ClusterIP, head.Spec.ClusterIPs = "head", corev1.ClusterIPNone, nil
	add(head)
	add(endpointSlice("head", 100, n))
	x.apply(b)
	return x
}

func endpointSlice(service string, n, at int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "dev", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
	}
	for i := range n {
		ip := fmt.Sprintf("10.244.%d.%d", at%256, i)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("%s-%d", service, i)},
		})
	}
	return s
}

// BenchmarkAnswer is one message from bytes to bytes, without the socket.
func BenchmarkAnswer(b *testing.B) {
	for _, services := range []int{1000, 20000} {
		s := New(Config{})
		s.index.Store(filled(services))
		for _, c := range []struct {
			what, name string
			qtype      uint16
		}{
			{"A", "s42.dev.svc.cluster.local.", wire.TypeA},
			{"SRV", "_http._tcp.s42.dev.svc.cluster.local.", wire.TypeSRV},
			{"NXDOMAIN", "www.example.com.dev.svc.cluster.local.", wire.TypeA},
			{"headless-100", "head.dev.svc.cluster.local.", wire.TypeA},
		} {
			b.Run(fmt.Sprintf("%s/services=%d", c.what, services), func(b *testing.B) {
				packet, err := new(wire.Msg).SetQuestion(c.name, c.qtype).SetEdns0(1232, false).Pack()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					m := new(wire.Msg)
					if err := m.Unpack(packet); err != nil {
						b.Fatal(err)
					}
					if _, err := s.reply(b.Context(), netip.Addr{}, m, false, 1).Pack(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkChange is one Service's change in the index.
func BenchmarkChange(b *testing.B) {
	for _, services := range []int{1000, 20000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			x := filled(services)
			two := []*corev1.Service{clusterService(7), clusterService(services + 1)}
			two[1].Name = two[0].Name
			for i := 0; b.Loop(); i++ {
				x.apply(store.Batch{Revision: 9, Events: []store.Event{{Type: store.Modified, Kind: api.Services, Object: two[i%2]}}})
			}
		})
	}
}

// BenchmarkQuick is the quick way alone, for the names of the Services in random order: what memory costs it.
func BenchmarkQuick(b *testing.B) {
	for _, services := range []int{1000, 20000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			x := filled(services)
			var packets [][]byte
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(20000) {
				p, err := new(wire.Msg).SetQuestion(fmt.Sprintf("s%d.dev.svc.cluster.local.", i%services), wire.TypeA).Pack()
				if err != nil {
					b.Fatal(err)
				}
				packets = append(packets, p)
			}
			buf := make([]byte, maxUDP)
			var q plain
			for i := 0; b.Loop(); i++ {
				packet := packets[i%len(packets)]
				copy(buf, packet)
				if _, _, done := x.quick(&q, buf, len(packet), 1, false); !done {
					b.Fatal("not answered")
				}
			}
		})
	}
}
