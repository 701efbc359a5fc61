package dns_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/dns"
)

const (
	ok      = wire.RcodeSuccess
	missing = wire.RcodeNameError
	failed  = wire.RcodeServerFailure
)

// D-1.
func TestTheZoneTellsTheVersionOfItsSchema(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.want("dns-version.cluster.local", wire.TypeTXT, ok, `dns-version 28800 TXT "1.1.0"`)
}

// D-2, D-3, D-4, D-26.
func TestAServiceWithAddressesHasThemItsPortsAndTheWayBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	svc := virtual("dev", "ent", "10.96.0.10", "fd00:96::a")
	svc.Spec.Ports = append(svc.Spec.Ports,
		corev1.ServicePort{Port: 99}, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP})
	l.apply(svc, virtual("dev", "six", "fd00:96::b"))
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10")
	l.want("ent.dev.svc.cluster.local", wire.TypeAAAA, ok, "ent.dev.svc 5 AAAA fd00:96::a")
	l.want("six.dev.svc.cluster.local", wire.TypeAAAA, ok, "six.dev.svc 5 AAAA fd00:96::b")
	m := l.want("_http._tcp.ent.dev.svc.cluster.local", wire.TypeSRV, ok, "_http._tcp.ent.dev.svc 5 SRV 0 100 80 ent.dev.svc")
	if got := texts(m.Extra); len(got) != 2 || got[0] != "ent.dev.svc 5 A 10.96.0.10" || got[1] != "ent.dev.svc 5 AAAA fd00:96::a" {
		t.Errorf("additional records are %q, want both addresses", got)
	}
	l.want("_dns._udp.ent.dev.svc.cluster.local", wire.TypeSRV, ok, "_dns._udp.ent.dev.svc 5 SRV 0 100 53 ent.dev.svc")
	l.empty("_http._udp.ent.dev.svc.cluster.local", wire.TypeSRV, missing)
	l.empty("_._tcp.ent.dev.svc.cluster.local", wire.TypeSRV, missing)
	l.empty("_tcp.ent.dev.svc.cluster.local", wire.TypeSRV, ok)
	l.want("ent.dev.svc.cluster.local", wire.TypeSRV, ok,
		"ent.dev.svc 5 SRV 0 33 80 ent.dev.svc", "ent.dev.svc 5 SRV 0 33 99 ent.dev.svc", "ent.dev.svc 5 SRV 0 33 53 ent.dev.svc")
	l.want("10.0.96.10.in-addr.arpa", wire.TypePTR, ok, "10.0.96.10.in-addr.arpa. 5 PTR ent.dev.svc")
	reverse, err := wire.ReverseAddr("fd00:96::a")
	if err != nil {
		t.Fatal(err)
	}
	l.want(reverse, wire.TypePTR, ok, reverse+" 5 PTR ent.dev.svc")
}

// D-5, D-6, D-7, D-8, D-12.
func TestAHeadlessServiceShowsItsReadyEndpoints(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(headlessService("dev", "db"), headlessService("dev", "other"))
	l.empty("db.dev.svc.cluster.local", wire.TypeA, missing)
	l.apply(
		slice("dev", "db", "db-1", 5432, end{ip: "10.244.1.2", hostname: "db-0", pod: "x"}, end{ip: "10.244.1.4", hostname: "db-0"},
			end{ip: "10.244.2.3", pod: "jump"}, end{ip: "10.244.2.9", unready: true, hostname: "late"}),
		slice("dev", "other", "other-1", 0, end{ip: "10.244.2.3", pod: "jump"}))
	l.want("db.dev.svc.cluster.local", wire.TypeA, ok,
		"db.dev.svc 5 A 10.244.1.2", "db.dev.svc 5 A 10.244.1.4", "db.dev.svc 5 A 10.244.2.3")
	l.want("db-0.db.dev.svc.cluster.local", wire.TypeA, ok, "db-0.db.dev.svc 5 A 10.244.1.2", "db-0.db.dev.svc 5 A 10.244.1.4")
	l.want("jump.db.dev.svc.cluster.local", wire.TypeA, ok, "jump.db.dev.svc 5 A 10.244.2.3")
	l.want("10-244-2-3.db.dev.svc.cluster.local", wire.TypeA, ok, "10-244-2-3.db.dev.svc 5 A 10.244.2.3")
	l.empty("late.db.dev.svc.cluster.local", wire.TypeA, missing)
	m := l.want("_http._tcp.db.dev.svc.cluster.local", wire.TypeSRV, ok,
		"_http._tcp.db.dev.svc 5 SRV 0 50 5432 db-0.db.dev.svc", "_http._tcp.db.dev.svc 5 SRV 0 50 5432 jump.db.dev.svc")
	if got := texts(m.Extra); len(got) != 3 || !has(got, "jump.db.dev.svc 5 A 10.244.2.3") {
		t.Errorf("additional records are %q, want the addresses of both targets", got)
	}
	l.want("3.2.244.10.in-addr.arpa", wire.TypePTR, ok,
		"3.2.244.10.in-addr.arpa. 5 PTR jump.db.dev.svc", "3.2.244.10.in-addr.arpa. 5 PTR jump.other.dev.svc")
	l.want("2.1.244.10.in-addr.arpa", wire.TypePTR, ok, "2.1.244.10.in-addr.arpa. 5 PTR db-0.db.dev.svc")
	l.delete(slice("dev", "other", "other-1", 0))
	l.want("3.2.244.10.in-addr.arpa", wire.TypePTR, ok, "3.2.244.10.in-addr.arpa. 5 PTR jump.db.dev.svc")
}

