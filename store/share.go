package store

import (
	"bytes"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// shareSpec puts the spec of the version before in the place of a pod's own, when they are the same bytes: a pod is written several
// times on its way to being ready, mostly its status, and its spec is half of it. obj must not have been shown to anybody yet.
func shareSpec(obj, old api.Object) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || old == nil {
		return
	}
	before := old.(*corev1.Pod)
	mine, err := pod.Spec.Marshal()
	if err != nil {
		return
	}
	if its, err := before.Spec.Marshal(); err == nil && bytes.Equal(mine, its) {
		pod.Spec = before.Spec
	}
}

// maxFieldSets bounds how many different records are shared: objects made alike have the same, so that a few hundred are many.
const maxFieldSets = 4096

// fieldSets holds the records of owned fields (metadata.managedFields), so that objects with equal ones share it in memory: it is
// often half of an object. Whoever holds the store's write lock, or loads the file, may use it.
type fieldSets map[string]*metav1.FieldsV1

// share puts the held records in the place of obj's own. obj must not have been shown to anybody yet.
func (f fieldSets) share(obj api.Object) {
	entries := obj.GetManagedFields()
	for i := range entries {
		own := entries[i].FieldsV1
		if own == nil {
			continue
		}
		held, ok := f[string(own.Raw)]
		if !ok {
			if len(f) >= maxFieldSets {
				clear(f)
			}
			held = own
			f[string(own.Raw)] = own
		}
		entries[i].FieldsV1 = held
	}
}
