package proxy

import (
	"errors"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/store"
)

// onLinux is onFake over the kernel of a fresh namespace, with n Services of five endpoints each in its model.
func onLinux(b *testing.B, n int) *Proxy {
	b.Helper()
	ns := newNS(b)
	p, _ := onFake()
	p.sides[0].kernel = openTestKernel(b, ns)
	dirty := map[types.NamespacedName]struct{}{}
	for i := range n {
		p.model.take(event(store.Added, numbered(i), nil), dirty)
		p.model.take(event(store.Added, numberedSlice(i, 5), nil), dirty)
	}
	return p
}

// BenchmarkScale is one endpoint more or less, from the event to the kernel's commit.
func BenchmarkScale(b *testing.B) {
	for _, n := range []int{1000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := onLinux(b, n)
			must(b, p.reconcile(false))
			five, six := numberedSlice(7, 5), numberedSlice(7, 6)
			for b.Loop() {
				must(b, errors.Join(p.take(store.Batch{Events: []store.Event{event(store.Modified, six, five)}}),
					p.take(store.Batch{Events: []store.Event{event(store.Modified, five, six)}})))
			}
		})
	}
}

// BenchmarkAdd is a Service with its slice added, and deleted again, from the event to the kernel's commit.
func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := onLinux(b, n)
			must(b, p.reconcile(false))
			svc, sl := numbered(n), numberedSlice(n, 5)
			for b.Loop() {
				must(b, errors.Join(
					p.take(store.Batch{Events: []store.Event{event(store.Added, svc, nil), event(store.Added, sl, nil)}}),
					p.take(store.Batch{Events: []store.Event{event(store.Deleted, svc, svc), event(store.Deleted, sl, sl)}})))
			}
		})
	}
}

// BenchmarkStart is a start with no table, then one that finds all in place and reads it back.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{0, 1000, 20000} {
		var p *Proxy
		b.Run(fmt.Sprintf("cold/%d", n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				p = onLinux(b, n)
				b.StartTimer()
				must(b, p.reconcile(false))
			}
		})
		p = onLinux(b, n)
		must(b, p.reconcile(false))
		b.Run(fmt.Sprintf("warm/%d", n), func(b *testing.B) {
			for b.Loop() {
				must(b, p.reconcile(false))
			}
		})
	}
}
