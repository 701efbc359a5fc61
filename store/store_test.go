package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func open(t testing.TB, o store.Options) (*store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.db")
	s, err := store.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"v": value}}
}

func put(t *testing.T, s *store.Store, obj api.Object) uint64 {
	t.Helper()
	rev, err := s.Update(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Get(api.KindOf(obj), obj.GetNamespace(), obj.GetName()); err == nil {
			return tx.Update(obj)
		}
		return tx.Create(obj)
	})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestAFailedUpdateLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	before := s.Revision()
	boom := errors.New("boom")
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.Create(configMap("a", "1")); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v, want the function's own error", err)
	}
	if _, err := s.Get(api.ConfigMaps, "default", "a"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	if s.Revision() != before {
		t.Errorf("the revision moved from %d to %d", before, s.Revision())
	}
}

//
func TestAStaleResourceVersionIsAConflictInKubernetesWords(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	first := configMap("a", "1")
	put(t, s, first)
	put(t, s, configMap("a", "2"))
	_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Update(first) })
	want := `Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

//
func TestAFailingDiskLosesNothingAcknowledgedAndTheStoreGoesOn(t *testing.T) {
	t.Parallel()
	var full error
	s, path := open(t, store.Options{BeforeCommit: func() error { return full }})
	put(t, s, configMap("kept", "1"))
	full = errors.New("no space left on device")
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(configMap("lost", "1")) }); !errors.Is(err, full) {
		t.Fatalf("got %v, want the disk's error", err)
	}
	if _, err := s.Get(api.ConfigMaps, "default", "lost"); !apierrors.IsNotFound(err) {
		t.Errorf("a refused write can be read: %v", err)
	}
	full = nil
	put(t, s, configMap("after", "1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, want := range map[string]bool{"kept": true, "lost": false, "after": true} {
		if _, err := s.Get(api.ConfigMaps, "default", name); (err == nil) != want {
			t.Errorf("%s after reopening: %v, want present: %t", name, err, want)
		}
	}
}

func TestASecondOpenerGetsAClearError(t *testing.T) {
	t.Parallel()
	_, path := open(t, store.Options{})
	_, err := store.Open(path, store.Options{})
	if err == nil || err.Error() != "open store "+path+": it is in use by another process" {
		t.Errorf("got %v", err)
	}
}

//
func TestFinalizersAndGraceHoldADeletedObject(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	cm := configMap("a", "1")
	cm.Finalizers = []string{"example.com/hold"}
	put(t, s, cm)
	remove := func(k *api.Kind, name string) {
		t.Helper()
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Delete(k, "default", name, store.DeleteOptions{}) }); err != nil {
			t.Fatal(err)
		}
	}
	remove(api.ConfigMaps, "a")
	got, err := store.Get[*corev1.ConfigMap](s, api.ConfigMaps, "default", "a")
	if err != nil || got.DeletionTimestamp == nil {
		t.Fatalf("got %v %v, want it marked", got, err)
	}
	freed := api.Copy(got)
	freed.Finalizers = nil
	put(t, s, freed)
	if _, err := s.Get(api.ConfigMaps, "default", "a"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone with its last finalizer", err)
	}

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n1"}}
	put(t, s, pod)
	remove(api.Pods, "p")
	p, err := store.Get[*corev1.Pod](s, api.Pods, "default", "p")
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("got %v %v, want it marked with 30 s", p, err)
	}
	rev := s.Revision()
	remove(api.Pods, "p")
	if s.Revision() != rev {
		t.Errorf("deleting it again wrote revision %d", s.Revision())
	}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Remove(p) }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(api.Pods, "default", "p"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone", err)
	}
}

func TestIndexesFollowTheObjects(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	on := func(node string) []string {
		l, err := s.List(t.Context(), api.Pods, store.Query{Index: api.IndexNode, Value: node})
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, p := range l.Items {
			names = append(names, p.GetName())
		}
		return names
	}
	put(t, s, pod("a", "n1"))
	put(t, s, pod("b", "n1"))
	put(t, s, pod("c", "n10"))
	put(t, s, pod("b", "n2"))
	for node, want := range map[string][]string{"n1": {"a"}, "n2": {"b"}, "n10": {"c"}, "n3": {}} {
		if diff := cmp.Diff(want, on(node)); diff != "" {
			t.Errorf("pods on %s (-want +got):\n%s", node, diff)
		}
	}
}

//
func TestAWatchOlderThanTheHistoryIsGone(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{History: 4, NoSync: true})
	for i := range 10 {
		put(t, s, configMap("a", fmt.Sprint(i)))
	}
	if _, err := s.Watch(t.Context(), 2, api.ConfigMaps); !apierrors.IsResourceExpired(err) {
		t.Errorf("got %v, want it gone", err)
	}
	w, err := s.Watch(t.Context(), 6, api.ConfigMaps)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b, err := w.Next(t.Context())
	if err != nil || len(b.Events) != 4 || b.Events[0].Revision != 7 {
		t.Errorf("got %+v %v, want revisions 7 to 10", b, err)
	}
}

// many writers, watchers that disconnect and resume at random; each one's picture equals the history.
func TestWatchersThatResumeAtRandomSeeTheWholeHistory(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{History: 100000, NoSync: true})
	const writers, writes, watchers = 8, 200, 6
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writing, watching sync.WaitGroup
	histories := make([][]uint64, watchers)
	final := make(chan uint64, watchers)
	for i := range watchers {
		watching.Go(func() { histories[i] = follow(ctx, t, s, final) })
	}
	for i := range writers {
		writing.Go(func() {
			for j := range writes {
				name := fmt.Sprintf("w%d-%d", i, j%7)
				s.Update(ctx, func(tx *store.Tx) error {
					if _, err := tx.Get(api.ConfigMaps, "default", name); err != nil {
						return tx.Create(configMap(name, "x"))
					}
					if j%3 == 0 {
						return tx.Delete(api.ConfigMaps, "default", name, store.DeleteOptions{})
					}
					return tx.Update(configMap(name, fmt.Sprint(j)))
				})
			}
		})
	}
	writing.Wait()
	last := s.Revision()
	for range watchers {
		final <- last
	}
	put(t, s, configMap("end", "end"))
	watching.Wait()
	want := make([]uint64, 0, last)
	for r := uint64(1); r <= last; r++ {
		want = append(want, r)
	}
	for i, h := range histories {
		if diff := cmp.Diff(want, h[:min(len(h), len(want))]); diff != "" {
			t.Errorf("watcher %d missed or reordered events (-want +got):\n%s", i, diff)
		}
	}
}

// follow collects revisions, closing its watch and opening another at random, until the configmap "end" is seen.
func follow(ctx context.Context, t *testing.T, s *store.Store, final <-chan uint64) []uint64 {
	var seen []uint64
	at := uint64(0)
	for {
		w, err := s.Watch(ctx, at)
		if err != nil {
			t.Error(err)
			return seen
		}
		for rand.IntN(5) > 0 {
			b, err := w.Next(ctx)
			if err != nil {
				t.Error(err)
				return seen
			}
			for _, e := range b.Events {
				seen = append(seen, e.Revision)
				if e.Object.GetName() == "end" {
					<-final
					w.Close()
					return seen
				}
			}
			at = b.Revision
		}
		w.Close()
	}
}