// D-5, D-6, D-7, D-8: IPv6 endpoints beside those of IPv4, two named ports and one without name.
func TestAHeadlessServiceHasBothFamiliesAndAllItsPorts(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	four := slice("dev", "db", "four", 5432, end{ip: "10.244.1.2", hostname: "db-0"}, end{ip: "10.244.1.3", pod: "db-1"})
	four.Ports = append(four.Ports,
		discoveryv1.EndpointPort{Name: new("metrics"), Port: new(int32(9187))}, discoveryv1.EndpointPort{Name: new(""), Port: new(int32(99))})
	l.apply(headlessService("dev", "db"), four, slice("dev", "db", "six", 5432, end{ip: "fd00::2", hostname: "db-0"}))
	l.want("db.dev.svc.cluster.local", wire.TypeAAAA, ok, "db.dev.svc 5 AAAA fd00::2")
	l.want("db-0.db.dev.svc.cluster.local", wire.TypeAAAA, ok, "db-0.db.dev.svc 5 AAAA fd00::2")
	l.want("db-0.db.dev.svc.cluster.local", wire.TypeA, ok, "db-0.db.dev.svc 5 A 10.244.1.2")
	l.empty("db-1.db.dev.svc.cluster.local", wire.TypeAAAA, ok)
	for name, port := range map[string]int{"_http._tcp": 5432, "_metrics._tcp": 9187} {
		owner := name + ".db.dev.svc"
		m := l.want(owner+".cluster.local", wire.TypeSRV, ok,
			fmt.Sprintf("%s 5 SRV 0 50 %d db-0.db.dev.svc", owner, port), fmt.Sprintf("%s 5 SRV 0 50 %d db-1.db.dev.svc", owner, port))
		if got := texts(m.Extra); !slices.Contains(got, "db-1.db.dev.svc 5 A 10.244.1.3") ||
			!slices.Contains(got, "db-0.db.dev.svc 5 AAAA fd00::2") {
			t.Errorf("%s: additional records are %q, want every target's addresses", name, got)
		}
	}
	l.empty("_._tcp.db.dev.svc.cluster.local", wire.TypeSRV, missing)
	reverse, err := wire.ReverseAddr("fd00::2")
	if err != nil {
		t.Fatal(err)
	}
	l.want(reverse, wire.TypePTR, ok, reverse+" 5 PTR db-0.db.dev.svc")

	l.apply(slice("dev", "db", "four", 5432, end{ip: "10.244.1.2", hostname: "db-0", unready: true}),
		slice("dev", "db", "six", 5432, end{ip: "fd00::2", hostname: "db-0", unready: true}))
	for _, name := range []string{"db", "db-0.db", "_http._tcp.db"} {
		l.empty(name+".dev.svc.cluster.local", wire.TypeA, missing)
	}
}

