package ingress

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// dump is all that a table answers with, in words.
func (t *Table) dump() []string {
	all := []string{}
	for _, part := range t.parts {
		for key, v := range part {
			for _, in := range []*paths{v.rules, v.defaults} {
				for i, r := range in.inOrder() {
					line := fmt.Sprint(hostOf(key), in == v.defaults, i, r.Ingress, r.Field, r.Match.Kind, r.Match.Path, r.Match.condition(), " size ", r.size)
					for _, b := range r.Backends {
						line += fmt.Sprint(" ", b, b.Weight)
					}
					all = append(all, line)
				}
			}
			if v.cert != nil {
				all = append(all, hostOf(key)+" has certificate "+strings.Join(v.cert.Leaf.DNSNames, ","))
			}
		}
	}
	slices.Sort(all)
	return all
}

// world is what a random history has made.
type world struct {
	draw    *rand.Rand
	objects map[string]api.Object
	secrets []*corev1.Secret
}

// next is a random change: Ingresses with hosts and aliases that meet, canaries before and after their main ones, certificates,
// classes, Services and Secrets that come and go.
func (w *world) next() store.Event {
	pick := func(of ...string) string { return of[w.draw.IntN(len(of))] }
	var obj api.Object
	switch w.draw.IntN(10) {
	case 0:
		obj = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: pick("s1", "s2")}, Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{{Name: "http", Port: int32(80 + w.draw.IntN(2))}},
		}}
	case 1:
		obj = api.Copy(w.secrets[w.draw.IntN(len(w.secrets))])
	case 2:
		obj = &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "sometimes"}, Spec: networkingv1.IngressClassSpec{
			Controller: pick(ControllerName, "another/one"),
		}}
	default:
		n := w.draw.IntN(8)
		var lines []string
		for range 1 + w.draw.IntN(3) {
			lines = append(lines, pick("a.x", "b.x", "*.x", "-")+" "+pick("Prefix", "Exact")+" "+pick("/", "/p", "/p/")+" "+pick("s1", "s2", "s1:http"))
		}
		ing := ingress(fmt.Sprint("i", n), n%3, lines...)
		switch w.draw.IntN(5) {
		case 0:
			annotate(ing, "canary", "true", "canary-weight", "30", "canary-by-header", "h")
		case 1:
			annotate(ing, "server-alias", pick("a.x", "c.x"))
		case 2:
			ing.Spec.DefaultBackend = toService("s2")
		case 3:
			ing.Spec.IngressClassName = new("sometimes")
		}
		if w.draw.IntN(3) == 0 {
			ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{pick("a.x", "b.x", "*.x")}, SecretName: pick("c0", "c1")}, {SecretName: "c1"}}
		}
		obj = ing
	}
	e := store.Event{Type: store.Modified, Kind: api.KindOf(obj), Object: obj}
	key := e.Kind.Kind + "/" + api.Name(obj)
	if w.draw.IntN(4) == 0 {
		e.Type = store.Deleted
		delete(w.objects, key)
	} else {
		w.objects[key] = obj
	}
	return e
}

// I-26, I-31, I-43, I-46, I-52: after every change the hosts that were built again, beside those that were not, answer as a table made of
// everything at once does: by Compile over the HTTPRoute-shaped Routes, and by a model that sees everything for the first time.
func TestTheTableAfterEachChangeIsTheTableMadeAtOnce(t *testing.T) {
	t.Parallel()
	w := &world{objects: map[string]api.Object{}}
	for i := range 2 {
		s, _ := secretFor(t, fmt.Sprint("c", i), fmt.Sprintf("c%d.x", i))
		w.secrets = append(w.secrets, s)
	}
	for seed := range uint64(16) {
		w.draw = rand.New(rand.NewPCG(seed, 3))
		clear(w.objects)
		grown := newModel(New(Config{ServeClassless: true}))
		for step := range 60 {
			grown.take(w.next())
			if w.draw.IntN(3) == 0 {
				grown.take(w.next()) // several changes may come in one batch
			}
			grown.settle()
			fresh := newModel(New(Config{ServeClassless: true}))
			for _, obj := range w.objects {
				fresh.take(store.Event{Type: store.Added, Kind: api.KindOf(obj), Object: obj})
			}
			fresh.settle()
			var served []*networkingv1.Ingress
			for name, c := range fresh.compiled {
				served = append(served, c.ingress)
				if got, want := said(c.ingress, grown.problems(name)), said(c.ingress, fresh.problems(name)); got != want {
					t.Errorf("seed %d, step %d: %s\ngot  %s\nwant %s", seed, step, name, got, want)
				}
			}
			routes, _ := Compile(served, Sources{Secret: fresh.secret})
			sameTables(t, "one that is new", grown.table.dump(), fresh.table.dump())
			withoutCerts := func(line string) bool { return strings.Contains(line, " has certificate ") }
			sameTables(t, "Compile's", slices.DeleteFunc(grown.table.dump(), withoutCerts), NewTable(routes).dump())
			if a, b := len(grown.live), len(fresh.live); a != b || len(grown.byName) != len(fresh.byName) || len(grown.users) != len(fresh.users) {
				t.Errorf("%d services live, %d are led to: %v", a, b, slices.Collect(maps.Keys(grown.live)))
			}
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
	}
}

func sameTables(t *testing.T, what string, got, want []string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the table differs from %s (-want +got):\n%s", what, d)
	}
}

// Issue 6: a change of one host leaves the others' as they stand, to the very same objects.
func TestAChangeBuildsOnlyTheHostsThatItTouches(t *testing.T) {
	t.Parallel()
	m := newModel(New(Config{ServeClassless: true}))
	take := func(obj api.Object) {
		m.take(store.Event{Type: store.Modified, Kind: api.KindOf(obj), Object: obj})
		m.settle()
	}
	for i := range 1000 {
		take(ingress(fmt.Sprint("web-", i), 0, fmt.Sprintf("h%d.example Prefix / web", i)))
	}
	before := m.table
	take(ingress("web-7", 0, "h7.example Prefix /new web", "h8.example Prefix /more web"))
	var touched []string
	for i := range 1000 {
		if key := fmt.Sprintf("h%d.example", i); m.table.get(key) != before.get(key) {
			touched = append(touched, key)
		}
	}
	if want := []string{"h7.example", "h8.example"}; !slices.Equal(touched, want) {
		t.Errorf("built again: %q, want %q", touched, want)
	}
}
