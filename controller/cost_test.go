package controller

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// bare is a store and an engine without the goroutines, so that what a change costs can be counted.
type bare struct {
	t      *testing.T
	store  *store.Store
	engine *engine
}

// newBare fills a store with n Services of five ready pods each, and lets the controllers answer it.
func newBare(t *testing.T, n int) *bare {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bare{t: t, store: s, engine: newEngine(New(Config{Store: s}).o)}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return fill(tx, n) }); err != nil {
		t.Fatal(err)
	}
	events, err := b.engine.everything(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.answer(t.Context(), events)
	return b
}

// answer lets the controllers do all that follows from events.
func (b *bare) answer(ctx context.Context, events []store.Event) {
	b.t.Helper()
	for first := true; first || !b.engine.idle(); first = false {
		if _, err := b.engine.finish(ctx, events); err != nil {
			b.t.Fatal(err)
		}
		events = nil
	}
}

// cost makes a change and lets the controllers answer it: the objects that they read, and the revisions that they wrote.
func (b *bare) cost(change func(*store.Tx) error) (reads, writes int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	before := b.store.Revision()
	w, err := b.store.Watch(ctx, before)
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Close()
	revision, err := b.store.Update(ctx, change)
	if err != nil {
		b.t.Fatal(err)
	}
	read := b.engine.reads
	for seen := before; seen < revision; {
		batch, err := w.Next(ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		b.answer(ctx, batch.Events)
		seen = batch.Revision
	}
	return b.engine.reads - read, int(b.store.Revision() - revision)
}

// E-4, issue 5: a change costs what it changes, however many Services there are.
func TestAChangeCostsTheSameAmongManyServices(t *testing.T) {
	t.Parallel()
	costs := func(n int) map[string]string {
		b := newBare(t, n)
		all := map[string]string{}
		count := func(what string, change func(*store.Tx) error) {
			reads, writes := b.cost(change)
			all[what] = fmt.Sprintf("%d objects read, %d writes", reads, writes)
		}
		pod := func(name string, edit func(*corev1.Pod)) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				p, err := store.Get[*corev1.Pod](tx, api.Pods, "dev", name)
				if err != nil {
					return err
				}
				p = api.Copy(p)
				edit(p)
				return tx.Update(p)
			}
		}
		ready := func(s corev1.ConditionStatus) func(*corev1.Pod) {
			return func(p *corev1.Pod) {
				setPodCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: s}, time.Now())
			}
		}
		count("a pod is ready no more", pod("p3-1", ready(corev1.ConditionFalse)))
		count("a pod is ready", pod("p3-1", ready(corev1.ConditionTrue)))
		count("a Service comes", func(tx *store.Tx) error {
			svc := service("new", map[string]string{"app": "a7", "tier": "web"})
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
			return tx.Create(svc)
		})
		count("a Service goes", func(tx *store.Tx) error { return tx.Delete(api.Services, "dev", "new", store.DeleteOptions{}) })
		count("a pod comes", func(tx *store.Tx) error {
			p := running("more", "10.99.0.1")
			p.UID, p.Spec.NodeName, p.Labels = "", "", map[string]string{"app": "a5", "tier": "web"}
			return tx.Create(p)
		})
		count("a pod goes", func(tx *store.Tx) error {
			now := int64(0)
			return tx.Delete(api.Pods, "dev", "more", store.DeleteOptions{GracePeriodSeconds: &now})
		})
		count("a Deployment comes", func(tx *store.Tx) error {
			d := deployment("web", 3)
			d.CreationTimestamp = metav1.Time{}
			return tx.Create(d)
		})
		return all
	}
	few, many := costs(50), costs(1500)
	if d := cmp.Diff(few, many); d != "" {
		t.Errorf("costs among 50 Services and among 1,500 (-50 +1,500):\n%s", d)
	}
	t.Logf("costs: %v", many)
}
