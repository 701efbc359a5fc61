package controller

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	replicaSetComponent = "replicaset-controller"
	// burst bounds the pods made or deleted at once for one ReplicaSet, so that a big one does not hold up the rest; it goes on
	// in the next transaction.
	burst = 100
)

// replicaSets keeps as many pods as each ReplicaSet asks for.
type replicaSets struct{}

func (c *replicaSets) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.ReplicaSets:
		if ev.Type != store.Deleted {
			t.todo(c, api.Name(ev.Object))
		}
	case api.Pods:
		if t.by == controller(c) || sameReplica(ev) {
			return
		}
		for _, pod := range states[*corev1.Pod](ev) {
			if ref := metav1.GetControllerOf(pod); ref != nil && ref.Kind == api.ReplicaSets.Kind {
				t.todo(c, pod.Namespace+"/"+ref.Name)
			}
		}
	}
}

// sameReplica tells that nothing of a pod changed that its ReplicaSet counts: it was given its node, or an address.
func sameReplica(ev store.Event) bool {
	if ev.Type != store.Modified || relabelled(ev) {
		return false
	}
	was, pod := ev.Old.(*corev1.Pod), ev.Object.(*corev1.Pod)
	return podReady(was) == podReady(pod) && podActive(was) == podActive(pod)
}

func (c *replicaSets) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	rs, ok := find[*appsv1.ReplicaSet](t, api.ReplicaSets, namespace, plain)
	if !ok {
		return nil
	}
	pods, err := c.claimed(t, rs)
	if err != nil {
		return err
	}
	missing := int(wanted(rs.Spec.Replicas)) - len(pods)
	switch {
	case rs.DeletionTimestamp != nil || missing == 0:
		return c.report(t, rs, pods, nil)
	case missing > 0:
		err = c.make(t, rs, missing)
	default:
		err = c.cull(t, rs, pods, -missing)
	}
	failure, err := t.turnedAway(rs, replicaSetComponent, err)
	if err != nil {
		return err
	}
	if pods, err = c.claimed(t, rs); err != nil {
		return err
	}
	if len(pods) != int(wanted(rs.Spec.Replicas)) && failure == nil {
		t.todo(c, name) // the rest comes in another burst
	}
	return c.report(t, rs, pods, failure)
}

// wanted is a replica count, 1 where none is given.
func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// claimed lists the active pods of rs, and sets those free whose labels match no longer.
func (c *replicaSets) claimed(t *turn, rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for _, pod := range owned[*corev1.Pod](t, api.Pods, rs) {
		switch {
		case !podActive(pod):
		case selector.Matches(labels.Set(pod.Labels)):
			pods = append(pods, pod)
		case rs.DeletionTimestamp == nil:
			if err := release(t, pod, rs); err != nil {
				return nil, err
			}
		}
	}
	return pods, nil
}

// release takes owner off an object that its selector matches no longer.
func release[T api.Object](t *turn, obj T, owner api.Object) error {
	free := api.Copy(obj)
	free.SetOwnerReferences(slices.DeleteFunc(free.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == owner.GetUID() }))
	return t.update(free)
}

func (c *replicaSets) make(t *turn, rs *appsv1.ReplicaSet, missing int) error {
	for range min(missing, burst) {
		pod := podFrom(&rs.Spec.Template, rs)
		if err := t.create(pod); err != nil {
			return err
		}
		h := happening{component: replicaSetComponent, reason: "SuccessfulCreate", message: "Created pod: " + pod.Name}
		if err := t.record(rs, h); err != nil {
			return err
		}
	}
	return nil
}

// podFrom is the pod that an owner's template describes, as complete as if it had come through the API server: kubectl reads
// it, fills in the defaults and sends it back, and no field may seem to have changed. edit has its way before that.
func podFrom(template *corev1.PodTemplateSpec, owner api.Object, edit ...func(*corev1.Pod)) *corev1.Pod {
	template = template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), GenerateName: owner.GetName() + "-",
			Labels: template.Labels, Annotations: template.Annotations, Finalizers: template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, api.KindOf(owner).GroupVersionKind())},
		},
		Spec: template.Spec,
	}
	for _, fn := range edit {
		fn(pod)
	}
	api.Default(pod)
	api.PrepareForCreate(pod)
	return pod
}

func (c *replicaSets) cull(t *turn, rs *appsv1.ReplicaSet, pods []*corev1.Pod, surplus int) error {
	for _, pod := range rankVictims(pods, c.related(t, rs, pods))[:min(surplus, burst)] {
		if err := t.delete(pod, store.DeleteOptions{}); err != nil {
			return err
		}
		h := happening{component: replicaSetComponent, reason: "SuccessfulDelete", message: "Deleted pod: " + pod.Name}
		if err := t.record(rs, h); err != nil {
			return err
		}
	}
	return nil
}

// related lists the pods of all ReplicaSets with the same owner: a rollout looks at both to see which nodes are crowded.
func (c *replicaSets) related(t *turn, rs *appsv1.ReplicaSet, own []*corev1.Pod) []*corev1.Pod {
	ref := metav1.GetControllerOf(rs)
	if ref == nil {
		return own
	}
	var pods []*corev1.Pod
	for _, sibling := range query[*appsv1.ReplicaSet](t, api.ReplicaSets, store.Query{Index: api.IndexOwner, Value: string(ref.UID)}) {
		pods = append(pods, owned[*corev1.Pod](t, api.Pods, sibling)...)
	}
	return pods
}

// report writes the status. failure is why pods are missing.
func (c *replicaSets) report(t *turn, rs *appsv1.ReplicaSet, pods []*corev1.Pod, failure error) error {
	status := appsv1.ReplicaSetStatus{
		Replicas: int32(len(pods)), ObservedGeneration: rs.Generation, Conditions: replicaFailure(rs.Status.Conditions, failure, t.now),
	}
	var terminating int32
	for _, pod := range owned[*corev1.Pod](t, api.Pods, rs) {
		if pod.DeletionTimestamp != nil && !podEnded(pod) {
			terminating++
		}
	}
	status.TerminatingReplicas = &terminating
	template := labels.SelectorFromValidatedSet(rs.Spec.Template.Labels)
	for _, pod := range pods {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !podReady(pod) {
			continue
		}
		status.ReadyReplicas++
		switch wait, ok := availableIn(pod, rs.Spec.MinReadySeconds, t.now); {
		case ok && wait == 0:
			status.AvailableReplicas++
		case ok:
			t.later(c, api.Name(rs), t.now.Add(wait))
		}
	}
	seen := api.Copy(rs)
	seen.Status = status
	if err := t.update(seen); err != nil {
		return fmt.Errorf("status of ReplicaSet %s: %w", api.Name(rs), err)
	}
	return nil
}
