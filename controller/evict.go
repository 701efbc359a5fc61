package controller

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const evictionComponent = "taint-eviction-controller"

// evictions deletes the pods that do not tolerate a NoExecute taint of their node, or not any longer (N-3).
//
// Work is named after the pod.
type evictions struct {
	since    map[string]map[corev1.Taint]time.Time // by node: when its NoExecute taints were first seen
	awaiting map[string]time.Time                  // pods that are to go, and when
}

func newEvictions() *evictions {
	return &evictions{since: map[string]map[corev1.Taint]time.Time{}, awaiting: map[string]time.Time{}}
}

func (c *evictions) touched(t *turn, ev store.Event) {
	switch obj := ev.Object.(type) {
	case *corev1.Node:
		if ev.Type == store.Deleted {
			delete(c.since, obj.Name)
		} else if c.note(t, obj) {
			for _, pod := range query[*corev1.Pod](t, api.Pods, store.Query{Index: api.IndexNode, Value: obj.Name}) {
				t.todo(c, api.Name(pod))
			}
		}
	case *corev1.Pod:
		if ev.Type == store.Deleted {
			delete(c.awaiting, api.Name(obj))
			return
		}
		old, _ := ev.Old.(*corev1.Pod)
		if len(c.since[obj.Spec.NodeName]) > 0 && (old == nil || old.Spec.NodeName != obj.Spec.NodeName ||
			!equality.Semantic.DeepEqual(old.Spec.Tolerations, obj.Spec.Tolerations)) {
			t.todo(c, api.Name(obj))
		}
	}
}

// note files the NoExecute taints of a node; it tells whether they changed. A taint counts from when the controllers saw it: its
// own time is in whole seconds, and is used only for one that is older than they are.
func (c *evictions) note(t *turn, node *corev1.Node) bool {
	before, now := c.since[node.Name], map[corev1.Taint]time.Time{}
	changed := false
	for _, taint := range node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		key := corev1.Taint{Key: taint.Key, Value: taint.Value, Effect: taint.Effect}
		at, known := before[key]
		if !known {
			at, changed = t.now, true
			if taint.TimeAdded != nil && t.now.Sub(taint.TimeAdded.Time) >= time.Second {
				at = taint.TimeAdded.Time
			}
		}
		now[key] = at
	}
	changed = changed || len(now) != len(before)
	if len(now) == 0 {
		delete(c.since, node.Name)
	} else {
		c.since[node.Name] = now
	}
	return changed
}

func (c *evictions) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	pod, ok := find[*corev1.Pod](t, api.Pods, namespace, plain)
	if !ok || pod.DeletionTimestamp != nil {
		return nil
	}
	at, leaves := leaveAt(pod, c.since[pod.Spec.NodeName])
	set, waiting := c.awaiting[name]
	switch {
	case !leaves && waiting:
		delete(c.awaiting, name)
		return t.record(pod, happening{component: evictionComponent, reason: "TaintManagerEviction", message: "Cancelling deletion of Pod " + name})
	case !leaves:
		return nil
	case at.After(t.now):
		if !waiting || !set.Equal(at) {
			c.awaiting[name] = at
			t.later(c, name, at)
		}
		return nil
	}
	delete(c.awaiting, name)
	if err := t.record(pod, happening{component: evictionComponent, reason: "TaintManagerEviction", message: "Marking for deletion Pod " + name}); err != nil {
		return err
	}
	disrupted := api.Copy(pod)
	setPodCondition(disrupted, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	}, t.now)
	if err := t.update(disrupted); err != nil {
		return err
	}
	return t.delete(disrupted, store.DeleteOptions{})
}

// leaveAt is when a pod must leave a node with these NoExecute taints; false when it may stay for good.
func leaveAt(pod *corev1.Pod, taints map[corev1.Taint]time.Time) (time.Time, bool) {
	var first time.Time
	leaves := false
	for taint, since := range taints {
		stay, tolerated := stayFor(pod, taint)
		if tolerated && stay < 0 {
			continue
		}
		if at := since.Add(stay); !leaves || at.Before(first) {
			first, leaves = at, true
		}
	}
	return first, leaves
}

// stayFor is how long a pod tolerates a taint: negative for ever, the shortest of its tolerations, 0 without one.
func stayFor(pod *corev1.Pod, taint corev1.Taint) (time.Duration, bool) {
	const ever = int64(math.MaxInt64)
	least, tolerated := ever, false
	for _, tol := range pod.Spec.Tolerations {
		if tolerates(tol, taint) {
			tolerated = true
			if tol.TolerationSeconds != nil {
				least = min(least, max(*tol.TolerationSeconds, 0))
			}
		}
	}
	switch {
	case !tolerated:
		return 0, false
	case least == ever:
		return -1, true
	}
	return time.Duration(min(least, int64(math.MaxInt64/time.Second))) * time.Second, true
}

// Toleration is for how long pods that say nothing of lost nodes stay on one, when a node is lost after nodeGrace (0 for 40 s): what 300 s
// are to Kubernetes' 40 s.
func Toleration(nodeGrace time.Duration) time.Duration {
	return time.Duration(float64(api.DefaultToleration) * (Config{NodeGrace: nodeGrace}).nodeGrace().Seconds() / defaultNodeGrace.Seconds())
}