// D-6: a pod's name may be longer than a label, and with dots in it make a name that is too long, by a byte or by many.
func TestAPodWhoseNameIsTooLongIsFoundByItsAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	longest := 254 - len(".db.dev.svc.cluster.local.")
	for i, length := range []int{longest, longest + 1, longest + 2, 253} {
		pod := strings.Repeat("a", length%2) + strings.Repeat("a.", 126)[:length-length%2-1] + "z"
		name := "10-244-1-2"
		if i == 0 {
			name = pod
		}
		l.apply(headlessService("dev", "db"), slice("dev", "db", "db-1", 1, end{ip: "10.244.1.2", pod: pod}))
		l.want("2.1.244.10.in-addr.arpa", wire.TypePTR, ok, "2.1.244.10.in-addr.arpa. 5 PTR "+name+".db.dev.svc")
	}
	l.apply(headlessService("dev", "db"), slice("dev", "db", "db-1", 1, end{ip: "10.244.1.2", pod: fmt.Sprintf("%064d", 7)}))
	l.want("2.1.244.10.in-addr.arpa", wire.TypePTR, ok, "2.1.244.10.in-addr.arpa. 5 PTR 10-244-1-2.db.dev.svc")
	l.want("db.dev.svc.cluster.local", wire.TypeA, ok, "db.dev.svc 5 A 10.244.1.2")
}

// D-11.
func TestUnreadyEndpointsAreShownWhenTheServiceSaysSo(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	svc := headlessService("dev", "db")
	svc.Spec.PublishNotReadyAddresses = true
	l.apply(svc, slice("dev", "db", "db-1", 1, end{ip: "10.244.1.2", unready: true, pod: "a"}))
	l.want("db.dev.svc.cluster.local", wire.TypeA, ok, "db.dev.svc 5 A 10.244.1.2")
	l.want("a.db.dev.svc.cluster.local", wire.TypeA, ok, "a.db.dev.svc 5 A 10.244.1.2")
	l.want("_http._tcp.db.dev.svc.cluster.local", wire.TypeSRV, ok, "_http._tcp.db.dev.svc 5 SRV 0 100 1 a.db.dev.svc")
	l.want("2.1.244.10.in-addr.arpa", wire.TypePTR, ok, "2.1.244.10.in-addr.arpa. 5 PTR a.db.dev.svc")
}

// D-13.
func TestHandMadeSlicesAreTakenTogether(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(slice("dev", "db", "b", 5433, end{ip: "192.0.2.2"}), slice("dev", "db", "a", 5432, end{ip: "192.0.2.1"}))
	l.empty("db.dev.svc.cluster.local", wire.TypeA, missing)
	l.apply(headlessService("dev", "db"))
	l.want("db.dev.svc.cluster.local", wire.TypeA, ok, "db.dev.svc 5 A 192.0.2.1", "db.dev.svc 5 A 192.0.2.2")
	l.want("_http._tcp.db.dev.svc.cluster.local", wire.TypeSRV, ok,
		"_http._tcp.db.dev.svc 5 SRV 0 50 5432 192-0-2-1.db.dev.svc", "_http._tcp.db.dev.svc 5 SRV 0 50 5433 192-0-2-2.db.dev.svc")
}

// D-27.
func TestEndpointsOfAServiceWithAnAddressHaveDashedNames(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"),
		slice("dev", "ent", "s", 80, end{ip: "10.244.1.2", hostname: "h"}, end{ip: "fd00::7"}, end{ip: "fd00::"}))
	l.want("10-244-1-2.ent.dev.svc.cluster.local", wire.TypeA, ok, "10-244-1-2.ent.dev.svc 5 A 10.244.1.2")
	l.want("h.ent.dev.svc.cluster.local", wire.TypeA, ok, "h.ent.dev.svc 5 A 10.244.1.2")
	l.want("fd00--7.ent.dev.svc.cluster.local", wire.TypeAAAA, ok, "fd00--7.ent.dev.svc 5 AAAA fd00::7")
	l.want("fd00-0000-0000-0000-0000-0000-0000-0000.ent.dev.svc.cluster.local", wire.TypeAAAA, ok,
		"fd00-0000-0000-0000-0000-0000-0000-0000.ent.dev.svc 5 AAAA fd00::")
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10")
	l.want("10-244-1-2.ENT.dev.svc.cluster.local", wire.TypeANY, ok, "10-244-1-2.ENT.dev.svc 5 A 10.244.1.2")
	l.empty("10-244-1-2.ent.dev.svc.cluster.local", wire.TypeAAAA, ok)
	for _, other := range []string{"10-244-1-3", "010-244-1-2", "10-244-1-2-", "fd00-0--7", "fd00--8", "x.10-244-1-2"} {
		l.empty(other+".ent.dev.svc.cluster.local", wire.TypeA, missing)
	}
	if from := l.server.Ask(t.Context(), "10-244-1-2.ent.dev.svc.cluster.local", "A").From; !slices.Equal(from, []string{"Service dev/ent"}) {
		t.Errorf("the name comes from %q, want the Service", from)
	}
	l.apply(slice("dev", "ent", "s", 80, end{ip: "10.244.1.3"}, end{ip: "10.244.1.9", hostname: "10-244-1-3"}))
	l.empty("10-244-1-2.ent.dev.svc.cluster.local", wire.TypeA, missing)
	l.want("10-244-1-3.ent.dev.svc.cluster.local", wire.TypeA, ok, "10-244-1-3.ent.dev.svc 5 A 10.244.1.3", "10-244-1-3.ent.dev.svc 5 A 10.244.1.9")
}

