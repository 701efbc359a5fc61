package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/dns"
	"kubarium.dev/store"
)

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

func livePod(ns, name, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

// finishNamespace is the namespace controller's last word, if the namespace is still there.
func finishNamespace(name string) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		ns, err := tx.Get(api.Namespaces, "", name)
		if err != nil {
			return nil
		}
		return tx.Remove(ns)
	}
}

// upstream is a DNS server elsewhere: it knows what answers says, and fails for all else.
func upstream(t *testing.T, answers map[string][]string) string {
	t.Helper()
	p, l := sockets(t)
	h := wire.HandlerFunc(func(w wire.ResponseWriter, req *wire.Msg) {
		m := new(wire.Msg).SetReply(req)
		lines, known := answers[strings.ToLower(req.Question[0].Name)]
		if !known {
			m.Rcode = wire.RcodeNameError
		}
		for _, line := range lines {
			rr, err := wire.NewRR(line)
			if err != nil {
				t.Error(err)
				continue
			}
			if rr.Header().Rrtype == req.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			m.Truncate(512)
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})
	var up sync.WaitGroup
	for _, s := range []*wire.Server{{PacketConn: p, Handler: h}, {Listener: l, Handler: h}} {
		up.Add(1)
		s.NotifyStartedFunc = up.Done
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-done); err != nil {
				t.Errorf("stop the upstream: %v", err)
			}
		})
	}
	up.Wait()
	return l.Addr().String()
}

// D-9, D-18.
func TestAnExternalNameLeadsElsewhereAndIsFollowed(t *testing.T) {
	t.Parallel()
	up := upstream(t, map[string][]string{
		"www.example.com.":   {"www.example.com. 60 IN A 192.0.2.80", "www.example.com. 60 IN AAAA 2001:db8::80"},
		"other.example.com.": {"other.example.com. 60 IN A 192.0.2.81"},
	})
	l := newLab(t, dns.Config{Upstream: []string{up}})
	l.apply(external("dev", "ext", "www.example.com"), external("dev", "gone", "no.example.com"), virtual("prod", "ent", "10.96.0.10"),
		external("dev", "inner", "ent.prod.svc.cluster.local"), external("dev", "a", "b.dev.svc.cluster.local"),
		external("dev", "b", "a.dev.svc.cluster.local"))
	l.want("ext.dev.svc.cluster.local", wire.TypeA, ok, "ext.dev.svc 5 CNAME www.example.com.", "www.example.com. 60 A 192.0.2.80")
	l.want("ext.dev.svc.cluster.local", wire.TypeAAAA, ok, "ext.dev.svc 5 CNAME www.example.com.", "www.example.com. 60 AAAA 2001:db8::80")
	l.want("ext.dev.svc.cluster.local", wire.TypeCNAME, ok, "ext.dev.svc 5 CNAME www.example.com.")
	l.want("ext.dev.svc.cluster.local", wire.TypeMX, ok, "ext.dev.svc 5 CNAME www.example.com.")
	l.want("gone.dev.svc.cluster.local", wire.TypeA, missing, "gone.dev.svc 5 CNAME no.example.com.")
	l.want("inner.dev.svc.cluster.local", wire.TypeA, ok, "inner.dev.svc 5 CNAME ent.prod.svc", "ent.prod.svc 5 A 10.96.0.10")
	if m := l.ask("a.dev.svc.cluster.local", wire.TypeA); m.Rcode != failed {
		t.Errorf("a circle of names: got %s, want SERVFAIL", wire.RcodeToString[m.Rcode])
	}
	l.empty("x.ext.dev.svc.cluster.local", wire.TypeA, missing)

	l.apply(external("dev", "ext", "other.example.com"))
	l.want("ext.dev.svc.cluster.local", wire.TypeA, ok, "ext.dev.svc 5 CNAME other.example.com.", "other.example.com. 60 A 192.0.2.81")
	l.apply(virtual("dev", "ext", "10.96.0.99"))
	l.want("ext.dev.svc.cluster.local", wire.TypeA, ok, "ext.dev.svc 5 A 10.96.0.99")
}

