package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// onFake is a Proxy over a fake kernel, with its Run's parts to call by hand.
func onFake() (*Proxy, *fake) {
	f := &fake{}
	return &Proxy{
		cfg: Config{Node: "node1", NodeAddresses: []netip.Addr{netip.MustParseAddr("172.30.0.11")}},
		log: slog.New(slog.DiscardHandler), model: newModel("node1"),
		sides: []*side{{network: testNetwork, kernel: f, flows: &noFlows{}}},
	}, f
}

func numbered(i int) *corev1.Service {
	return service(fmt.Sprintf("svc-%d", i), netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String())
}

func numberedSlice(i, endpoints int) *discoveryv1.EndpointSlice {
	name, node, port, protocol, empty := fmt.Sprintf("svc-%d", i), "node1", int32(8080), corev1.ProtocolTCP, ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &empty, Port: &port, Protocol: &protocol}},
	}
	for e := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 244+e, i>>8, i&255)}, NodeName: &node,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-%d", name, e)},
		})
	}
	return s
}

func event(typ store.EventType, obj, old api.Object) store.Event {
	return store.Event{Type: typ, Kind: api.KindOf(obj), Object: obj, Old: old}
}

// load fills a proxy with n Services of one endpoint each, which is all that a test of one change needs.
func load(t testing.TB, n int) (*Proxy, *fake) {
	t.Helper()
	p, f := onFake()
	dirty := map[types.NamespacedName]struct{}{}
	for i := range n {
		p.model.take(event(store.Added, numbered(i), nil), dirty)
		p.model.take(event(store.Added, numberedSlice(i, 1), nil), dirty)
	}
	if err := p.reconcile(false); err != nil {
		t.Fatal(err)
	}
	return p, f
}

// P-41: one change is the same number of verbs and of netlink messages, whether there are 1,000 Services or 20,000.
func TestAChangeCostsTheSameHoweverManyServicesThereAre(t *testing.T) {
	t.Parallel()
	type cost struct{ Batches, Verbs, Messages int }
	for _, n := range []int{1000, 20000} {
		p, f := load(t, n)
		steps := []struct {
			what string
			b    store.Batch
			want cost
		}{
			{"add a Service with its slice", store.Batch{Events: []store.Event{
				event(store.Added, numbered(n), nil), event(store.Added, numberedSlice(n, 5), nil),
			}}, cost{1, 18, 8}},
			{"scale it by one endpoint", store.Batch{Events: []store.Event{
				event(store.Modified, numberedSlice(n, 6), numberedSlice(n, 5)),
			}}, cost{1, 4, 7}},
			{"take one endpoint away", store.Batch{Events: []store.Event{
				event(store.Modified, numberedSlice(n, 5), numberedSlice(n, 6)),
			}}, cost{1, 4, 7}},
			{"write to it without a change for the table", store.Batch{Events: []store.Event{
				event(store.Modified, numbered(n), numbered(n)),
			}}, cost{}},
			{"delete it", store.Batch{Events: []store.Event{
				event(store.Deleted, numbered(n), numbered(n)),
			}}, cost{1, 18, 8}},
		}
		for _, s := range steps {
			batches, messages, verbs := len(f.batches), f.messages, int(p.stats.Verbs)
			if err := p.take(s.b); err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
			got := cost{len(f.batches) - batches, int(p.stats.Verbs) - verbs, f.messages - messages}
			if got != s.want {
				t.Errorf("%s at %d Services: got %+v, want %+v", s.what, n, got, s.want)
			}
		}
		if !maps.Equal(p.sides[0].planner.table(), f.table.Elements) { // too large to print
			t.Error("plan and table differ")
		}
	}
}

