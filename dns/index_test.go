package dns

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// dump is an index as a zone file, sorted.
func (x *index) dump() []string {
	var all []string
	for n := range x.table.all {
		if len(n.records) == 0 {
			all = append(all, n.key)
		}
		for _, r := range n.records {
			all = append(all, strings.ReplaceAll(r.rr(n.key, x.zones.ttl).String(), "\t", " "))
		}
		for _, r := range n.below {
			all = append(all, "below "+n.key+" "+r.addr.String())
		}
	}
	slices.Sort(all)
	return all
}

// world is objects that change at random, as events.
type world struct {
	rnd      *rand.Rand
	objects  map[string]api.Object
	revision uint64
}

func (w *world) pick() api.Object {
	ns := fmt.Sprintf("ns%d", w.rnd.IntN(3))
	meta := metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("x%d", w.rnd.IntN(6))}
	switch w.rnd.IntN(5) {
	case 0:
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	case 1:
		return w.service(meta)
	case 2:
		return &corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: w.ip()}}}}
	}
	return w.slice(meta)
}

func (w *world) ip() string { return fmt.Sprintf("10.0.0.%d", w.rnd.IntN(9)) }

func (w *world) service(meta metav1.ObjectMeta) *corev1.Service {
	s := &corev1.Service{ObjectMeta: meta}
	switch w.rnd.IntN(4) {
	case 0:
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	case 1:
		s.Spec.ClusterIP = w.ip()
		s.Spec.Ports = []corev1.ServicePort{{Name: []string{"", "http", "dns"}[w.rnd.IntN(3)], Port: 80}}
	default:
		s.Spec.ClusterIP = corev1.ClusterIPNone
		s.Spec.PublishNotReadyAddresses = w.rnd.IntN(4) == 0
	}
	return s
}

func (w *world) slice(meta metav1.ObjectMeta) *discoveryv1.EndpointSlice {
	meta.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("x%d", w.rnd.IntN(6))}
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta, Ports: []discoveryv1.EndpointPort{{Port: new(int32(80)), Name: new("http")}}}
	for range w.rnd.IntN(4) {
		e := discoveryv1.Endpoint{Addresses: []string{w.ip()}, Conditions: discoveryv1.EndpointConditions{Ready: new(w.rnd.IntN(3) > 0)}}
		switch w.rnd.IntN(3) {
		case 0:
			e.Hostname = new(fmt.Sprintf("h%d", w.rnd.IntN(2)))
		case 1:
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("p%d.q", w.rnd.IntN(2))}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// batch changes a few objects.
func (w *world) batch() store.Batch {
	var b store.Batch
	for range 1 + w.rnd.IntN(4) {
		obj := w.pick()
		key := api.KindOf(obj).Plural + "/" + api.Name(obj)
		old := w.objects[key]
		w.revision++
		e := store.Event{Type: store.Added, Kind: api.KindOf(obj), Object: obj, Old: old, Revision: w.revision}
		w.objects[key] = obj
		if old != nil {
			e.Type = store.Modified
			if w.rnd.IntN(2) == 0 {
				e.Type, e.Object = store.Deleted, old
				delete(w.objects, key)
			}
		}
		b.Events = append(b.Events, e)
	}
	b.Revision = w.revision
	return b
}

// D-24: after any history the index holds what a server started now would hold, and nothing that is gone.
func TestAnIndexThatFollowedEventsEqualsOneBuiltAnew(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		w := &world{rnd: rand.New(rand.NewPCG(seed, 1)), objects: map[string]api.Object{}}
		z := newZones("cluster.local", nil, defaultTTL)
		followed := newIndex(z, PodsVerified)
		for range 150 {
			followed.apply(w.batch())
			anew := newIndex(z, PodsVerified)
			list := store.Batch{Revision: w.revision}
			for _, obj := range w.objects {
				list.Events = append(list.Events, store.Event{Type: store.Added, Kind: api.KindOf(obj), Object: obj})
			}
			anew.apply(list)
			got, want := followed.dump(), anew.dump()
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, revision %d:\n got\n%s\nwant\n%s", seed, w.revision, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if len(followed.services) > len(w.objects) || followed.table.held != anew.table.held {
				t.Fatalf("seed %d: %d names and %d services are held, want %d and at most %d", seed,
					followed.table.held, len(followed.services), anew.table.held, len(w.objects))
			}
		}
	}
}

// D-24: a change of one Service leaves the records of all others as they are, the very same ones.
func TestAChangeTouchesOnlyTheNamesItChanges(t *testing.T) {
	t.Parallel()
	x := filled(1000)
	before := map[string]*node{}
	for n := range x.table.all {
		before[n.key] = n
	}
	svc := clusterService(7)
	svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: "more", Port: 81})
	x.apply(store.Batch{Revision: 9, Events: []store.Event{{Type: store.Modified, Kind: api.Services, Object: svc}}})
	var changed []string
	for key, old := range before {
		if n := x.table.get(key); n != old {
			changed = append(changed, key)
		}
	}
	if want := []string{"s7.dev.svc.cluster.local."}; !slices.Equal(changed, want) {
		t.Errorf("changed: %q, want %q", changed, want)
	}
}

func TestReverseZonesCoverTheirRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefix string
		want   []string
		n      int
	}{
		{"10.244.0.0/16", []string{"244.10.in-addr.arpa."}, 1},
		{"10.96.0.0/12", []string{"96.10.in-addr.arpa.", "111.10.in-addr.arpa."}, 16},
		{"192.168.1.64/26", []string{"64.1.168.192.in-addr.arpa.", "127.1.168.192.in-addr.arpa."}, 64},
		{"10.1.2.3/32", []string{"3.2.1.10.in-addr.arpa."}, 1},
		{"0.0.0.0/0", []string{"in-addr.arpa."}, 1},
		{"fd00:96::/32", []string{"6.9.0.0.0.0.d.f.ip6.arpa."}, 1},
		{"fd00::/7", []string{"c.f.ip6.arpa.", "d.f.ip6.arpa."}, 2},
		{"fd00:8::/29", []string{"8.0.0.0.0.0.d.f.ip6.arpa.", "f.0.0.0.0.0.d.f.ip6.arpa."}, 8},
	} {
		got := reverseZones(mustPrefix(c.prefix))
		if len(got) != c.n {
			t.Errorf("%s: got %d zones %q, want %d", c.prefix, len(got), got, c.n)
		}
		for _, z := range c.want {
			if !slices.Contains(got, z) {
				t.Errorf("%s: %s is not in %q", c.prefix, z, got)
			}
		}
	}
}

func TestDashedAddressesReadBack(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"10.244.1.7", "fd00::7", "::1", "fd00::", "1:2:3:4:5:6:7:8", "::"} {
		a := mustAddr(text)
		label := dashed(a)
		if got, ok := undashed(label); !ok || got != a || strings.Trim(label, "-") != label {
			t.Errorf("%s becomes %q, read back as %v", text, label, got)
		}
	}
}