// D-23, D-32.
func TestOtherNamesAreAskedElsewhere(t *testing.T) {
	t.Parallel()
	many := []string{}
	for i := range 100 {
		many = append(many, fmt.Sprintf("many.example.com. 60 IN A 192.0.2.%d", i))
	}
	up := upstream(t, map[string][]string{
		"www.example.com.":        {"www.example.com. 60 IN A 192.0.2.80"},
		"many.example.com.":       many,
		"1.2.0.192.in-addr.arpa.": {"1.2.0.192.in-addr.arpa. 60 IN PTR one.example.com."},
	})
	l := newLab(t, dns.Config{Upstream: []string{dead(t), up}})
	m := l.want("www.example.com", wire.TypeA, ok, "www.example.com. 60 A 192.0.2.80")
	if m.Authoritative || !m.RecursionAvailable {
		t.Errorf("a foreign answer has flags aa=%v ra=%v, want false and true", m.Authoritative, m.RecursionAvailable)
	}
	l.want("no.example.com", wire.TypeA, missing)
	l.want("1.2.0.192.in-addr.arpa", wire.TypePTR, ok, "1.2.0.192.in-addr.arpa. 60 PTR one.example.com.")
	if m := l.ask("many.example.com", wire.TypeA); len(m.Answer) != 100 {
		t.Errorf("an answer that is too large for UDP has %d records, want 100", len(m.Answer))
	}
}

