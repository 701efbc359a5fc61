package dns_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kubarium.dev/dns"
)

// What is typed wrongly is told with what is near, and what is found with the objects that it comes from.
func TestAnswersAreExplained(t *testing.T) {
	t.Parallel()
	up := upstream(t, map[string][]string{"www.example.com.": {"www.example.com. 60 IN A 192.0.2.80"}})
	l := newLab(t, dns.Config{Upstream: []string{up}, Pods: dns.PodsVerified, Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}})
	l.apply(virtual("prod", "ent", "10.96.0.10"), headlessService("prod", "nobody"), headlessService("prod", "db"),
		slice("prod", "db", "db-1", 5432, end{ip: "10.244.1.2", hostname: "db-0"}, end{ip: "10.244.1.3", pod: "db-1", unready: true}),
		external("dev", "alias", "ent.prod.svc.cluster.local"), external("dev", "broken", "ent.prdo.svc.cluster.local"),
		external("dev", "ring", "Ring.dev.svc.cluster.local"), external("dev", "away", "www.example.com"),
		external("dev", "branch", "svc.cluster.local"), livePod("dev", "jump", "10.244.1.7"))
	const form = "names of Services have the form SERVICE.NAMESPACE.svc.cluster.local."
	for _, c := range []struct {
		name, qtype, rcode string
		from               string // the objects
		why                string // how the reason ends
	}{
		{"_htp._tcp.ent.prod.svc.cluster.local", "SRV", "NXDOMAIN", "", "Service prod/ent has no port named so: _htp._tcp; did you mean _http._tcp?"},
		{"_http._udp.db.prod.svc.cluster.local", "SRV", "NXDOMAIN", "", "Service prod/db has no port named so: _http._udp; did you mean _http._tcp?"},
		{"db-00.db.prod.svc.cluster.local", "A", "NXDOMAIN", "", "Service prod/db has no ready endpoint named db-00; did you mean db-0?"},
		{"db-1.db.prod.svc.cluster.local", "A", "NXDOMAIN", "", "the endpoint db-1 of Service prod/db is not ready"},
		{"10-244-1-3.db.prod.svc.cluster.local", "A", "NXDOMAIN", "", "the endpoint 10-244-1-3 of Service prod/db is not ready"},
		{"nobody.prod.svc.cluster.local", "A", "NXDOMAIN", "", "Service prod/nobody is headless and has no endpoint"},
		{"enr.prod.svc.cluster.local", "A", "NXDOMAIN", "", "namespace prod has no Service enr; did you mean ent?"},
		{`a\.b.prod.svc.cluster.local`, "A", "NXDOMAIN", "", `namespace prod has no Service a\.b`},
		{"ent.svc.cluster.local", "A", "NXDOMAIN", "", "there is no namespace ent; namespace prod has a Service ent"},
		{"ent.far.svc.cluster.local", "A", "NXDOMAIN", "", "there is no namespace far; namespace prod has a Service ent"},
		{"ent.prod.cluster.local", "A", "NXDOMAIN", "", form + "; did you mean ent.prod.svc.cluster.local.?"},
		{"ent.prod.scv.cluster.local", "A", "NXDOMAIN", "", form + "; did you mean ent.prod.svc.cluster.local.?"},
		{"alias.dev.cluster.local", "A", "NXDOMAIN", "", form},
		{"www.example.com.cluster.local", "A", "NXDOMAIN", "", form},
		{"1-2.dev.pod.cluster.local", "A", "NXDOMAIN", "", "names of pods spell their address: 10-244-1-7.dev.pod.cluster.local."},
		{"10-244-1-8.dev.pod.cluster.local", "A", "NXDOMAIN", "", "no living pod of namespace dev has this address"},
		{"10-244-1-7.dvv.pod.cluster.local", "A", "NXDOMAIN", "", "there is no namespace dvv; did you mean dev?"},
		{"10-244-1-7.dev.pod.cluster.local", "A", "NOERROR", "Pod dev/jump", ""},
		{"9.9.96.10.in-addr.arpa", "PTR", "NXDOMAIN", "", "no Service and no published endpoint has this address"},
		{"10.0.96.10.in-addr.arpa", "PTR", "NOERROR", "Service prod/ent", ""},
		{"alias.dev.svc.cluster.local", "A", "NOERROR", "Service dev/alias, Service prod/ent", ""},
		{"alias.dev.svc.cluster.local", "AAAA", "NOERROR", "Service dev/alias, Service prod/ent", "ent.prod.svc.cluster.local. has no AAAA record, only A, SRV"},
		{"branch.dev.svc.cluster.local", "A", "NOERROR", "Service dev/branch", "svc.cluster.local. only leads to others below it"},
		{"broken.dev.svc.cluster.local", "A", "NXDOMAIN", "Service dev/broken", "ent.prdo.svc.cluster.local.: there is no namespace prdo; did you mean prod?"},
		{"ring.dev.svc.cluster.local", "A", "SERVFAIL", "Service dev/ring", "the ExternalNames lead in a circle"},
		{"away.dev.svc.cluster.local", "A", "NOERROR", "Service dev/away", "www.example.com. is outside cluster.local.: " + up + " answered"},
		{"www.example.com", "AAAA", "NOERROR", "", up + " says that the name has no AAAA record"},
		{"no.example.com", "A", "NXDOMAIN", "", up + " says that there is no such name"},
		{"bücher.example", "A", "NXDOMAIN", "", "bücher.example. is outside cluster.local.: " + up + " says that there is no such name"},
		{"x.alias.dev.svc.cluster.local", "A", "NXDOMAIN", "", "Service dev/alias is an ExternalName: nothing lies below it"},
	} {
		s := l.server.Ask(t.Context(), c.name, c.qtype)
		if s.Rcode != c.rcode || strings.Join(s.From, ", ") != c.from || !strings.HasSuffix(s.Reason, c.why) || c.why == "" && s.Reason != "" {
			t.Errorf("%s %s: got %s from %q because %q,\nwant %s from %q because %q", c.name, c.qtype, s.Rcode, s.From, s.Reason, c.rcode, c.from, c.why)
		}
	}
	if s := l.server.Ask(t.Context(), "ring.dev.svc.cluster.local", "A"); len(s.Answers) != 1 {
		t.Errorf("a circle of one name has the records %q", s.Answers)
	}
	off := newLab(t, dns.Config{})
	if s := off.server.Ask(t.Context(), "10-244-1-7.dev.pod.cluster.local", "A"); s.Reason != "names of pods are not answered here" {
		t.Errorf("without names of pods: %q", s.Reason)
	}
}

