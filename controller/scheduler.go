package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const defaultScheduler = corev1.DefaultSchedulerName

// scheduler gives each pod without a node the one that place picks. It keeps the count of each node by the events.
type scheduler struct {
	stranded map[string]bool // pods that fitted nowhere when they were last looked at; true for those with wishes about other pods
	byName   map[string]*seat
	seats    []*seat // the same, by name
	// nominated are the pods that wait for a node where room is made for them.
	nominated map[string]*corev1.Pod
}

func newScheduler() *scheduler {
	return &scheduler{stranded: map[string]bool{}, byName: map[string]*seat{}, nominated: map[string]*corev1.Pod{}}
}

func (c *scheduler) touched(t *turn, ev store.Event) {
	switch obj := ev.Object.(type) {
	case *corev1.Pod:
		c.podTouched(t, ev, obj)
	case *corev1.Node:
		c.nodeTouched(t, ev, obj)
		if opened(ev) {
			c.retry(t, false)
		}
	}
}

func (c *scheduler) nodeTouched(t *turn, ev store.Event, node *corev1.Node) {
	s, known := c.byName[node.Name]
	switch {
	case ev.Type != store.Deleted && known:
		s.node = node
		return
	case ev.Type != store.Deleted:
		pods := query[*corev1.Pod](t, api.Pods, store.Query{Index: api.IndexNode, Value: node.Name})
		c.byName[node.Name] = newSeat(node, pods)
	default:
		delete(c.byName, node.Name)
	}
	c.seats = nil
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		c.seats = append(c.seats, c.byName[name])
	}
}

func (c *scheduler) podTouched(t *turn, ev store.Event, pod *corev1.Pod) {
	name := api.Name(pod)
	s := c.byName[pod.Spec.NodeName]
	old, _ := ev.Old.(*corev1.Pod)
	if c.nominate(ev, pod) {
		c.retry(t, false) // the room that was made for it is free
	}
	switch {
	case ev.Type == store.Deleted || podEnded(pod):
		delete(c.stranded, name)
		if s != nil && s.lodgers[name] != nil {
			s.leave(name)
			c.retry(t, false) // its host ports and its place are free
		}
	case unplaced(pod):
		if old == nil || !equality.Semantic.DeepEqual(old.Spec, pod.Spec) {
			t.todo(c, name)
		}
	default:
		delete(c.stranded, name)
		if s != nil && s.refresh(pod) {
			c.retry(t, false) // it has less than before
		}
		if old == nil || old.Spec.NodeName == "" || !maps.Equal(old.Labels, pod.Labels) {
			c.retry(t, true)
		}
	}
}

// unplaced tells that a pod waits for this scheduler.
func unplaced(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" && podActive(pod) && len(pod.Spec.SchedulingGates) == 0 &&
		(pod.Spec.SchedulerName == "" || pod.Spec.SchedulerName == defaultScheduler)
}

// opened tells that a node may take pods now that it did not take before.
func opened(ev store.Event) bool {
	if ev.Type == store.Deleted {
		return true // the count of nodes in the refusals changes
	}
	node := ev.Object.(*corev1.Node)
	was, ok := ev.Old.(*corev1.Node)
	return !ok || nodeReady(was) != nodeReady(node) || !maps.Equal(was.Labels, node.Labels) ||
		!equality.Semantic.DeepEqual(was.Spec, node.Spec) || !equality.Semantic.DeepEqual(was.Status.Allocatable, node.Status.Allocatable)
}

// retry looks again at the pods that fitted nowhere, the most important first; on other pods' account only at those with wishes about them.
func (c *scheduler) retry(t *turn, social bool) {
	var waiting []*corev1.Pod
	for name, cares := range c.stranded {
		namespace, plain := split(name)
		if pod, ok := find[*corev1.Pod](t, api.Pods, namespace, plain); ok && (cares || !social) {
			waiting = append(waiting, pod)
		}
	}
	slices.SortFunc(waiting, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(priorityOf(b), priorityOf(a)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range waiting {
		t.todo(c, api.Name(pod))
	}
}

func (c *scheduler) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	pod, ok := find[*corev1.Pod](t, api.Pods, namespace, plain)
	if !ok || !unplaced(pod) {
		delete(c.stranded, name)
		return nil
	}
	h := hall{seats: c.seats, labels: namespaceLabels(t), budgets: func() []*policyv1.PodDisruptionBudget {
		return query[*policyv1.PodDisruptionBudget](t, api.PodDisruptionBudgets, store.Query{})
	}}
	best, room, reason := place(pod, h.expecting(pod, c.nominated))
	bound := api.Copy(pod)
	if best == nil {
		c.stranded[name] = len(pod.Spec.TopologySpreadConstraints) > 0 || pod.Spec.Affinity != nil && pod.Spec.Affinity.PodAffinity != nil
		setPodCondition(bound, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: reason,
		}, t.now)
		if room != nil {
			bound.Status.NominatedNodeName = room.seat.node.Name
		}
		if err := t.update(bound); err != nil {
			return err
		}
		if room != nil {
			if err := c.makeRoom(t, pod, room); err != nil {
				return err
			}
		}
		return t.record(pod, happening{component: defaultScheduler, warning: true, reason: "FailedScheduling", message: reason, action: "Scheduling"})
	}
	bound.Spec.NodeName, bound.Status.NominatedNodeName = best.node.Name, ""
	setPodCondition(bound, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, t.now)
	if err := t.update(bound); err != nil {
		return err
	}
	message := fmt.Sprintf("Successfully assigned %s to %s", api.Name(pod), best.node.Name)
	return t.record(pod, happening{component: defaultScheduler, reason: "Scheduled", message: message, action: "Binding"})
}

// namespaceLabels looks a namespace's labels up.
func namespaceLabels(t *turn) func(string) labels.Set {
	return func(name string) labels.Set {
		ns, ok := find[*corev1.Namespace](t, api.Namespaces, "", name)
		if !ok {
			return nil
		}
		return ns.Labels
	}
}

// setPodCondition files a condition; its time moves only with its status.
func setPodCondition(pod *corev1.Pod, c corev1.PodCondition, now time.Time) {
	c.ObservedGeneration = 0
	c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
	old := podCondition(pod, c.Type)
	if old == nil {
		pod.Status.Conditions = append(pod.Status.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	*old = c
}
