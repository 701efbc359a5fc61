package store

import "kubarium.dev/api"

// getter is a Store or a Tx.
type getter interface {
	Get(kind *api.Kind, namespace, name string) (api.Object, error)
}

// Get returns one object as its own type: store.Get[*corev1.Pod](s, api.Pods, "default", "web").
func Get[T api.Object](from getter, kind *api.Kind, namespace, name string) (T, error) {
	obj, err := from.Get(kind, namespace, name)
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

// All gives a list's items their own type.
func All[T api.Object](items []api.Object) []T {
	out := make([]T, len(items))
	for i, obj := range items {
		out[i] = obj.(T)
	}
	return out
}
