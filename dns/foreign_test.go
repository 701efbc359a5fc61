package dns_test

import (
	"context"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"kubarium.dev/dns"
	"kubarium.dev/store"
)

// clock is a time that stands still until it is moved.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

// dialer counts connections to upstream servers and refuses them while it is told to.
type dialer struct {
	n    atomic.Int32
	down atomic.Bool
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.n.Add(1)
	if d.down.Load() {
		return nil, net.ErrClosed
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// udp asks over UDP alone.
func (l *lab) udp(name string, qtype uint16) *wire.Msg {
	l.t.Helper()
	return exchange(l.t, "udp", l.addr, query(name, qtype))
}

// D-31, D-32: fixed names and stub domains come before the upstream servers, and never before the cluster's own names.
func TestStubDomainsAndFixedNamesHaveTheirOwnAnswers(t *testing.T) {
	t.Parallel()
	everybody := upstream(t, map[string][]string{
		"www.example.com.": {"www.example.com. 60 IN A 192.0.2.80"}, "a.corp.example.": {"a.corp.example. 60 IN A 192.0.2.1"},
	})
	corp := upstream(t, map[string][]string{"a.corp.example.": {"a.corp.example. 60 IN A 10.9.9.9"}})
	lab2 := upstream(t, map[string][]string{"a.lab.corp.example.": {"a.lab.corp.example. 60 IN A 10.8.8.8"}})
	l := newLab(t, dns.Config{
		Upstream: []string{everybody},
		Stub:     map[string][]string{"corp.example": {corp}, "Lab.Corp.example.": {lab2}, "dev.svc.cluster.local": {corp}},
		Hosts: map[string][]netip.Addr{
			"Printer.example.com": {netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		},
	})
	l.apply(virtual("dev", "ent", "10.96.0.10"), external("dev", "paper", "printer.example.com"))
	l.want("www.example.com", wire.TypeA, ok, "www.example.com. 60 A 192.0.2.80")
	l.want("a.corp.example", wire.TypeA, ok, "a.corp.example. 60 A 10.9.9.9")
	l.want("a.lab.corp.example", wire.TypeA, ok, "a.lab.corp.example. 60 A 10.8.8.8")
	l.want("notcorp.example", wire.TypeA, missing)
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10")
	l.want("PRINTER.example.com", wire.TypeA, ok, "PRINTER.example.com. 5 A 192.0.2.7")
	l.want("printer.example.com", wire.TypeAAAA, ok, "printer.example.com. 5 AAAA 2001:db8::7")
	l.want("printer.example.com", wire.TypeMX, ok)
	l.want("7.2.0.192.in-addr.arpa", wire.TypePTR, ok, "7.2.0.192.in-addr.arpa. 5 PTR printer.example.com.")
	l.want("paper.dev.svc.cluster.local", wire.TypeA, ok,
		"paper.dev.svc 5 CNAME printer.example.com.", "printer.example.com. 5 A 192.0.2.7")
}

// D-33: an answer is kept for its TTL and no longer than configured, a negative one for its SOA's.
func TestForeignAnswersAreKeptAndGrowOld(t *testing.T) {
	t.Parallel()
	up := upstream(t, map[string][]string{"www.example.com.": {"www.example.com. 60 IN A 192.0.2.80"}})
	c, d := newClock(), &dialer{}
	l := newLab(t, dns.Config{Upstream: []string{up}, Dial: d.dial, Now: c.now, CachePositive: seconds(20), CacheStale: seconds(100)})
	ask := func(name string, ttl uint32, dials int32) {
		t.Helper()
		m := l.udp(name, wire.TypeA)
		if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != ttl || m.Answer[0].Header().Name != name {
			t.Errorf("%s: got %v, want one record with TTL %d", name, m.Answer, ttl)
		}
		if got := d.n.Load(); got != dials {
			t.Errorf("%s: the upstream server was asked %d times, want %d", name, got, dials)
		}
	}
	ask("www.example.com.", 60, 1)
	ask("www.example.com.", 60, 1)
	c.forward(seconds(7))
	ask("WWW.example.com.", 53, 1)
	c.forward(seconds(14)) // past CachePositive
	ask("www.example.com.", 60, 2)
	c.forward(seconds(25))
	d.down.Store(true) // nobody answers now: the outdated answer serves, for at most 30 s
	ask("www.example.com.", 30, 3)
	c.forward(seconds(200))
	if m := l.udp("www.example.com.", wire.TypeA); m.Rcode != failed {
		t.Errorf("an answer that is outdated by far: got %v, want SERVFAIL", m)
	}
	d.down.Store(false)
	n := d.n.Load()
	for range 2 { // no SOA record: not kept (RFC 2308)
		l.udp("no.example.com.", wire.TypeA)
	}
	if got := d.n.Load() - n; got != 2 {
		t.Errorf("a negative answer without SOA was asked for %d times, want 2", got)
	}
}

// D-33: that a name or a type is missing is kept for as long as the SOA record allows, and no longer than configured; of more
// answers than there is room for, one is given up.
func TestWhatOthersDoNotKnowIsKeptForItsTime(t *testing.T) {
	t.Parallel()
	up := liar(t, func(req *wire.Msg) ([]*wire.Msg, []*wire.Msg) {
		return []*wire.Msg{saying(req, "192.0.2.1", func(m *wire.Msg) {
			soa := func(ttl, minimum uint32) {
				m.Answer, m.Ns = nil, []wire.RR{&wire.SOA{
					Hdr: wire.RR_Header{Name: "example.com.", Rrtype: wire.TypeSOA, Class: wire.ClassINET, Ttl: ttl}, Ns: ".", Mbox: ".", Minttl: minimum,
				}}
			}
			switch req.Question[0].Name {
			case "minimum.example.com.":
				m.Rcode = wire.RcodeNameError
				soa(60, 10)
			case "ttl.example.com.":
				soa(10, 60) // the name exists, the type does not
			case "cap.example.com.":
				m.Rcode = wire.RcodeNameError
				soa(3600, 3600)
			}
		})}, nil
	})
	c, d := newClock(), &dialer{}
	l := newLab(t, dns.Config{Upstream: []string{up}, Dial: d.dial, Now: c.now, CacheNegative: seconds(20), CacheEntries: 3})
	asks := func(name string) bool {
		t.Helper()
		before := d.n.Load()
		if m := l.udp(name+".example.com", wire.TypeA); m.Rcode == failed {
			t.Errorf("%s: got %v", name, m)
		}
		return d.n.Load() > before
	}
	for _, tt := range []struct {
		name string
		kept int // seconds
	}{{"minimum", 10}, {"ttl", 10}, {"cap", 20}} {
		if first, second := asks(tt.name), asks(tt.name); !first || second {
			t.Errorf("%s: somebody was asked: %v, then %v; want once", tt.name, first, second)
		}
		if c.forward(seconds(tt.kept - 1)); asks(tt.name) {
			t.Errorf("%s: forgotten after %d seconds", tt.name, tt.kept-1)
		}
		if c.forward(seconds(1)); !asks(tt.name) {
			t.Errorf("%s: kept for more than %d seconds", tt.name, tt.kept)
		}
	}
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		asks(name)
	}
	if asks("d") {
		t.Error("the last answer was not kept")
	}
	kept := 0
	for _, name := range names { // whichever goes for another is up to chance, and another may go now
		if !asks(name) {
			kept++
		}
	}
	if kept > 3 {
		t.Errorf("of 4 answers, where there is room for 3, %d were kept", kept)
	}
}

// mute is an upstream server that does not answer before it is told to.
func mute(t *testing.T) (addr string, next func() (*wire.Msg, func(*wire.Msg))) {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p.LocalAddr().String(), func() (*wire.Msg, func(*wire.Msg)) {
		t.Helper()
		buf := make([]byte, 1500)
		n, peer, err := p.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		m := new(wire.Msg)
		if err := m.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		return m, func(r *wire.Msg) {
			raw, err := r.Pack()
			if err == nil {
				_, err = p.WriteTo(raw, peer)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// D-39: only so many clients wait for upstream servers; the next gets SERVFAIL at once, and names of the cluster their answer.
func TestOnlySoManyClientsWait(t *testing.T) {
	t.Parallel()
	up, next := mute(t)
	l := newLab(t, dns.Config{Upstream: []string{up}, MaxAsking: 1})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	first := make(chan *wire.Msg, 1)
	go func() {
		r, err := wire.Exchange(query("www.example.com", wire.TypeA), l.addr)
		if err != nil {
			t.Error(err)
		}
		first <- r
	}()
	m, answer := next()
	if r := l.udp("other.example.com", wire.TypeA); r.Rcode != failed {
		t.Errorf("the second client got %v, want SERVFAIL", r)
	}
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10")
	r := new(wire.Msg).SetReply(m)
	rr, err := wire.NewRR("www.example.com. 60 IN A 192.0.2.80")
	if err != nil {
		t.Fatal(err)
	}
	r.Answer = []wire.RR{rr}
	answer(r)
	if got := <-first; got == nil || len(got.Answer) != 1 {
		t.Errorf("the first client got %v, want its answer", got)
	}
	if text := metrics(l.server); !strings.Contains(text, "kubarium_dns_upstream_refused_total 1\n") {
		t.Errorf("the refusal is not counted:\n%s", text)
	}
}

// D-34: an upstream server that sends questions back to us ends in SERVFAIL, at once and counted.
func TestAQuestionThatComesBackIsKnown(t *testing.T) {
	t.Parallel()
	p, ln := sockets(t)
	s := dns.New(dns.Config{Reader: newStore(t, store.Options{}), Upstream: []string{p.LocalAddr().String()}})
	background(t, "Serve", func(ctx context.Context) error { return s.Serve(ctx, p, ln) })
	if r := exchange(t, "udp", p.LocalAddr().String(), query("www.example.com", wire.TypeA)); r.Rcode != failed {
		t.Errorf("got %v, want SERVFAIL", r)
	}
	if text := metrics(s); !strings.Contains(text, "kubarium_dns_loops_total 1\n") {
		t.Errorf("the loop is not counted:\n%s", text)
	}
}

// D-35.
func TestANewConfigurationOfForeignNamesIsInEffectAtOnce(t *testing.T) {
	t.Parallel()
	one := upstream(t, map[string][]string{"www.example.com.": {"www.example.com. 60 IN A 192.0.2.1"}})
	two := upstream(t, map[string][]string{"www.example.com.": {"www.example.com. 60 IN A 192.0.2.2"}})
	l := newLab(t, dns.Config{Upstream: []string{one}})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	l.want("www.example.com", wire.TypeA, ok, "www.example.com. 60 A 192.0.2.1")
	l.server.Reload(dns.Config{Upstream: []string{two}})
	l.want("www.example.com", wire.TypeA, ok, "www.example.com. 60 A 192.0.2.2")
	l.server.Reload(dns.Config{})
	l.want("www.example.com", wire.TypeA, failed)
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10")
}

func metrics(s *dns.Server) string {
	var b strings.Builder
	s.WriteMetrics(&b)
	return b.String()
}

// D-36.
func TestHealthReadinessAndMetricsAreServed(t *testing.T) {
	t.Parallel()
	get := func(s *dns.Server, path string) (int, string) {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	unfilled := dns.New(dns.Config{})
	if code, _ := get(unfilled, "/health"); code != 200 {
		t.Errorf("/health before the first list: %d, want 200", code)
	}
	if code, _ := get(unfilled, "/ready"); code != 503 || unfilled.Ready() {
		t.Errorf("/ready before the first list: %d, want 503", code)
	}
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	if code, _ := get(l.server, "/ready"); code != 200 {
		t.Errorf("/ready: %d, want 200", code)
	}
	l.udp("ent.dev.svc.cluster.local", wire.TypeA)
	l.udp("no.dev.svc.cluster.local", wire.TypeAAAA)
	exchange(t, "tcp", l.addr, query("ent.dev.svc.cluster.local", wire.TypeSRV))
	l.udp("ent.dev.svc.cluster.local", wire.TypeA) // whoever is answered now knows that the others are counted
	_, text := get(l.server, "/metrics")
	for _, line := range []string{
		`kubarium_dns_requests_total{protocol="udp",type="A",rcode="NOERROR"} 2`,
		`kubarium_dns_requests_total{protocol="udp",type="AAAA",rcode="NXDOMAIN"} 1`,
		"kubarium_dns_cache_hits_total 0",
		`kubarium_dns_request_duration_seconds_bucket{le="+Inf"}`,
		"kubarium_dns_programming_seconds_count",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the metrics do not have %q:\n%s", line, text)
		}
	}
}

// D-42.
func TestTheServerRemembersWhoAskedWhat(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	l.udp("ent.dev.svc.cluster.local", wire.TypeA)
	if got := l.server.Questions(netip.Addr{}); len(got) != 0 {
		t.Errorf("questions are kept though nobody said so: %v", got)
	}
	l.server.KeepQuestions(3)
	for _, name := range []string{"a", "b", "ent", "c"} {
		l.udp(name+".dev.svc.cluster.local", wire.TypeA)
	}
	var got []string
	for _, q := range l.server.Questions(netip.MustParseAddr("127.0.0.1")) {
		got = append(got, short(q.Name+" "+q.Type+" "+q.Rcode))
	}
	if want := []string{"b.dev.svc A NXDOMAIN", "ent.dev.svc A NOERROR", "c.dev.svc A NXDOMAIN"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := l.server.Questions(netip.MustParseAddr("127.0.0.2")); len(got) != 0 {
		t.Errorf("another client asked %v", got)
	}
	l.server.KeepQuestions(0)
	if got := l.server.Questions(netip.Addr{}); len(got) != 0 {
		t.Errorf("questions are kept after all: %v", got)
	}
}

// A name that ends nearly as the cluster's is told so.
func TestAWalkNoticesAMistypedDomain(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	asked := newLab(t, dns.Config{Upstream: []string{upstream(t, nil)}}) // somebody says that there is no such name
	for _, l := range []*lab{l, asked} {
		step := l.server.Ask(t.Context(), "ent.dev.svc.cluster.locall.", "A")
		if want := "did you mean ent.dev.svc.cluster.local.?"; !strings.Contains(step.Reason, want) {
			t.Errorf("got %q, want %q in it", step.Reason, want)
		}
	}
	if step := l.server.Ask(t.Context(), "www.example.com.", "A"); strings.Contains(step.Reason, "did you mean") {
		t.Errorf("got %q for a name that is not near", step.Reason)
	}
}
