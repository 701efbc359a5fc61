package dns_test

import (
	"net/netip"
	"slices"
	"testing"

	wire "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/dns"
)

// autopathLab is a server that knows the search paths of pods, and an upstream.
func autopathLab(t *testing.T) *lab {
	up := upstream(t, map[string][]string{
		"www.example.com.":      {"www.example.com. 60 IN A 192.0.2.80"},
		"printer.corp.example.": {"printer.corp.example. 60 IN A 192.0.2.81"},
	})
	l := newLab(t, dns.Config{Upstream: []string{up}, Autopath: func(pod *corev1.Pod) []string {
		ns := pod.Namespace
		return []string{ns + ".svc.cluster.local", "svc.cluster.local", "cluster.local", "Corp.example"}
	}})
	l.apply(virtual("dev", "ent", "10.96.0.10"), virtual("prod", "shop", "10.96.0.11"), external("prod", "away", "www.example.com"))
	return l
}

// D-37: the first question of a pod's search is answered with what the last would find; for others it is not.
func TestASearchPathIsWalkedInThePodsStead(t *testing.T) {
	t.Parallel()
	l := autopathLab(t)
	const first = "shop.prod.dev.svc.cluster.local"
	l.empty(first, wire.TypeA, missing)
	me := livePod("dev", "me", "127.0.0.1")
	l.apply(me)
	l.want(first, wire.TypeA, ok, "shop.prod.dev.svc 5 CNAME shop.prod.svc", "shop.prod.svc 5 A 10.96.0.11")
	l.want("Shop.Prod.dev.SVC.cluster.local", wire.TypeA, ok,
		"Shop.Prod.dev.SVC 5 CNAME Shop.Prod.svc", "Shop.Prod.svc 5 A 10.96.0.11")
	l.empty(first, wire.TypeAAAA, ok)
	l.want("ent.dev.svc.cluster.local", wire.TypeA, ok, "ent.dev.svc 5 A 10.96.0.10")
	l.want("www.example.com.dev.svc.cluster.local", wire.TypeA, ok,
		"www.example.com.dev.svc 60 CNAME www.example.com.", "www.example.com. 60 A 192.0.2.80")
	l.want("printer.dev.svc.cluster.local", wire.TypeA, ok,
		"printer.dev.svc 60 CNAME printer.corp.example.", "printer.corp.example. 60 A 192.0.2.81")
	l.want("away.prod.dev.svc.cluster.local", wire.TypeA, ok,
		"away.prod.dev.svc 5 CNAME away.prod.svc", "away.prod.svc 5 CNAME www.example.com.", "www.example.com. 60 A 192.0.2.80")

	l.empty("no.such.dev.svc.cluster.local", wire.TypeA, missing)                 // no name of the path exists
	l.empty(first, wire.TypeSRV, missing)                                         // libraries search for addresses only
	l.empty("shop.prod.svc.cluster.local.svc.cluster.local", wire.TypeA, missing) // not the first of the walk
	l.empty("shop.prod.prod.svc.cluster.local", wire.TypeA, missing)              // another namespace's walk
	l.empty("no.svc.cluster.local", wire.TypeA, missing)

	steps := l.server.Walk(t.Context(), "shop.prod", dns.Search{
		Path: []string{"dev.svc.cluster.local", "svc.cluster.local"}, Ndots: 5, Client: netip.MustParseAddr("127.0.0.1"),
	})
	if len(steps) != 2 || !slices.Contains(steps[0].Answers, "shop.prod.svc.cluster.local. 5 IN A 10.96.0.11") {
		t.Errorf("a walk is one pair of questions now: got %+v", steps)
	}
}

// D-37: an address belongs to one pod at a time, and to none when it is its node's.
func TestASearchPathGoesWithItsPod(t *testing.T) {
	t.Parallel()
	l := autopathLab(t)
	inDev := func(rcode int) {
		t.Helper()
		if m := l.ask("shop.prod.dev.svc.cluster.local", wire.TypeA); m.Rcode != rcode {
			t.Errorf("dev's search: got %s, want %s", wire.RcodeToString[m.Rcode], wire.RcodeToString[rcode])
		}
	}
	old := livePod("dev", "old", "127.0.0.1")
	l.apply(old)
	inDev(ok)
	ended := livePod("dev", "old", "127.0.0.1")
	ended.Status.Phase = corev1.PodSucceeded
	l.apply(ended)
	inDev(missing)
	l.apply(livePod("dev", "new", "127.0.0.1"))
	l.delete(ended)
	inDev(ok) // the old one's end does not take the address from the new one
	l.delete(livePod("dev", "new", ""))
	inDev(missing)
	host := livePod("dev", "host", "127.0.0.1")
	host.Spec.HostNetwork = true
	l.apply(host)
	inDev(missing)
}