// What a walk asks depends on the name: glibc's rules of the search path, SRV for ports, PTR for addresses.
func TestAWalkAsksWhatProgramsAsk(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a.", 119) + "a"
	path := []string{"dev.svc.cluster.local", ".", "cluster.local"}
	l := newLab(t, dns.Config{})
	for _, c := range []struct {
		name  string
		ndots int
		want  []string
	}{
		{"ent", 5, []string{"ent.dev.svc A", "ent. A", "ent A"}}, // the root in the path is the name itself
		{"ent.dev", 1, []string{"ent.dev. A", "ent.dev.dev.svc A", "ent.dev A"}},
		{"ent.dev.", 5, []string{"ent.dev. A"}},
		{"_http._tcp.ent", 5, []string{"_http._tcp.ent.dev.svc SRV", "_http._tcp.ent. SRV", "_http._tcp.ent SRV"}},
		{"_http.ent.", 5, []string{"_http.ent. A"}},
		{"1.0.96.10.IN-ADDR.arpa", 9, []string{"1.0.96.10.IN-ADDR.arpa. PTR"}},
		{long, 500, []string{long + ". A", long + " A"}}, // too long for the first path
	} {
		var got []string
		for _, s := range l.server.Walk(t.Context(), c.name, dns.Search{Path: path, Ndots: c.ndots}) {
			if s.Type != "AAAA" {
				got = append(got, short(s.Name+" "+s.Type))
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s, ndots %d:\n got %q\nwant %q", c.name, c.ndots, got, c.want)
		}
	}
	if s := l.server.Ask(t.Context(), strings.Repeat("a.", 127)+"a", "A"); s.Rcode != "FORMERR" {
		t.Errorf("a name of 255 letters: got %+v", s)
	}
}
