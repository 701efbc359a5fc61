package store

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
)

// DeleteOptions says how an object is to be deleted; the zero value deletes with the object's own grace, in the background.
type DeleteOptions struct {
	UID             types.UID // if set, the object must have it
	ResourceVersion string    // if set, the object must have it
	// GracePeriodSeconds overrides a pod's own; 0 removes it at once. nil for the pod's own.
	GracePeriodSeconds *int64
	// Propagation says what becomes of dependents; "" for what the object's finalizers say, else background.
	Propagation metav1.DeletionPropagation
}

// Delete begins an object's end as Kubernetes does: with finalizers (its own, or the one that foreground and orphan propagation
// put there) it is marked; a pod on a node is marked with its grace; a namespace is marked Terminating; all else is removed.
// Deleting a marked pod again can only shorten its grace. Errors: NotFound; Conflict when a precondition fails.
func (tx *Tx) Delete(kind *api.Kind, namespace, name string, o DeleteOptions) error {
	old, err := tx.Get(kind, namespace, name)
	if err != nil {
		return err
	}
	if err := o.check(kind, old); err != nil {
		return err
	}
	obj := shallow(old)
	pod, isPod := obj.(*corev1.Pod)
	if isPod && pod.DeletionTimestamp != nil {
		if !shorten(pod, o.GracePeriodSeconds) {
			return nil
		}
	} else {
		setPropagation(obj, o.Propagation)
		tx.mark(obj, graceOf(obj, o.GracePeriodSeconds))
	}
	if finished(obj) {
		return tx.write(Deleted, obj, old)
	}
	return tx.change(obj, old)
}

// Remove is the last word on an object: the node's on a pod whose processes have ended, whatever its grace; the namespace
// controller's on an empty namespace. One with finalizers is only marked, and goes with the last of them. Errors: NotFound,
// and Conflict when the stored object is another one of that name.
func (tx *Tx) Remove(obj api.Object) error {
	k := api.KindOf(obj)
	old, err := tx.Get(k, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return err
	}
	if err := (DeleteOptions{UID: obj.GetUID()}).check(k, old); err != nil {
		return err
	}
	last := shallow(old)
	tx.mark(last, 0)
	if ns, ok := last.(*corev1.Namespace); ok {
		ns.Spec.Finalizers = nil
	}
	if finished(last) {
		return tx.write(Deleted, last, old)
	}
	return tx.change(last, old)
}

// check holds the preconditions against the stored object.
func (o DeleteOptions) check(kind *api.Kind, old api.Object) error {
	if o.UID != "" && o.UID != old.GetUID() {
		return conflict(kind, old.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). "+
			"The object might have been deleted and then recreated", o.UID, old.GetUID()))
	}
	if o.ResourceVersion != "" && o.ResourceVersion != old.GetResourceVersion() {
		return conflict(kind, old.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the "+
			"ResourceVersion in record (%s). The object might have been modified", o.ResourceVersion, old.GetResourceVersion()))
	}
	return nil
}

// setPropagation files the caller's choice as the finalizer the garbage collector acts on.
func setPropagation(obj api.Object, p metav1.DeletionPropagation) {
	if p == "" {
		return
	}
	finalizers := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	})
	switch p {
	case metav1.DeletePropagationForeground:
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	obj.SetFinalizers(finalizers)
}

// graceOf is how many seconds the object may take: only pods on a node that have not ended take any.
func graceOf(obj api.Object, asked *int64) int64 {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if asked != nil {
		grace = *asked
	} else if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = *own
	}
	if grace < 0 {
		return 1 // as Kubernetes reads it
	}
	return grace
}

// mark notes that an object is to end, grace seconds from now at the latest. The first mark counts as a change of the spec.
func (tx *Tx) mark(obj api.Object, grace int64) {
	if obj.GetDeletionTimestamp() == nil && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	at := metav1.NewTime(tx.now().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	if before := obj.GetDeletionTimestamp(); before == nil || before.After(at.Time) {
		obj.SetDeletionTimestamp(&at)
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
		return // a namespace has no grace
	}
	obj.SetDeletionGracePeriodSeconds(&grace)
}

// shorten brings a marked pod's end forward; it is false when less grace was not asked for.
func shorten(pod *corev1.Pod, asked *int64) bool {
	before := pod.DeletionGracePeriodSeconds
	if before == nil || asked == nil || *asked >= *before {
		return before == nil
	}
	grace := max(*asked, 0)
	at := metav1.NewTime(pod.DeletionTimestamp.Add(time.Duration(grace-*before) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
	return true
}
