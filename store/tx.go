package store

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"kubarium.dev/api"
)

// Tx is one Update's view: the newest state and what the Update itself has written. It must not outlive the function.
type Tx struct {
	state  *state
	cloned map[*api.Kind]bool
	events []Event
	now    func() time.Time
}

// DeleteOptions says how an object is to be deleted; the zero value deletes with the object's own grace, in the background.
type DeleteOptions struct {
	UID             types.UID // if set, the object must have it
	ResourceVersion string    // if set, the object must have it
	// GracePeriodSeconds overrides a pod's own; 0 removes it at once. nil for the pod's own.
	GracePeriodSeconds *int64
	// Propagation says what becomes of dependents; "" for background.
	Propagation metav1.DeletionPropagation
}

const (
	suffixLength = 5
	// maxGeneratedBase leaves room for the suffix in a name of 63 characters, as Kubernetes does.
	maxGeneratedBase = 63 - suffixLength
)

// table returns a kind's table for writing.
func (tx *Tx) table(k *api.Kind) *table {
	if !tx.cloned[k] {
		tx.state.tables[k] = tx.state.tables[k].clone()
		tx.cloned[k] = true
	}
	return tx.state.tables[k]
}

// Get returns one object, or Kubernetes' NotFound.
func (tx *Tx) Get(kind *api.Kind, namespace, name string) (api.Object, error) {
	obj, ok := tx.state.tables[kind].get(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	return obj, nil
}

// List selects objects, this Update's writes included.
func (tx *Tx) List(kind *api.Kind, q Query) []api.Object { return tx.state.tables[kind].list(q) }

// Revision is the revision of the last write, this Update's included.
func (tx *Tx) Revision() uint64 { return tx.state.revision }

// Create adds a copy of obj and fills in obj's name (from generateName), uid, creationTimestamp, generation and
// resourceVersion. Errors: AlreadyExists.
func (tx *Tx) Create(obj api.Object) error {
	k := api.KindOf(obj)
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		base := obj.GetGenerateName()
		obj.SetName(base[:min(len(base), maxGeneratedBase)] + rand.String(suffixLength))
	}
	if _, exists := tx.state.tables[k].get(obj.GetNamespace(), obj.GetName()); exists {
		return apierrors.NewAlreadyExists(k.GroupResource(), obj.GetName())
	}
	if obj.GetUID() == "" {
		obj.SetUID(uuid.NewUUID())
	}
	obj.SetCreationTimestamp(metav1.NewTime(tx.now().Truncate(time.Second)))
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	if generational(k) {
		obj.SetGeneration(1)
	}
	tx.write(Added, obj, nil)
	return nil
}

// generational tells whether objects of a kind count the changes of their spec.
func generational(k *api.Kind) bool {
	return k != api.Events && k != api.Endpoints && k != api.ConfigMaps && k != api.Namespaces && k != api.Nodes && k != api.Services
}

