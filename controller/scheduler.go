package controller

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const defaultScheduler = corev1.DefaultSchedulerName

// scheduler gives each pod without a node the one that place picks.
type scheduler struct {
	stranded map[string]bool // pods that fitted nowhere when they were last looked at

	// The nodes with their counts, good for one transaction: a thousand pods placed together count each other's nodes once.
	turn  *turn
	seats []*seat
}

func newScheduler() *scheduler { return &scheduler{stranded: map[string]bool{}} }

func (c *scheduler) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.Pods:
		c.podTouched(t, ev)
	case api.Nodes:
		c.seats = nil
		if opened(ev) {
			c.retry(t)
		}
	}
}

func (c *scheduler) podTouched(t *turn, ev store.Event) {
	pod, name := ev.Object.(*corev1.Pod), api.Name(ev.Object)
	switch {
	case ev.Type == store.Deleted || podEnded(pod):
		c.seats = nil
		delete(c.stranded, name)
		c.retry(t) // its host ports and its place are free
	case unplaced(pod):
		if ev.Old == nil || !equality.Semantic.DeepEqual(ev.Old.(*corev1.Pod).Spec, pod.Spec) {
			t.todo(c, name)
		}
	default:
		delete(c.stranded, name)
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

func (c *scheduler) retry(t *turn) {
	for _, name := range slices.Sorted(maps.Keys(c.stranded)) {
		t.todo(c, name)
	}
}

func (c *scheduler) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	pod, ok := find[*corev1.Pod](t, api.Pods, namespace, plain)
	if !ok || !unplaced(pod) {
		delete(c.stranded, name)
		return nil
	}
	best, reason := place(pod, c.look(t))
	bound := api.Copy(pod)
	if best == nil {
		c.stranded[name] = true
		setPodCondition(bound, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: reason,
		}, t.now)
		if err := t.update(bound); err != nil {
			return err
		}
		return t.record(pod, happening{component: defaultScheduler, warning: true, reason: "FailedScheduling", message: reason})
	}
	bound.Spec.NodeName = best.node.Name
	t.engine.o.tolerateForAWhile(bound)
	setPodCondition(bound, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, t.now)
	if err := t.update(bound); err != nil {
		return err
	}
	best.take(bound)
	message := fmt.Sprintf("Successfully assigned %s to %s", api.Name(pod), best.node.Name)
	return t.record(pod, happening{component: defaultScheduler, reason: "Scheduled", message: message})
}

// look counts the pods on the nodes, once in a transaction.
func (c *scheduler) look(t *turn) []*seat {
	if c.turn == t && c.seats != nil {
		return c.seats
	}
	c.turn, c.seats = t, []*seat{}
	for _, node := range query[*corev1.Node](t, api.Nodes, store.Query{}) {
		pods := query[*corev1.Pod](t, api.Pods, store.Query{Index: api.IndexNode, Value: node.Name})
		c.seats = append(c.seats, newSeat(node, pods))
	}
	return c.seats
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
