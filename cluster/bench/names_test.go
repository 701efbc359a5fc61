package bench

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resolver asks the cluster's DNS from one node, over UDP.
type resolver struct {
	b    *testing.B
	conn *wire.Conn
}

func (t *town) resolver(place string) resolver {
	t.b.Helper()
	dial, err := t.Dialer(place, "")
	t.must(err)
	conn, err := dial(t.b.Context(), "udp", t.DNS().String())
	t.must(err)
	t.b.Cleanup(func() { conn.Close() })
	return resolver{t.b, &wire.Conn{Conn: conn}}
}

// until asks until the answer is the one address, or none for the zero address, and returns when that was.
func (r resolver) until(name string, want netip.Addr) time.Time {
	r.b.Helper()
	deadline := time.Now().Add(10 * time.Second)
	if err := r.conn.SetDeadline(deadline); err != nil {
		r.b.Fatal(err)
	}
	for time.Now().Before(deadline) {
		if err := r.conn.WriteMsg(new(wire.Msg).SetQuestion(name, wire.TypeA)); err != nil {
			r.b.Fatal(err)
		}
		m, err := r.conn.ReadMsg()
		if err != nil {
			r.b.Fatal(err)
		}
		if len(m.Answer) == 1 && m.Answer[0].(*wire.A).A.Equal(net.IP(want.AsSlice())) || len(m.Answer) == 0 && !want.IsValid() {
			return time.Now()
		}
	}
	r.b.Fatalf("%s did not become %v", name, want)
	return deadline
}

// BenchmarkNames is issue E's: from the answer to a write over HTTPS, durable, to the new answer of DNS on both nodes, whichever
// is later, at 1,000 and at 20,000 Services of 5 endpoints. What the Service is and what its endpoints are is written in turns.
func BenchmarkNames(b *testing.B) {
	t := newTown(b, 5)
	nodes := []resolver{t.resolver("node/n1"), t.resolver("node/n2")}
	last := func(name string, want netip.Addr) (at time.Time) {
		for _, n := range nodes {
			at = n.until(name, want)
		}
		return at
	}
	for _, held := range []int{1000, 20000} {
		t.grow(held)
		b.Run(fmt.Sprintf("service/%d", held), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				name := t.name()
				svc, err := t.Client.CoreV1().Services(metav1.NamespaceDefault).Create(b.Context(), townService(name, ""), metav1.CreateOptions{})
				t.must(err)
				began := time.Now()
				took = append(took, last(name+".default.svc.cluster.local.", netip.MustParseAddr(svc.Spec.ClusterIP)).Sub(began))
				t.delete(name)
				began = time.Now()
				took = append(took, last(name+".default.svc.cluster.local.", netip.Addr{}).Sub(began))
			}
			report(b, took)
		})
		b.Run(fmt.Sprintf("endpoint/%d", held), func(b *testing.B) {
			name := t.name()
			_, err := t.Client.CoreV1().Services(metav1.NamespaceDefault).Create(b.Context(), townService(name, "None"), metav1.CreateOptions{})
			t.must(err)
			slices := t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
			slice := t.slice(name, townNew)
			slice.Endpoints = slice.Endpoints[:1]
			slice, err = slices.Create(b.Context(), slice, metav1.CreateOptions{})
			t.must(err)
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				address := netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 250)})
				slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{address.String()}, NodeName: &townNodes[0].name}}
				slice, err = slices.Update(b.Context(), slice, metav1.UpdateOptions{})
				t.must(err)
				began := time.Now()
				took = append(took, last(name+".default.svc.cluster.local.", address).Sub(began))
			}
			report(b, took)
			t.deleteSlice(name)
			t.delete(name)
		})
	}
}
