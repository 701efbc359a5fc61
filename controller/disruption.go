package controller

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const disruptionComponent = "controllermanager"

// disruptions says of each PodDisruptionBudget how many pods there are, how many are healthy and how many may go (N-3).
//
// Work is named after the budget.
type disruptions struct {
	selectors map[string]map[string]labels.Selector // of the budgets, by namespace and name
}

func newDisruptions() *disruptions {
	return &disruptions{selectors: map[string]map[string]labels.Selector{}}
}

func (c *disruptions) touched(t *turn, ev store.Event) {
	switch obj := ev.Object.(type) {
	case *policyv1.PodDisruptionBudget:
		c.budgetTouched(t, ev, obj)
	case *corev1.Pod:
		if len(c.selectors[obj.Namespace]) > 0 && !sameHealth(ev) {
			for _, pod := range states[*corev1.Pod](ev) {
				for name, selector := range c.selectors[pod.Namespace] {
					if selector.Matches(labels.Set(pod.Labels)) {
						t.todo(c, pod.Namespace+"/"+name)
					}
				}
			}
		}
	case *appsv1.Deployment, *appsv1.ReplicaSet, *appsv1.StatefulSet:
		if len(c.selectors[obj.GetNamespace()]) > 0 && (ev.Old == nil || scale(ev.Old) != scale(ev.Object)) {
			for name := range c.selectors[obj.GetNamespace()] {
				t.todo(c, obj.GetNamespace()+"/"+name)
			}
		}
	}
}

func (c *disruptions) budgetTouched(t *turn, ev store.Event, b *policyv1.PodDisruptionBudget) {
	if ev.Type == store.Deleted {
		delete(c.selectors[b.Namespace], b.Name)
		return
	}
	if c.selectors[b.Namespace] == nil {
		c.selectors[b.Namespace] = map[string]labels.Selector{}
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		selector = labels.Nothing()
	}
	c.selectors[b.Namespace][b.Name] = selector
	if t.by != controller(c) {
		t.todo(c, api.Name(b))
	}
}

// sameHealth tells that nothing of a pod changed that a budget counts.
func sameHealth(ev store.Event) bool {
	pod := ev.Object.(*corev1.Pod)
	old, ok := ev.Old.(*corev1.Pod)
	return ok && ev.Type == store.Modified && podReady(old) == podReady(pod) && podEnded(old) == podEnded(pod) &&
		(old.DeletionTimestamp == nil) == (pod.DeletionTimestamp == nil) && controllerUID(old) == controllerUID(pod) && maps.Equal(old.Labels, pod.Labels)
}

// scale is how many pods an object is to have; -1 for one without a scale.
func scale(obj api.Object) int32 {
	var replicas *int32
	switch o := obj.(type) {
	case *appsv1.Deployment:
		replicas = o.Spec.Replicas
	case *appsv1.ReplicaSet:
		replicas = o.Spec.Replicas
	case *appsv1.StatefulSet:
		replicas = o.Spec.Replicas
	default:
		return -1
	}
	if replicas == nil {
		return 1
	}
	return *replicas
}

func (c *disruptions) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	budget, ok := find[*policyv1.PodDisruptionBudget](t, api.PodDisruptionBudgets, namespace, plain)
	if !ok {
		return nil
	}
	pods := query[*corev1.Pod](t, api.Pods, store.Query{Namespace: namespace, Labels: c.selectors[namespace][plain]})
	seen := api.Copy(budget)
	s := &seen.Status
	s.ObservedGeneration, s.CurrentHealthy, s.DisruptedPods = budget.Generation, healthyPods(pods), nil
	condition := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: budget.Generation, LastTransitionTime: metav1.NewTime(t.now),
	}
	var err error
	if s.ExpectedPods, s.DesiredHealthy, err = needs(&budget.Spec, pods, func() (int32, error) { return expectedScale(t, pods) }); err != nil {
		s.DisruptionsAllowed, condition.Reason, condition.Message = 0, policyv1.SyncFailedReason, err.Error()
		h := happening{component: disruptionComponent, warning: true, reason: "CalculateExpectedPodCountFailed",
			message: "Failed to calculate the number of expected pods: " + err.Error()}
		if err := t.record(budget, h); err != nil {
			return err
		}
	} else if s.DisruptionsAllowed = max(s.CurrentHealthy-s.DesiredHealthy, 0); s.ExpectedPods == 0 {
		s.DisruptionsAllowed = 0
	}
	if s.DisruptionsAllowed > 0 {
		condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&s.Conditions, condition)
	return t.update(seen)
}

func healthyPods(pods []*corev1.Pod) int32 {
	n := int32(0)
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && podReady(pod) {
			n++
		}
	}
	return n
}

// needs is how many pods a budget is about, and how many of them must stay healthy. Percentages and maxUnavailable are of what the
// pods' controllers are to have; a number that must be available is of the pods that there are.
func needs(spec *policyv1.PodDisruptionBudgetSpec, pods []*corev1.Pod, scale func() (int32, error)) (expected, healthy int32, err error) {
	least, most := spec.MinAvailable, spec.MaxUnavailable
	if most == nil && (least == nil || least.Type == intstr.Int) {
		if least != nil {
			healthy = least.IntVal
		}
		return int32(len(pods)), healthy, nil
	}
	if expected, err = scale(); err != nil {
		return 0, 0, err
	}
	of := least
	if most != nil {
		of = most
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(of, int(expected), true)
	if err != nil {
		return 0, 0, err
	}
	if most != nil {
		n = max(int(expected)-n, 0)
	}
	return expected, int32(n), nil
}

// expectedScale is how many pods the controllers of these are to have, those of a ReplicaSet's Deployment in its place. A pod without
// a controller counts for nothing.
func expectedScale(t *turn, pods []*corev1.Pod) (int32, error) {
	counted := map[string]int32{}
	for _, pod := range pods {
		ref := metav1.GetControllerOf(pod)
		if ref == nil {
			continue
		}
		owner, _ := ownerOf(t, pod, *ref)
		if owner == nil {
			continue
		}
		if ref := metav1.GetControllerOf(owner); ref != nil {
			if above, _ := ownerOf(t, owner, *ref); above != nil && scale(above) >= 0 {
				owner = above
			}
		}
		n := scale(owner)
		if n < 0 {
			return 0, fmt.Errorf("%s does not implement the scale subresource", api.KindOf(owner))
		}
		counted[string(owner.GetUID())] = n
	}
	sum := int32(0)
	for _, uid := range slices.Sorted(maps.Keys(counted)) {
		sum += counted[uid]
	}
	return sum, nil
}
