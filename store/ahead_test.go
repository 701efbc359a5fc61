package store_test

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// issue 4: what is on its way to the disk can be acted upon; only those who asked for it see it.
func TestAheadOfTheDiskAWriteIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	committing, proceed := make(chan bool, 1), make(chan error)
	s, _ := open(t, store.Options{BeforeCommit: func() error { committing <- true; return <-proceed }})
	ahead := store.Follow(s.Ahead(), api.ConfigMaps)
	defer ahead.Close()
	if got := briefly(t, ahead); got != "fresh at 0" {
		t.Errorf("got %q", got)
	}
	written := make(chan error, 1)
	go func() {
		_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(configMap("a", "1")) })
		written <- err
	}()
	if got := briefly(t, ahead); got != "ADDED a, at 1" {
		t.Errorf("got %q", got)
	}
	<-committing
	if len(names(t, s, api.ConfigMaps, store.Query{})) != 0 || s.Revision() != 0 || s.Ahead().Revision() != 1 {
		t.Errorf("it is read before it is durable: revision %d, ahead %d", s.Revision(), s.Ahead().Revision())
	}
	select {
	case err := <-written:
		t.Errorf("it is acknowledged before it is durable: %v", err)
	default:
	}
	proceed <- nil
	if err := <-written; err != nil || s.Revision() != 1 {
		t.Errorf("revision %d, %v", s.Revision(), err)
	}
}

// when the disk fails, those who have read ahead hear that it is undone, and never of other writes under the same revisions.
func TestAheadOfTheDiskAFailedWriteIsUndone(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	var outcome error
	s, _ := open(t, store.Options{BeforeCommit: func() error { return outcome }})
	put(t, s, configMap("a", "1"))
	ahead := store.Follow(s.Ahead(), api.ConfigMaps)
	defer ahead.Close()
	if got := briefly(t, ahead); got != "fresh ADDED a, at 1" {
		t.Errorf("got %q", got)
	}
	outcome = full
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(configMap("b", "1")) }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if got := briefly(t, ahead); got != "fresh ADDED a, at 3" {
		t.Errorf("got %q", got)
	}
	outcome = nil
	rev, err := s.Update(t.Context(), func(*store.Tx) error { return nil })
	if err != nil || rev != 1 {
		t.Errorf("who writes nothing gets revision %d, %v, and could wait for it for ever", rev, err)
	}
	put(t, s, configMap("c", "1"))
	if got := briefly(t, ahead); got != "ADDED c, at 4" || s.Revision() != 4 {
		t.Errorf("got %q, revision %d", got, s.Revision())
	}
}

// issue 4, memory: a pod's versions have one spec between them until it changes.
func TestVersionsOfAPodShareTheSpecThatStays(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	read := func() *corev1.Pod {
		p, err := store.Get[*corev1.Pod](s, api.Pods, "default", "a")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	change := func(fn func(*corev1.Pod)) *corev1.Pod {
		p := api.Copy(read())
		fn(p)
		put(t, s, p)
		return read()
	}
	put(t, s, pod("a", "n1"))
	first := change(func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{{Name: "c", Image: "web:1"}} })
	second := change(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
	if &first.Spec.Containers[0] != &second.Spec.Containers[0] || second.Status.Phase != corev1.PodRunning || first.Status.Phase == second.Status.Phase {
		t.Errorf("a change of the status made another spec: %+v", second.Status)
	}
	third := change(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "web:2" })
	if second.Spec.Containers[0].Image != "web:1" || third.Spec.Containers[0].Image != "web:2" {
		t.Errorf("a change of the spec: got %s and %s", second.Spec.Containers[0].Image, third.Spec.Containers[0].Image)
	}
}
