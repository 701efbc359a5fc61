package proxy

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"kubarium.dev/store"
)

// a proxy acts upon what is on its way to the disk; what the disk then refuses is undone in the kernel too.
func TestWhatTheDiskRefusesIsUndone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, client := r.pod(1), r.pod(2)
	web, other := service("web", "10.96.0.20"), service("other", "10.96.0.21")
	r.put(web, slice("web", ready(a)))
	r.full.Store(true)
	for what, write := range map[string]func(tx *store.Tx) error{
		"an endpoint goes": func(tx *store.Tx) error { return tx.Remove(slice("web", ready(a))) },
		"a Service goes":   func(tx *store.Tx) error { return tx.Remove(web) },
		"a Service comes": func(tx *store.Tx) error {
			return errors.Join(tx.Create(service("other", "10.96.0.21")), tx.Create(slice("other", ready(a))))
		},
	} {
		if _, err := r.store.Update(context.Background(), write); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	r.full.Store(false)
	r.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "room-again"}})
	only(t, "the Service that stayed", r.spread(client.ns, "tcp", "10.96.0.20:80", 5), "pod-1-1:8080")
	r.dropped(client.ns, "tcp", "10.96.0.21:80")
	r.put(other, slice("other", ready(a)))
	only(t, "the Service that came", r.spread(client.ns, "tcp", "10.96.0.21:80", 5), "pod-1-1:8080")
}
