package controller

import (
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// namespaces ends what is in a namespace that was deleted, and then the namespace.
type namespaces struct{}

func (c *namespaces) touched(t *turn, ev store.Event) {
	switch {
	case ev.Kind == api.Namespaces:
		if ev.Type == store.Deleted || ev.Object.GetDeletionTimestamp() != nil {
			t.todo(c, ev.Object.GetName())
		}
	case ev.Type == store.Deleted && ev.Kind.Namespaced:
		// Perhaps it was the last that the namespace waited for.
		if ns, ok := find[*corev1.Namespace](t, api.Namespaces, "", ev.Object.GetNamespace()); ok && ns.DeletionTimestamp != nil {
			t.todo(c, ns.Name)
		}
	}
}

func (c *namespaces) reconcile(t *turn, name string) error {
	ns, exists := find[*corev1.Namespace](t, api.Namespaces, "", name)
	if exists && ns.DeletionTimestamp == nil {
		return nil // made anew under the same name
	}
	left := 0
	for _, k := range api.Kinds {
		if !k.Namespaced {
			continue
		}
		for _, obj := range t.tx.List(k, store.Query{Namespace: name}) {
			if obj.GetDeletionTimestamp() == nil {
				if err := t.delete(obj, store.DeleteOptions{}); err != nil {
					return err
				}
			}
		}
		left += len(t.tx.List(k, store.Query{Namespace: name}))
	}
	if !exists || left > 0 {
		return nil
	}
	done := api.Copy(ns)
	done.Spec.Finalizers = nil
	return t.update(done)
}