// P-44: a failed batch, and one that failed though the kernel took it (ENOBUFS), lead to a full comparison; it is counted, and
// the table is right in the end. A table that someone deleted comes back.
func TestAFailedBatchIsMended(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(f *fake, failing *bool){
		"refused": func(f *fake, failing *bool) {
			f.fail = func(applied bool) error {
				if *failing && !applied {
					*failing = false
					return unix.ENOMEM
				}
				return nil
			}
		},
		"ambiguous": func(f *fake, failing *bool) {
			f.fail = func(applied bool) error {
				if *failing && applied {
					*failing = false
					return unix.ENOBUFS
				}
				return nil
			}
		},
		"table deleted": func(f *fake, _ *bool) { f.table = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := store.Open(t.TempDir()+"/store", store.Options{NoSync: true})
			must(t, err)
			defer s.Close()
			p, f := onFake()
			p.cfg.Reader = s
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.run(ctx) }()
			write := func(objs ...api.Object) {
				t.Helper()
				revision, err := s.Update(ctx, func(tx *store.Tx) error {
					for _, o := range objs {
						if err := tx.Create(o); err != nil {
							return err
						}
					}
					return nil
				})
				must(t, err)
				wait, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				must(t, p.progress.Wait(wait, revision))
			}
			write(numbered(1), numberedSlice(1, 3))
			failing := true
			f.mu.Lock()
			fail(f, &failing)
			f.mu.Unlock()
			write(numbered(2), numberedSlice(2, 3))
			cancel()
			must(t, <-done)
			if d := cmp.Diff(p.sides[0].planner.table(), f.table.Elements); d != "" {
				t.Errorf("plan (-) and table (+) differ:\n%s", d)
			}
			if got := p.Stats(); got.Failures != 1 || got.Reconciles != 2 {
				t.Errorf("got %+v, want 1 failure and 2 reconciles", got)
			}
		})
	}
}

// slow is a reader whose lists wait.
type slow struct {
	store.Reader
	listed chan struct{}
}

func (s slow) List(ctx context.Context, k *api.Kind, q store.Query) (store.List, error) {
	select {
	case <-s.listed:
		return s.Reader.List(ctx, k, q)
	case <-ctx.Done():
		return store.List{}, ctx.Err()
	}
}

// P-43, P-45: nothing is written before the lists are there; a burst of writes becomes few batches, all of it applied.
func TestNothingIsWrittenBeforeTheListsAndABurstIsFewBatches(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.TempDir()+"/store", store.Options{NoSync: true})
	must(t, err)
	defer s.Close()
	p, f := onFake()
	listed := make(chan struct{})
	p.cfg.Reader = slow{s, listed}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	f.mu.Lock() // the first batch waits here, while the burst is written
	go func() { done <- p.run(ctx) }()
	write := func(i int) {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			return errors.Join(tx.Create(numbered(i)), tx.Create(numberedSlice(i, 2)))
		})
		must(t, err)
	}
	write(0)
	if len(f.batches) != 0 || f.table != nil {
		t.Errorf("%d batches were sent before the lists", len(f.batches))
	}
	close(listed)
	for i := 1; i <= 500; i++ {
		write(i)
	}
	f.mu.Unlock()
	wait, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	must(t, p.progress.Wait(wait, s.Revision()))
	cancel()
	must(t, <-done)
	if n := len(f.batches); n > 8 {
		t.Errorf("500 writes while the kernel was busy became %d batches, want a few full ones", n)
	}
	if d := cmp.Diff(p.sides[0].planner.table(), f.table.Elements); d != "" {
		t.Errorf("plan (-) and table (+) differ:\n%s", d)
	}
}

// BenchmarkPlanOneEndpointAt20000 measures one scale step through model, planner and batch building, without a kernel.
func BenchmarkPlanOneEndpointAt20000(b *testing.B) {
	p, _ := load(b, 20000)
	five, six := numberedSlice(7, 5), numberedSlice(7, 6)
	for b.Loop() {
		if err := errors.Join(p.take(store.Batch{Events: []store.Event{event(store.Modified, six, five)}}),
			p.take(store.Batch{Events: []store.Event{event(store.Modified, five, six)}})); err != nil {
			b.Fatal(err)
		}
	}
}
