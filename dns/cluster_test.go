package dns_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"kubarium.dev/api"
	"kubarium.dev/dns"
	"kubarium.dev/store"
)

// resolve goes through a search path as the two C libraries do: glibc goes on until there is an address, musl stops at
// the first name that exists, address or not.
func resolve(l *lab, name string, search dns.Search, stopsAtEmpty bool) []string {
	for _, candidate := range search.Candidates(name) {
		a, aaaa := l.udp(candidate, wire.TypeA), l.udp(candidate, wire.TypeAAAA)
		if found := append(texts(a.Answer), texts(aaaa.Answer)...); len(found) > 0 {
			return found
		}
		if stopsAtEmpty && (a.Rcode == ok || aaaa.Rcode == ok) {
			return nil
		}
	}
	return nil
}

// D-22: by the rules of both C libraries; the real ones are asked by the cluster's own tests.
func TestShortNamesResolveByTheRulesOfGlibcAndMusl(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	search := dns.Search{Path: []string{"dev.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Ndots: 5}
	for _, name := range []string{"ent", "ent.dev", "ent.dev.svc", "ent.dev.svc.cluster.local", "ent.dev.svc.cluster.local."} {
		for _, stops := range []bool{false, true} {
			got := resolve(l, name, search, stops)
			if want := []string{"ent.dev.svc 5 A 10.96.0.10"}; !slices.Equal(got, want) {
				t.Errorf("%s (stops at a name without address: %v): got %q, want %q", name, stops, got, want)
			}
		}
	}
}

// fill writes n Services in one transaction.
func (l *lab) fill(n int) {
	l.t.Helper()
	var all []api.Object
	for i := range n {
		all = append(all, virtual("dev", fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.%d.%d", i/250, i%250)))
	}
	l.apply(all...)
}

// D-41.
func TestEachOfTenThousandServicesAnswers(t *testing.T) {
	t.Parallel()
	const n = 10000
	l := newLab(t, dns.Config{})
	l.fill(n)
	c, err := wire.Dial("udp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := c.WriteMsg(query(fmt.Sprintf("s%d.dev.svc.cluster.local", i), wire.TypeA)); err != nil {
			t.Fatal(err)
		}
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("s%d.dev.svc 5 A 10.96.%d.%d", i, i/250, i%250)
		if got := texts(m.Answer); len(got) != 1 || got[0] != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// BenchmarkChangeToAnswer is a write of a Service until the server gives the new answer (D-24), in a store with fsync off.
func BenchmarkChangeToAnswer(b *testing.B) {
	for _, services := range []int{1000, 20000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			l := newLab(b, dns.Config{})
			l.fill(services)
			ask := query("s7.dev.svc.cluster.local", wire.TypeA)
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				ip := fmt.Sprintf("10.97.0.%d", i%250)
				var done time.Time
				rev, err := l.store.Update(b.Context(), func(tx *store.Tx) error { return tx.Update(virtual("dev", "s7", ip)) })
				if err != nil {
					b.Fatal(err)
				}
				done = time.Now()
				if err := l.server.Progress().Wait(b.Context(), rev); err != nil {
					b.Fatal(err)
				}
				if got := l.server.Answer(ask).Answer; len(got) != 1 || got[0].(*wire.A).A.String() != ip {
					b.Fatalf("got %v, want %s", got, ip)
				}
				took = append(took, time.Since(done))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