// D-10.
func TestCapitalsAreOneAndComeBackAsAsked(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	l.want("eNt.Dev.SVC.cluster.local", wire.TypeA, ok, "eNt.Dev.SVC 5 A 10.96.0.10")
	m := l.ask("_HTTP._tcp.ENT.dev.svc.cluster.local", wire.TypeSRV)
	if len(m.Answer) != 1 || m.Answer[0].Header().Name != "_HTTP._tcp.ENT.dev.svc.cluster.local." {
		t.Errorf("got %v", m.Answer)
	}
}

// D-14, D-15, D-16.
func TestWhatIsMissingIsToldFromWhatIsEmpty(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
	}{
		{"ent.dev.svc.cluster.local", wire.TypeAAAA, ok},
		{"ent.dev.svc.cluster.local", wire.TypeMX, ok},
		{"svc.cluster.local", wire.TypeA, ok},
		{"pod.cluster.local", wire.TypeA, ok},
		{"dev.svc.cluster.local", wire.TypeA, ok},
		{"prod.svc.cluster.local", wire.TypeA, ok}, // no Service in it
		{"dns.cluster.local", wire.TypeA, ok},
		{"0.96.10.in-addr.arpa", wire.TypePTR, ok},
		{"ent.prod.svc.cluster.local", wire.TypeA, missing},
		{"x.ent.dev.svc.cluster.local", wire.TypeA, missing},
		{"1-2-3-4.ent.dev.svc.cluster.local", wire.TypeA, missing},
		{"nowhere.svc.cluster.local", wire.TypeA, missing},
		{"ent.dev.cluster.local", wire.TypeA, missing},
		{"1-2-3-4.dev.pod.cluster.local", wire.TypeA, missing}, // pod records are off
		{"www.example.com.cluster.local", wire.TypeA, missing},
		{"11.0.96.10.in-addr.arpa", wire.TypePTR, missing},
		{"1.1.111.10.in-addr.arpa", wire.TypePTR, missing},
	} {
		l.empty(c.name, c.qtype, c.rcode)
	}
	l.delete(namespace("prod"))
	l.update(finishNamespace("prod"))
	l.empty("prod.svc.cluster.local", wire.TypeA, missing)
	l.delete(virtual("dev", "ent", "10.96.0.10"))
	l.empty("ent.dev.svc.cluster.local", wire.TypeA, missing)
	l.empty("0.96.10.in-addr.arpa", wire.TypePTR, missing)
	l.empty("dev.svc.cluster.local", wire.TypeA, ok)
}