// Update replaces the stored object by a copy of obj, whose uid, creationTimestamp, generation and resourceVersion it fills
// in. An obj with a resourceVersion must have the stored one's. An update that changes nothing writes nothing; one that takes
// the last finalizer off a deleted object removes it. Errors: NotFound, Conflict.
func (tx *Tx) Update(obj api.Object) error {
	k := api.KindOf(obj)
	old, err := tx.Get(k, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return err
	}
	if obj.GetUID() != "" && obj.GetUID() != old.GetUID() {
		return conflict(k, obj.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", obj.GetUID(), old.GetUID())) //nolint:staticcheck // Kubernetes' words
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		return conflict(k, obj.GetName(), errStale)
	}
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetGeneration(old.GetGeneration())
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	if generational(k) && api.SpecChanged(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	if finished(obj, old) {
		tx.write(Deleted, obj, old)
		return nil
	}
	if same(obj, old) {
		return nil
	}
	tx.write(Modified, obj, old)
	return nil
}

var errStale = errors.New("the object has been modified; please apply your changes to the latest version and try again")

func conflict(k *api.Kind, name string, err error) error {
	return apierrors.NewConflict(k.GroupResource(), name, err)
}

// finished tells that a deleted object has just lost what held it back.
func finished(obj, old api.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		return len(old.GetFinalizers()) > 0 && (o.DeletionGracePeriodSeconds == nil || *o.DeletionGracePeriodSeconds == 0)
	case *corev1.Namespace:
		return len(o.Spec.Finalizers) == 0
	}
	return true
}

func same(a, b api.Object) bool {
	x, errx := encode(a)
	y, erry := encode(b)
	return errx == nil && erry == nil && bytes.Equal(x, y)
}

// write numbers a write and files a copy of obj.
func (tx *Tx) write(t EventType, obj, old api.Object) {
	k := api.KindOf(obj)
	tx.state.revision++
	obj.SetResourceVersion(strconv.FormatUint(tx.state.revision, 10))
	kept := api.Copy(obj)
	if t == Deleted {
		tx.table(k).remove(k, objectKey(kept))
	} else {
		tx.table(k).put(k, kept)
	}
	tx.events = append(tx.events, Event{Type: t, Kind: k, Object: kept, Old: old, Revision: tx.state.revision})
}

// Delete begins an object's end as Kubernetes does: with finalizers (its own, or those foreground and orphan propagation put
// there) it is marked; a pod on a node is marked with its grace; a namespace is marked Terminating; all else is removed.
// Deleting a marked object again can only shorten its grace. Errors: NotFound; Conflict when a precondition fails.
func (tx *Tx) Delete(kind *api.Kind, namespace, name string, o DeleteOptions) error {
	old, err := tx.Get(kind, namespace, name)
	if err != nil {
		return err
	}
	if o.UID != "" && o.UID != old.GetUID() {
		return conflict(kind, name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", o.UID, old.GetUID()))
	}
	if o.ResourceVersion != "" && o.ResourceVersion != old.GetResourceVersion() {
		return conflict(kind, name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", o.ResourceVersion, old.GetResourceVersion()))
	}
	obj := api.Copy(old)
	setPropagation(obj, o.Propagation)
	grace := graceOf(obj, o)
	if len(obj.GetFinalizers()) == 0 && grace == 0 && !held(obj) {
		tx.write(Deleted, obj, old)
		return nil
	}
	tx.mark(obj, grace)
	if !same(obj, old) {
		tx.write(Modified, obj, old)
	}
	return nil
}

// held tells that an object is a namespace whose contents have yet to go.
func held(obj api.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}

// setPropagation files the caller's choice as the finalizer the garbage collector acts on.
func setPropagation(obj api.Object, p metav1.DeletionPropagation) {
	want := map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents,
		metav1.DeletePropagationOrphan:     metav1.FinalizerOrphanDependents,
	}[p]
	if want == "" {
		return
	}
	for _, f := range obj.GetFinalizers() {
		if f == want {
			return
		}
	}
	obj.SetFinalizers(append(obj.GetFinalizers(), want))
}

// graceOf is how long the object may take: only pods on a node that have not ended take any.
func graceOf(obj api.Object, o DeleteOptions) int64 {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0
	}
	switch {
	case o.GracePeriodSeconds != nil:
		return max(*o.GracePeriodSeconds, 0)
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

func (tx *Tx) mark(obj api.Object, grace int64) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	if last := obj.GetDeletionGracePeriodSeconds(); obj.GetDeletionTimestamp() != nil && last != nil && *last <= grace {
		return
	}
	at := metav1.NewTime(tx.now().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	obj.SetDeletionTimestamp(&at)
	obj.SetDeletionGracePeriodSeconds(&grace)
	if generational(api.KindOf(obj)) {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
}

// Remove takes an object out for good, whatever holds it back: the node's last word on a pod. Errors: NotFound, and Conflict
// when the stored object is another one of that name.
func (tx *Tx) Remove(obj api.Object) error {
	k := api.KindOf(obj)
	old, err := tx.Get(k, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return err
	}
	if obj.GetUID() != "" && obj.GetUID() != old.GetUID() {
		return conflict(k, obj.GetName(), errStale)
	}
	tx.write(Deleted, api.Copy(old), old)
	return nil
}
