package controller

import (
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// adoption gives pods and ReplicaSets without a controller to the one whose selector matches them.
//
// Work is named "pod|namespace/name" or "rs|namespace/name": the orphan.
type adoption struct{}

const (
	orphanPod = "pod|"
	orphanSet = "rs|"
)

func (c *adoption) touched(t *turn, ev store.Event) {
	if ev.Type == store.Deleted {
		return
	}
	switch obj := ev.Object.(type) {
	case *corev1.Pod:
		if relabelled(ev) {
			c.orphan(t, orphanPod, obj)
		}
	case *appsv1.ReplicaSet:
		if relabelled(ev) {
			c.orphan(t, orphanSet, obj)
		}
		if ev.Type == store.Added {
			fosters(c, t, orphanPod, query[*corev1.Pod](t, api.Pods, matching(obj.Namespace, obj.Spec.Selector)))
		}
	case *appsv1.DaemonSet, *appsv1.StatefulSet, *batchv1.Job:
		if ev.Type == store.Added {
			selector := podSelector(nil)(obj)
			fosters(c, t, orphanPod, query[*corev1.Pod](t, api.Pods, matching(obj.GetNamespace(), selector)))
		}
	case *appsv1.Deployment:
		if ev.Type == store.Added {
			fosters(c, t, orphanSet, query[*appsv1.ReplicaSet](t, api.ReplicaSets, matching(obj.Namespace, obj.Spec.Selector)))
		}
	}
}

// relabelled tells that an event may change whom an object belongs to.
func relabelled(ev store.Event) bool {
	return ev.Old == nil || !maps.Equal(ev.Old.GetLabels(), ev.Object.GetLabels()) ||
		!slices.EqualFunc(ev.Old.GetOwnerReferences(), ev.Object.GetOwnerReferences(), sameOwner)
}

func (c *adoption) orphan(t *turn, prefix string, obj api.Object) {
	if metav1.GetControllerOfNoCopy(obj) == nil && obj.GetDeletionTimestamp() == nil {
		t.todo(c, prefix+api.Name(obj))
	}
}

func fosters[T api.Object](c *adoption, t *turn, prefix string, found []T) {
	for _, obj := range found {
		c.orphan(t, prefix, obj)
	}
}

// matching asks for what a selector matches; a broken selector matches nothing.
func matching(namespace string, s *metav1.LabelSelector) store.Query {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		selector = labels.Nothing()
	}
	return store.Query{Namespace: namespace, Labels: selector}
}

func (c *adoption) reconcile(t *turn, name string) error {
	prefix, rest, _ := strings.Cut(name, "|")
	namespace, plain := split(rest)
	if prefix+"|" == orphanPod {
		pod, ok := find[*corev1.Pod](t, api.Pods, namespace, plain)
		if !ok {
			return nil
		}
		kinds := []*api.Kind{api.ReplicaSets, api.DaemonSets, api.StatefulSets, api.Jobs}
		if podEnded(pod) {
			kinds = kinds[3:] // a Job counts it, nobody else wants it
		}
		for _, kind := range kinds {
			if err := adopt(t, pod, kind, podSelector(pod)); err != nil {
				return err
			}
			if pod, ok = find[*corev1.Pod](t, api.Pods, namespace, plain); !ok {
				return nil
			}
		}
		return nil
	}
	rs, ok := find[*appsv1.ReplicaSet](t, api.ReplicaSets, namespace, plain)
	if !ok {
		return nil
	}
	return adopt(t, rs, api.Deployments, func(o api.Object) *metav1.LabelSelector { return o.(*appsv1.Deployment).Spec.Selector })
}

// podSelector is how a set of any kind selects its pods. A StatefulSet takes only a pod that has one of its names, and any if pod
// is nil; a selector of nil matches nothing.
func podSelector(pod *corev1.Pod) func(api.Object) *metav1.LabelSelector {
	return func(set api.Object) *metav1.LabelSelector {
		switch s := set.(type) {
		case *appsv1.ReplicaSet:
			return s.Spec.Selector
		case *appsv1.DaemonSet:
			return s.Spec.Selector
		case *batchv1.Job:
			return s.Spec.Selector
		case *appsv1.StatefulSet:
			if pod == nil {
				return s.Spec.Selector
			}
			if _, ok := numberOf(s.Name, pod.Name); ok {
				return s.Spec.Selector
			}
		}
		return nil
	}
}

// adopt gives obj, if it is still an orphan, to the first of kind whose selector matches.
func adopt[T api.Object](t *turn, obj T, kind *api.Kind, selector func(api.Object) *metav1.LabelSelector) error {
	if metav1.GetControllerOfNoCopy(obj) != nil || obj.GetDeletionTimestamp() != nil {
		return nil
	}
	for _, parent := range t.tx.List(kind, store.Query{Namespace: obj.GetNamespace()}) {
		if parent.GetDeletionTimestamp() != nil {
			continue
		}
		s, err := metav1.LabelSelectorAsSelector(selector(parent))
		if j, ok := parent.(*batchv1.Job); err != nil || s.Empty() || ok && jobEnded(j.Status) || !s.Matches(labels.Set(obj.GetLabels())) {
			continue
		}
		child := api.Copy(obj)
		if pod, ok := any(child).(*corev1.Pod); ok && kind == api.Jobs && !tracked(pod) {
			pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
		}
		child.SetOwnerReferences(append(child.GetOwnerReferences(), *metav1.NewControllerRef(parent, kind.GroupVersionKind())))
		return t.update(child)
	}
	return nil
}
