package controller

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// orphanPods removes the pods that nobody is left to end: of a node whose object is gone, and the terminating ones of a node that
// is said to be out of service (N-3). Those of a node that is only lost stay Terminating until it is back.
//
// Work is named after the node.
type orphanPods struct{}

func (c *orphanPods) touched(t *turn, ev store.Event) {
	switch obj := ev.Object.(type) {
	case *corev1.Node:
		if ev.Type == store.Deleted || outOfService(obj) {
			t.todo(c, obj.Name)
		}
	case *corev1.Pod:
		c.podTouched(t, ev, obj)
	}
}

func (c *orphanPods) podTouched(t *turn, ev store.Event, pod *corev1.Pod) {
	name := pod.Spec.NodeName
	if ev.Type == store.Deleted || name == "" {
		return
	}
	old, _ := ev.Old.(*corev1.Pod)
	placed := old == nil || old.Spec.NodeName != name
	ending := pod.DeletionTimestamp != nil && (placed || old.DeletionTimestamp == nil)
	if !placed && !ending {
		return
	}
	switch node, ok := find[*corev1.Node](t, api.Nodes, "", name); {
	case !ok && placed: // perhaps the node is about to be made
		t.later(c, name, t.now.Add(t.engine.o.nodeGrace()))
	case !ok || ending && outOfService(node):
		t.todo(c, name)
	}
}

// outOfService tells that someone vouches for a lost node's being off.
func outOfService(node *corev1.Node) bool {
	return !nodeReady(node) && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (c *orphanPods) reconcile(t *turn, name string) error {
	node, exists := find[*corev1.Node](t, api.Nodes, "", name)
	if exists && !outOfService(node) {
		return nil
	}
	for _, pod := range query[*corev1.Pod](t, api.Pods, store.Query{Index: api.IndexNode, Value: name}) {
		if exists && pod.DeletionTimestamp == nil {
			continue
		}
		if err := t.remove(pod); err != nil {
			return err
		}
	}
	return nil
}