// dead is an address where nothing listens.
func dead(t *testing.T) string {
	t.Helper()
	p, l := sockets(t)
	if err := errors.Join(p.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// D-23.
func TestForeignNamesFailSoonWhenNobodyAnswers(t *testing.T) {
	t.Parallel()
	none := newLab(t, dns.Config{Dial: func(_ context.Context, _, address string) (net.Conn, error) {
		t.Errorf("%s was asked, and nobody is to be", address)
		return nil, net.ErrClosed
	}})
	none.apply(external("dev", "ext", "www.example.com"))
	none.want("www.example.com", wire.TypeA, failed)
	none.want("7.2.0.192.in-addr.arpa", wire.TypePTR, failed)
	none.want("ext.dev.svc.cluster.local", wire.TypeA, ok, "ext.dev.svc 5 CNAME www.example.com.")

	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var asked atomic.Int64 // when the first was, in Unix nanoseconds
	// However busy the machine: what each server gets ends in time, and so does all of it.
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		now := time.Now()
		asked.CompareAndSwap(0, now.UnixNano())
		ends, bounded := ctx.Deadline()
		if one, all := ends.Sub(now), ends.Sub(time.Unix(0, asked.Load())); !bounded || one > 2*time.Second || all > 4*time.Second {
			t.Errorf("a silent upstream is waited for %v, all of them %v; glibc waits 5 s", one, all)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	up := silent.LocalAddr().String()
	l := newLab(t, dns.Config{Upstream: []string{up, up, up}, Dial: dial})
	if m := exchange(t, "udp", l.addr, query("www.example.com", wire.TypeA)); m.Rcode != failed {
		t.Errorf("got %s, want SERVFAIL", wire.RcodeToString[m.Rcode])
	}
	if asked.Load() == 0 {
		t.Error("nobody was asked")
	}
}

// D-19.
func TestBeforeTheFirstListNoNameIsCalledMissing(t *testing.T) {
	t.Parallel()
	up := upstream(t, map[string][]string{"www.example.com.": {"www.example.com. 60 IN A 192.0.2.80"}})
	st := newStore(t, store.Options{})
	s := dns.New(dns.Config{Reader: st, Upstream: []string{up}})
	l := &lab{t: t, server: s, addr: serve(t, s)}
	for _, name := range []string{"ent.dev.svc.cluster.local", "cluster.local", "no.cluster.local", "10.0.96.10.in-addr.arpa"} {
		l.want(name, wire.TypeA, failed)
	}
	l.want("www.example.com", wire.TypeA, ok, "www.example.com. 60 A 192.0.2.80")
	l.store = st
	background(t, "Run", s.Run)
	l.apply(namespace("dev"))
	l.empty("no.dev.svc.cluster.local", wire.TypeA, missing)
}

// D-24.
func TestChangesAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	l.apply(virtual("dev", "ent", "10.96.0.11"))
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.11")
	l.unknown("10.0.96.10.in-addr.arpa")
	l.want("11.0.96.10.in-addr.arpa", wire.TypePTR, ok, "11.0.96.10.in-addr.arpa. 5 PTR ent.dev.svc")
	l.delete(virtual("dev", "ent", "10.96.0.11"))
	l.empty("ent.dev.svc.cluster.local", wire.TypeA, missing)
	l.empty("_tcp.ent.dev.svc.cluster.local", wire.TypeA, missing)

	l.apply(headlessService("dev", "db"), slice("dev", "db", "s", 1, end{ip: "10.0.0.1"}))
	l.apply(slice("dev", "db", "s", 1, end{ip: "10.0.0.1", unready: true}, end{ip: "10.0.0.2"}))
	l.want("db.dev.svc.cluster.local", wire.TypeA, ok, "db.dev.svc 5 A 10.0.0.2")
	l.apply(headlessService("dev", "db2"), slice("dev", "db2", "s", 1, end{ip: "10.0.0.3"})) // the slice changes hands
	l.empty("db.dev.svc.cluster.local", wire.TypeA, missing)
	l.want("db2.dev.svc.cluster.local", wire.TypeA, ok, "db2.dev.svc 5 A 10.0.0.3")
}

// unknown expects that nothing here knows the name, and that there is nobody else to ask.
func (l *lab) unknown(name string) { l.want(name, wire.TypePTR, failed) }

// D-24: a server that fell behind the store's events reads it anew.
func TestAServerThatFellBehindReadsTheStoreAnew(t *testing.T) {
	t.Parallel()
	st := newStore(t, store.Options{})
	r := &lossyReader{Reader: st}
	l := &lab{t: t, store: st, server: dns.New(dns.Config{Reader: r})}
	background(t, "Run", l.server.Run)
	l.addr = serve(t, l.server)
	l.apply(namespace("dev"))
	for i := range 20 {
		l.apply(virtual("dev", fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.0.%d", i)))
		l.delete(virtual("dev", fmt.Sprintf("s%d", i), ""))
		l.apply(virtual("dev", fmt.Sprintf("t%d", i), fmt.Sprintf("10.96.1.%d", i)))
	}
	for i := range 20 {
		l.empty(fmt.Sprintf("s%d.dev.svc.cluster.local", i), wire.TypeA, missing)
		l.want(fmt.Sprintf("t%d.dev.svc.cluster.local", i), wire.TypeA, ok, fmt.Sprintf("t%d.dev.svc 5 A 10.96.1.%d", i, i))
	}
	if n := r.lost.Load(); n < 5 {
		t.Errorf("the server lost the events %d times: the test proves nothing", n)
	}
}

// lossyReader is a store that forgets events: every watcher is too late at its third batch.
type lossyReader struct {
	store.Reader
	lost atomic.Int32
}

func (r *lossyReader) Watch(ctx context.Context, from uint64, kinds ...*api.Kind) (store.Watcher, error) {
	w, err := r.Reader.Watch(ctx, from, kinds...)
	return &lossyWatcher{Watcher: w, lost: &r.lost}, err
}

type lossyWatcher struct {
	store.Watcher
	batches int
	lost    *atomic.Int32
}

func (w *lossyWatcher) Next(ctx context.Context) (store.Batch, error) {
	b, err := w.Watcher.Next(ctx)
	if w.batches++; w.batches < 3 || err != nil {
		return b, err
	}
	w.lost.Add(1)
	return store.Batch{}, apierrors.NewResourceExpired("too old")
}

// D-25.
func TestLargeAnswersAreCutOverUDPAndWholeOverTCP(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	var ends []end
	for i := range 100 {
		ends = append(ends, end{ip: fmt.Sprintf("10.0.0.%d", i)})
	}
	l.apply(headlessService("dev", "db"), slice("dev", "db", "s", 1, ends...))
	for _, c := range []struct {
		size uint16 // 0: no EDNS0
		cut  bool
	}{{0, true}, {100, true}, {512, true}, {1232, true}, {4096, false}, {65535, false}} {
		m := new(wire.Msg).SetQuestion("db.dev.svc.cluster.local.", wire.TypeA)
		limit := 512
		if c.size != 0 {
			m.SetEdns0(c.size, true)
			limit = max(int(c.size), 512)
		}
		r := exchange(t, "udp", l.addr, m)
		r.Compress = true
		if r.Truncated != c.cut || r.Len() > limit || (len(r.Answer) == 100) == c.cut {
			t.Errorf("a client that takes %d bytes: tc=%v, %d bytes, %d records", c.size, r.Truncated, r.Len(), len(r.Answer))
		}
		if opt := r.IsEdns0(); (opt != nil) != (c.size != 0) || opt != nil && !opt.Do() {
			t.Errorf("a client that takes %d bytes: EDNS0 is %v", c.size, opt)
		}
		if r := exchange(t, "tcp", l.addr, m); r.Truncated || len(r.Answer) != 100 {
			t.Errorf("over TCP: tc=%v, %d records", r.Truncated, len(r.Answer))
		}
	}
	odd := query("db.dev.svc.cluster.local", wire.TypeA)
	odd.IsEdns0().SetVersion(1)
	if r := exchange(t, "udp", l.addr, odd); r.Rcode != wire.RcodeBadVers {
		t.Errorf("EDNS version 1: got %s, want BADVERS", wire.RcodeToString[r.Rcode])
	}
}

// D-38, and what is not DNS as pods speak it.
func TestWhatIsNotServedIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	for _, qtype := range []uint16{wire.TypeAXFR, wire.TypeIXFR} {
		l.want("cluster.local", qtype, wire.RcodeRefused)
	}
	chaos := query("version.bind", wire.TypeTXT)
	chaos.Question[0].Qclass = wire.ClassCHAOS
	if r := exchange(t, "udp", l.addr, chaos); r.Rcode != wire.RcodeRefused {
		t.Errorf("class CH: got %s", wire.RcodeToString[r.Rcode])
	}
	notify := query("cluster.local", wire.TypeSOA)
	notify.Opcode = wire.OpcodeNotify
	if r := exchange(t, "udp", l.addr, notify); r.Rcode != wire.RcodeNotImplemented {
		t.Errorf("NOTIFY: got %s", wire.RcodeToString[r.Rcode])
	}
}

func TestAWalkTellsEachQuestionAndWhyItWasAnsweredSo(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("prod", "ent", "10.96.0.10"), headlessService("dev", "db"), slice("dev", "db", "s", 1, end{ip: "10.0.0.1", unready: true}))
	search := dns.Search{Path: []string{"dev.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Ndots: 5}
	walk := func(name string) []string {
		var all []string
		for _, s := range l.server.Walk(t.Context(), name, search) {
			all = append(all, short(fmt.Sprintf("%s %s %s %v %v %s", s.Name, s.Type, s.Rcode, s.Answers, s.From, s.Reason)))
		}
		return all
	}
	for _, c := range []struct {
		name string
		want []string
	}{
		{"ent.prod", []string{
			"ent.prod.dev.svc A NXDOMAIN [] [] namespace dev has no Service prod",
			"ent.prod.dev.svc AAAA NXDOMAIN [] [] namespace dev has no Service prod",
			"ent.prod.svc A NOERROR [ent.prod.svc 5 A 10.96.0.10] [Service prod/ent] ",
			"ent.prod.svc AAAA NOERROR [] [Service prod/ent] the name has no AAAA record, only A, SRV",
		}},
		{"db.dev.svc.cluster.local.", []string{
			"db.dev.svc A NXDOMAIN [] [] Service dev/db is headless and none of its 1 endpoints is ready",
			"db.dev.svc AAAA NXDOMAIN [] [] Service dev/db is headless and none of its 1 endpoints is ready",
		}},
		{"ent.dev.svc.cluster.local.", []string{
			"ent.dev.svc A NXDOMAIN [] [] namespace dev has no Service ent; namespace prod has a Service ent",
			"ent.dev.svc AAAA NXDOMAIN [] [] namespace dev has no Service ent; namespace prod has a Service ent",
		}},
		{"ent.prodd.svc.cluster.local.", []string{
			"ent.prodd.svc A NXDOMAIN [] [] there is no namespace prodd; did you mean prod?",
			"ent.prodd.svc AAAA NXDOMAIN [] [] there is no namespace prodd; did you mean prod?",
		}},
		{"dev.svc.cluster.local.", []string{
			"dev.svc A NOERROR [] [Namespace dev] the name only leads to others below it",
			"dev.svc AAAA NOERROR [] [Namespace dev] the name only leads to others below it",
		}},
	} {
		if got := walk(c.name); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
	if got := walk("www.example.com"); len(got) != 8 || !strings.Contains(got[7], "no upstream server is configured") {
		t.Errorf("a foreign name makes a walk of %d questions:\n%s", len(got), strings.Join(got, "\n"))
	}
	for _, s := range []dns.Step{l.server.Ask(t.Context(), "x", "NOSUCH"), l.server.Ask(t.Context(), "a..b", "A")} {
		if s.Reason == "" || s.Found() {
			t.Errorf("got %+v", s)
		}
	}
}

func TestServeEndsWithItsContextThoughAClientStaysConnected(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	asking := make(chan context.Context, 1)
	s := dns.New(dns.Config{
		Upstream: []string{silent.LocalAddr().String()},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			asking <- ctx
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	})
	p, ln := sockets(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, p, ln) }()
	c, err := wire.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WriteMsg(query("www.example.com", wire.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil { // the question is under way
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := (<-asking).Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve waited until its question came to an end by itself: %v", err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}
