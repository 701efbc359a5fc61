package controller

import (
	"errors"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// turn is one transaction of the engine. Controllers read and write through it; what they write is shown to all of them at once.
type turn struct {
	engine *engine
	tx     *store.Tx
	now    time.Time
	by     controller // whose work is being done; nil while events from outside are shown
}

// errTerminating says that a namespace is on its way out or gone, and takes nothing new.
var errTerminating = errors.New("the namespace is being terminated")

// show tells every controller of an event.
func (t *turn) show(ev store.Event) {
	t.engine.barred.touched(t, ev)
	for _, c := range t.engine.controllers {
		c.touched(t, ev)
	}
}

// work does the first piece of work among controllers; false when there is none.
func (t *turn) work(among []controller) bool {
	for _, c := range among {
		name, ok := t.engine.queues[c].take()
		if !ok {
			continue
		}
		t.by = c
		if err := c.reconcile(t, name); err != nil && !errors.Is(err, errTerminating) {
			t.engine.o.Log.Warn("a controller's work failed and will be tried again", "work", name, "cause", err)
			t.engine.alarms.set(alarm{at: t.now.Add(retryWork), controller: c, name: name})
		}
		t.by = nil
		return true
	}
	return false
}

// todo files work.
func (t *turn) todo(c controller, name string) { t.engine.queues[c].add(name) }

// later files work for a time to come.
func (t *turn) later(c controller, name string, at time.Time) {
	t.engine.alarms.set(alarm{at: at, controller: c, name: name})
}

// find returns an object of its own type; false when there is none.
func find[T api.Object](t *turn, kind *api.Kind, namespace, name string) (T, bool) {
	t.engine.reads++
	obj, err := store.Get[T](t.tx, kind, namespace, name)
	return obj, err == nil
}

// query lists objects of their own type.
func query[T api.Object](t *turn, kind *api.Kind, q store.Query) []T {
	found := t.tx.List(kind, q)
	t.engine.reads += len(found)
	return store.All[T](found)
}

// owned lists the objects of a kind that name owner as their controller.
func owned[T api.Object](t *turn, kind *api.Kind, owner api.Object) []T {
	var items []T
	for _, obj := range query[T](t, kind, store.Query{Index: api.IndexOwner, Value: string(owner.GetUID())}) {
		if metav1.IsControlledBy(obj, owner) {
			items = append(items, obj)
		}
	}
	return items
}

// create writes a new object. Besides the store's errors: errTerminating.
func (t *turn) create(obj api.Object) error {
	k := api.KindOf(obj)
	if k.Namespaced {
		ns, ok := find[*corev1.Namespace](t, api.Namespaces, "", obj.GetNamespace())
		if !ok || ns.DeletionTimestamp != nil {
			return errTerminating
		}
	}
	if err := t.admit(obj); err != nil {
		return err
	}
	if err := t.tx.Create(obj); err != nil {
		return err
	}
	t.show(store.Event{Type: store.Added, Kind: k, Object: obj, Revision: t.tx.Revision()})
	return nil
}

// update writes a changed copy of an object.
func (t *turn) update(obj api.Object) error {
	return t.write(obj, func(k *api.Kind) error { return t.tx.Update(obj) })
}

// delete begins an object's end; one that is gone already is no error.
func (t *turn) delete(obj api.Object, o store.DeleteOptions) error {
	o.UID = obj.GetUID()
	return t.write(obj, func(k *api.Kind) error {
		return ignoreNotFound(t.tx.Delete(k, obj.GetNamespace(), obj.GetName(), o))
	})
}

// remove takes an object out for good.
func (t *turn) remove(obj api.Object) error {
	return t.write(obj, func(k *api.Kind) error { return ignoreNotFound(t.tx.Remove(obj)) })
}

// write does fn to an object and shows what came of it.
func (t *turn) write(obj api.Object, fn func(*api.Kind) error) error {
	k := api.KindOf(obj)
	before, err := t.tx.Get(k, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return ignoreNotFound(err)
	}
	revision := t.tx.Revision()
	if err := fn(k); err != nil {
		return err
	}
	if t.tx.Revision() == revision {
		return nil
	}
	ev := store.Event{Type: store.Modified, Kind: k, Old: before, Revision: t.tx.Revision()}
	if ev.Object, err = t.tx.Get(k, obj.GetNamespace(), obj.GetName()); err != nil {
		ev.Type, ev.Object = store.Deleted, before
	}
	t.show(ev)
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// split is api.Name backwards.
func split(name string) (namespace, plain string) {
	if namespace, plain, ok := strings.Cut(name, "/"); ok {
		return namespace, plain
	}
	return "", name
}

// states are the object before and after an event, without the nils.
func states[T api.Object](ev store.Event) []T {
	var both []T
	for _, obj := range []api.Object{ev.Old, ev.Object} {
		if o, ok := obj.(T); ok {
			both = append(both, o)
		}
	}
	return both
}
