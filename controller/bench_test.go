package controller

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// BenchmarkReadiness is the time from a pod's change of readiness to the slices that tell of it, with so many Services of five pods
// each in one namespace: it must not grow with their number.
func BenchmarkReadiness(b *testing.B) {
	for _, n := range []int{10, 1000, 20_000} {
		b.Run(fmt.Sprint("services=", n), func(b *testing.B) {
			s, err := store.Open(filepath.Join(b.TempDir(), "store"), store.Options{NoSync: true})
			if err != nil {
				b.Fatal(err)
			}
			ctx, stop := context.WithCancel(context.Background())
			m := New(Config{Store: s})
			ended := make(chan error)
			go func() { ended <- m.Run(ctx) }()
			revision, err := s.Update(ctx, func(tx *store.Tx) error { return fill(tx, n) })
			if err == nil {
				_, err = m.Settle(ctx, revision)
			}
			if err != nil {
				b.Fatal(err)
			}
			status := corev1.ConditionFalse
			for b.Loop() {
				revision, err := s.Update(ctx, func(tx *store.Tx) error {
					pod, err := store.Get[*corev1.Pod](tx, api.Pods, "dev", "p0-0")
					if err != nil {
						return err
					}
					pod = api.Copy(pod)
					setPodCondition(pod, corev1.PodCondition{Type: corev1.PodReady, Status: status}, time.Now())
					return tx.Update(pod)
				})
				if err == nil {
					_, err = m.Settle(ctx, revision)
				}
				if err != nil {
					b.Fatal(err)
				}
				if status == corev1.ConditionFalse {
					status = corev1.ConditionTrue
				} else {
					status = corev1.ConditionFalse
				}
			}
			stop()
			<-ended
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// fill writes n Services with five ready pods each.
func fill(tx *store.Tx, n int) error {
	all := []api.Object{namespace("dev"), node("n1")}
	for i := range n {
		app := map[string]string{"app": fmt.Sprint("a", i), "tier": "web"}
		svc := service(fmt.Sprint("s", i), app)
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
		all = append(all, svc)
		for j := range 5 {
			pod := running(fmt.Sprintf("p%d-%d", i, j), fmt.Sprintf("10.%d.%d.%d", 1+i/250, i%250, 1+j))
			pod.Labels, pod.UID = app, ""
			all = append(all, pod)
		}
	}
	for _, obj := range all {
		if err := tx.Create(obj); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkDeployment is the time to make, place and describe a thousand pods of one Deployment, to the disk.
func BenchmarkDeployment(b *testing.B) {
	for b.Loop() {
		s, err := store.Open(filepath.Join(b.TempDir(), "store"), store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		m := New(Config{Store: s})
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		d := deployment("big", 1000)
		d.CreationTimestamp = metav1.Time{}
		revision, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, obj := range []api.Object{namespace("dev"), node("n1"), node("n2"), service("big", map[string]string{"app": "big"}), d} {
				if err := tx.Create(obj); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			_, err = m.Settle(ctx, revision)
		}
		if err != nil {
			b.Fatal(err)
		}
		stop()
		<-ended
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStartOver is what the controllers do when they start in a store that has nothing for them to do: 20,000 Services of five
// pods each.
func BenchmarkStartOver(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "store"), store.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Update(b.Context(), func(tx *store.Tx) error { return fill(tx, 20_000) }); err != nil {
		b.Fatal(err)
	}
	startOver := func() {
		e := newEngine(New(Config{Store: s}).o)
		events, err := e.everything(b.Context())
		for first := true; err == nil && (first || !e.idle()); first = false {
			_, err = e.finish(b.Context(), events)
			events = nil
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	startOver() // writes the slices
	for b.Loop() {
		startOver()
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
