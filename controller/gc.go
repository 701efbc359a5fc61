package controller

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// collector deletes objects whose owners are all gone, and ends objects that were deleted in the foreground or with orphans.
//
// Work is named "kind|namespace/name" for an object to be judged, and "owner|uid" for an owner that is gone.
type collector struct{}

const goneOwner = "owner"

func judge(obj api.Object) string { return api.KindOf(obj).String() + "|" + api.Name(obj) }

func (c *collector) touched(t *turn, ev store.Event) {
	obj := ev.Object
	if ev.Type == store.Deleted {
		t.todo(c, goneOwner+"|"+string(obj.GetUID()))
		c.wakeOwners(t, obj)
		return
	}
	if obj.GetDeletionTimestamp() != nil && propagates(obj) {
		t.todo(c, judge(obj))
	}
	if len(obj.GetOwnerReferences()) > 0 && (ev.Old == nil || !slices.EqualFunc(ev.Old.GetOwnerReferences(), obj.GetOwnerReferences(), sameOwner)) {
		t.todo(c, judge(obj))
	}
}

func sameOwner(a, b metav1.OwnerReference) bool { return a.UID == b.UID }

func propagates(obj api.Object) bool {
	f := obj.GetFinalizers()
	return slices.Contains(f, metav1.FinalizerDeleteDependents) || slices.Contains(f, metav1.FinalizerOrphanDependents)
}

// wakeOwners looks again at the owners that wait for a dependent which has just gone.
func (c *collector) wakeOwners(t *turn, obj api.Object) {
	for _, ref := range obj.GetOwnerReferences() {
		owner, known := ownerOf(t, obj, ref)
		if known && owner != nil && owner.GetDeletionTimestamp() != nil && propagates(owner) {
			t.todo(c, judge(owner))
		}
	}
}

// ownerOf finds the owner that a reference names; nil when it is gone. Not known: a kind that is not served here, which nobody
// can judge.
func ownerOf(t *turn, obj api.Object, ref metav1.OwnerReference) (owner api.Object, known bool) {
	k, ok := api.KindFor(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
	if !ok {
		return nil, false
	}
	namespace := obj.GetNamespace()
	if !k.Namespaced {
		namespace = ""
	}
	owner, err := t.tx.Get(k, namespace, ref.Name)
	if err != nil || owner.GetUID() != ref.UID {
		return nil, true
	}
	return owner, true
}

func (c *collector) reconcile(t *turn, name string) error {
	what, rest, _ := strings.Cut(name, "|")
	if what == goneOwner {
		for _, d := range dependents(t, rest) {
			t.todo(c, judge(d))
		}
		return nil
	}
	obj := c.find(t, what, rest)
	if obj == nil {
		return nil
	}
	if obj.GetDeletionTimestamp() != nil {
		return c.propagate(t, obj)
	}
	return c.judge(t, obj)
}

func (c *collector) find(t *turn, kind, name string) api.Object {
	for _, k := range api.Kinds {
		if k.String() != kind {
			continue
		}
		namespace, plain := split(name)
		if obj, err := t.tx.Get(k, namespace, plain); err == nil {
			return obj
		}
	}
	return nil
}

// dependents lists what names the owner with this uid.
func dependents(t *turn, uid string) []api.Object {
	var all []api.Object
	for _, k := range api.Kinds {
		if _, ok := k.Indexes[api.IndexOwner]; ok {
			all = append(all, t.tx.List(k, store.Query{Index: api.IndexOwner, Value: uid})...)
		}
	}
	return all
}

// judge deletes an object without a living owner, and takes dead owners off one that has another.
func (c *collector) judge(t *turn, obj api.Object) error {
	var kept []metav1.OwnerReference
	waiting := false
	for _, ref := range obj.GetOwnerReferences() {
		switch owner, known := ownerOf(t, obj, ref); {
		case !known:
			kept = append(kept, ref)
		case owner == nil:
		case owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), metav1.FinalizerDeleteDependents):
			waiting = true
		default:
			kept = append(kept, ref)
		}
	}
	switch {
	case len(obj.GetOwnerReferences()) == 0 || len(kept) == len(obj.GetOwnerReferences()):
		return nil
	case len(kept) > 0:
		free := api.Copy(obj)
		free.SetOwnerReferences(kept)
		return t.update(free)
	case waiting && len(dependents(t, string(obj.GetUID()))) > 0:
		return t.delete(obj, store.DeleteOptions{Propagation: metav1.DeletePropagationForeground})
	}
	return t.delete(obj, store.DeleteOptions{Propagation: metav1.DeletePropagationBackground})
}

// propagate does what a deleted object's finalizers ask for: its dependents go first, or are set free.
func (c *collector) propagate(t *turn, obj api.Object) error {
	orphan := slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents)
	blocked := false
	for _, d := range dependents(t, string(obj.GetUID())) {
		switch {
		case orphan:
			free := api.Copy(d)
			free.SetOwnerReferences(slices.DeleteFunc(free.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == obj.GetUID() }))
			if err := t.update(free); err != nil {
				return err
			}
		case d.GetDeletionTimestamp() == nil:
			t.todo(c, judge(d))
			blocked = blocked || blocks(d, obj)
		default:
			blocked = blocked || blocks(d, obj)
		}
	}
	if blocked {
		return nil // the last blocking dependent's end wakes this owner
	}
	done := api.Copy(obj)
	done.SetFinalizers(slices.DeleteFunc(done.GetFinalizers(), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	}))
	return t.update(done)
}

// blocks tells whether d holds back the end of its owner.
func blocks(d, owner api.Object) bool {
	return slices.ContainsFunc(d.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return r.UID == owner.GetUID() && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
	})
}
