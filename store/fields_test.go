package store_test

import (
	"fmt"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Objects with equal records of owned fields hold one between them, before and after a restart; the writer's own stays his.
func TestEqualRecordsOfOwnedFieldsAreHeldOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := store.Open(path, store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: fmt.Sprint(i), ManagedFields: []metav1.ManagedFieldsEntry{{
			Manager: "m", FieldsV1: &metav1.FieldsV1{Raw: fmt.Appendf(nil, `{"f:data":{"f:k%d":{}}}`, i/2)},
		}}}}
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(m) }); err != nil {
			t.Fatal(err)
		}
		m.ManagedFields[0].FieldsV1.Raw[2] = 'X'
	}
	check := func() {
		t.Helper()
		var held [3]*metav1.FieldsV1
		for i := range held {
			m, err := store.Get[*corev1.ConfigMap](s, api.ConfigMaps, "dev", fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			held[i] = m.ManagedFields[0].FieldsV1
			if want := fmt.Sprintf(`{"f:data":{"f:k%d":{}}}`, i/2); string(held[i].Raw) != want {
				t.Errorf("got %s, want %s", held[i].Raw, want)
			}
		}
		if held[0] != held[1] || held[1] == held[2] {
			t.Errorf("held %p %p %p", held[0], held[1], held[2])
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(path, store.Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check()
}
