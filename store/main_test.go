package store_test

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// TestMain is also the program the durability tests run as a child.
func TestMain(m *testing.M) {
	switch path := os.Getenv("STORE_TEST_FILE"); os.Getenv("STORE_TEST_CHILD") {
	case "writer":
		os.Exit(childWriter(path))
	case "limit":
		os.Exit(childFullDisk(path, limited))
	case "tmpfs":
		os.Exit(childOnTmpfs(path))
	}
	os.Exit(m.Run())
}

// open makes a store that is checked and closed when the test ends.
func open(t testing.TB, o store.Options) (*store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.db")
	return reopen(t, path, o), path
}

func reopen(t testing.TB, path string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Check(s); err != nil {
			t.Errorf("after the test: %v", err)
		}
		s.Close()
	})
	return s
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"v": value}}
}

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
}

// update runs fn and expects it to succeed.
func update(t testing.TB, s *store.Store, fn func(*store.Tx) error) uint64 {
	t.Helper()
	rev, err := s.Update(t.Context(), fn)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// put creates an object, or updates it.
func put(t testing.TB, s *store.Store, obj api.Object) uint64 {
	t.Helper()
	return update(t, s, func(tx *store.Tx) error {
		if _, err := tx.Get(api.KindOf(obj), obj.GetNamespace(), obj.GetName()); err == nil {
			return tx.Update(obj)
		}
		return tx.Create(obj)
	})
}

func remove(t testing.TB, s *store.Store, k *api.Kind, name string, o store.DeleteOptions) uint64 {
	t.Helper()
	return update(t, s, func(tx *store.Tx) error { return tx.Delete(k, namespaceOf(k), name, o) })
}

func namespaceOf(k *api.Kind) string {
	if k.Namespaced {
		return "default"
	}
	return ""
}

// names lists the names of what a query selects.
func names(t testing.TB, s *store.Store, k *api.Kind, q store.Query) []string {
	t.Helper()
	l, err := s.List(t.Context(), k, q)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, obj := range l.Items {
		out = append(out, obj.GetName())
	}
	return out
}