// D-17.
func TestTheApexHasItsSOAAndItsServer(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{Reverse: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
	l.apply(virtual("kube-system", "kube-dns", "10.96.0.53"))
	for _, apex := range []string{"cluster.local.", "244.10.in-addr.arpa."} {
		m := l.ask(apex, wire.TypeSOA)
		if len(m.Answer) != 1 || m.Answer[0].Header().Name != apex || m.Answer[0].Header().Rrtype != wire.TypeSOA {
			t.Errorf("%s SOA: got %v", apex, m.Answer)
		}
		m = l.want(apex, wire.TypeNS, ok, short(apex+"\t5\tIN\tNS\tns.dns.cluster.local."))
		if got := texts(m.Extra); len(got) != 1 || got[0] != "ns.dns 5 A 10.96.0.53" {
			t.Errorf("%s NS: glue is %q", apex, got)
		}
		l.empty(apex, wire.TypeA, ok)
		l.empty(apex, wire.TypeMX, ok)
	}
	l.want("ns.dns.cluster.local", wire.TypeA, ok, "ns.dns 5 A 10.96.0.53")
}

// D-28.
func TestPodRecordsAreOffBelievedOrVerified(t *testing.T) {
	t.Parallel()
	insecure := newLab(t, dns.Config{Pods: dns.PodsInsecure})
	insecure.want("10-244-1-7.dev.pod.cluster.local", wire.TypeA, ok, "10-244-1-7.dev.pod 5 A 10.244.1.7")
	insecure.want("fd00--7.dev.pod.cluster.local", wire.TypeAAAA, ok, "fd00--7.dev.pod 5 AAAA fd00::7")
	insecure.empty("10-244-1-7.nowhere.pod.cluster.local", wire.TypeA, missing)
	insecure.empty("10-244-1.dev.pod.cluster.local", wire.TypeA, missing)
	insecure.empty("10-244-1-7.dev.pod.cluster.local", wire.TypeAAAA, ok)

	verified := newLab(t, dns.Config{Pods: dns.PodsVerified})
	verified.empty("10-244-1-7.dev.pod.cluster.local", wire.TypeA, missing)
	pod := livePod("dev", "jump", "10.244.1.7")
	verified.apply(pod)
	verified.want("10-244-1-7.dev.pod.cluster.local", wire.TypeA, ok, "10-244-1-7.dev.pod 5 A 10.244.1.7")
	verified.empty("10-244-1-7.prod.pod.cluster.local", wire.TypeA, missing)
	verified.empty("dev.pod.cluster.local", wire.TypeA, ok)
	verified.apply(livePod("dev", "other", "10.244.1.7"), livePod("dev", "six", "fd00::7")) // two on their node's network
	verified.want("10-244-1-7.dev.pod.cluster.local", wire.TypeA, ok, "10-244-1-7.dev.pod 5 A 10.244.1.7")
	verified.want("fd00--7.dev.pod.cluster.local", wire.TypeAAAA, ok, "fd00--7.dev.pod 5 AAAA fd00::7")
	verified.delete(pod)
	verified.want("10-244-1-7.dev.pod.cluster.local", wire.TypeA, ok, "10-244-1-7.dev.pod 5 A 10.244.1.7")
	verified.delete(livePod("dev", "other", ""))
	verified.empty("10-244-1-7.dev.pod.cluster.local", wire.TypeA, missing)

	off := newLab(t, dns.Config{})
	off.empty("10-244-1-7.dev.pod.cluster.local", wire.TypeA, missing)
}

// D-30.
func TestAddressesComeInRandomOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(headlessService("dev", "db"), slice("dev", "db", "s", 1, end{ip: "10.0.0.1"}, end{ip: "10.0.0.2"}, end{ip: "10.0.0.3"}))
	first := map[string]int{}
	for range 300 {
		first[l.server.Answer(query("db.dev.svc.cluster.local", wire.TypeA)).Answer[0].(*wire.A).A.String()]++
	}
	for _, ip := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		if first[ip] < 50 {
			t.Errorf("%s came first %d times of 300", ip, first[ip])
		}
	}
}

// D-29.
func TestTheTTLIsTheConfiguredOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		set  int
		want uint32
	}{{0, 5}, {30, 30}, {-1, 0}, {7200, 3600}} {
		l := newLab(t, dns.Config{TTL: seconds(c.set)})
		l.apply(virtual("dev", "ent", "10.96.0.10"))
		if got := l.ask("ent.dev.svc.cluster.local", wire.TypeA).Answer[0].Header().Ttl; got != c.want {
			t.Errorf("TTL set to %d s: got %d, want %d", c.set, got, c.want)
		}
		if soa := l.ask("no.dev.svc.cluster.local", wire.TypeA).Ns[0].(*wire.SOA); soa.Hdr.Ttl != c.want || soa.Minttl != c.want {
			t.Errorf("TTL set to %d s: negative answers have %v", c.set, soa)
		}
	}
}
