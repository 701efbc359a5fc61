package controller

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	nodeComponent = "node-controller"
	// defaultNodeGrace is how long a node may be silent before it counts as lost; Kubernetes' default.
	defaultNodeGrace = 40 * time.Second

	reasonNodeUnknown = "NodeStatusUnknown"
	reasonNodeNever   = "NodeStatusNeverUpdated"
	reasonNodeLost    = "NodeNotReady"
	reasonNodeBack    = "NodeReady"
)

// nodeLife watches the nodes' leases, says of a silent node that nobody knows how it is, taints the nodes that should not have
// pods, and takes the pods of a lost node out of service (N-1, N-3).
//
// Work is named after the node.
type nodeLife struct {
	known map[string]*vitals
	gone  map[string]*corev1.Node // whose end has yet to be told
}

// vitals are what is known of a node's life beside its object.
type vitals struct {
	heard time.Time // when it was last heard of, by the controllers' clock; their own start counts
	lease bool      // it was heard of by its lease since it was lost
	check time.Time // for when the next look is set
	ready bool      // what it was at the last look
	fresh bool      // there has been no look yet
}

func newNodeLife() *nodeLife {
	return &nodeLife{known: map[string]*vitals{}, gone: map[string]*corev1.Node{}}
}

func (c *nodeLife) touched(t *turn, ev store.Event) {
	switch obj := ev.Object.(type) {
	case *corev1.Node:
		c.nodeTouched(t, ev, obj)
	case *coordinationv1.Lease:
		if obj.Namespace == corev1.NamespaceNodeLease && ev.Type != store.Deleted && renewed(t, ev, obj) {
			c.beat(t, obj.Name)
		}
	}
}

func (c *nodeLife) nodeTouched(t *turn, ev store.Event, node *corev1.Node) {
	v, known := c.known[node.Name]
	if ev.Type == store.Deleted {
		delete(c.known, node.Name)
		c.gone[node.Name] = node
		t.todo(c, node.Name)
		c.all(t)
		return
	}
	if !known {
		v = &vitals{heard: t.now, fresh: true}
		c.known[node.Name] = v
	}
	old, _ := ev.Old.(*corev1.Node)
	if old == nil || t.by == nil && !heartbeat(old).Equal(heartbeat(node)) {
		v.heard = t.now
	}
	switch {
	case old == nil || nodeReady(old) != nodeReady(node):
		c.all(t) // whether anybody is evicted depends on whether any node is left
	case old.Spec.Unschedulable != node.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) ||
		!equality.Semantic.DeepEqual(conditionTaints(old), conditionTaints(node)):
		t.todo(c, node.Name)
	}
}

func (c *nodeLife) all(t *turn) {
	for name := range c.known {
		t.todo(c, name)
	}
}

// beat notes a node's lease; a lost node is looked at again.
func (c *nodeLife) beat(t *turn, name string) {
	node, ok := find[*corev1.Node](t, api.Nodes, "", name)
	v := c.known[name]
	if !ok || v == nil {
		return
	}
	v.heard, v.lease = t.now, true
	if ready := nodeCondition(node, corev1.NodeReady); ready != nil && ready.Reason == reasonNodeUnknown {
		t.todo(c, name)
	}
}

// renewed tells that an event is a sign of life. A lease that is only found, not seen to change, is one if it has not run out:
// it may be of the time before the controllers' start.
func renewed(t *turn, ev store.Event, lease *coordinationv1.Lease) bool {
	if lease.Spec.RenewTime == nil {
		return false
	}
	if old, ok := ev.Old.(*coordinationv1.Lease); ok {
		return old.Spec.RenewTime == nil || !old.Spec.RenewTime.Equal(lease.Spec.RenewTime)
	}
	return t.now.Sub(lease.Spec.RenewTime.Time) < t.engine.o.nodeGrace()
}

func (o Config) nodeGrace() time.Duration { return cmp.Or(o.NodeGrace, defaultNodeGrace) }

func (c *nodeLife) reconcile(t *turn, name string) error {
	node, ok := find[*corev1.Node](t, api.Nodes, "", name)
	v := c.known[name]
	if err := c.greet(t, name, node); err != nil || !ok || v == nil {
		return err
	}
	grace := t.engine.o.nodeGrace()
	now := api.Copy(node)
	back := false
	if silent := t.now.Sub(v.heard); silent >= grace {
		loseNode(now, t.now)
		v.lease = false
	} else {
		back = v.lease && reviveNode(now, t.now)
		if !v.check.After(t.now) {
			v.check = v.heard.Add(grace)
			t.later(c, name, v.check)
		}
	}
	taintNode(now, c.anyReady(t, now), t.now)
	if err := t.update(now); err != nil {
		return err
	}
	was, first := v.ready, v.fresh
	v.ready, v.fresh = nodeReady(now), false
	if !first && was != v.ready || back {
		if err := c.tell(t, now); err != nil {
			return err
		}
	}
	return c.serve(t, now, back)
}

// greet tells of a node that is gone, and of one that is new.
func (c *nodeLife) greet(t *turn, name string, node *corev1.Node) error {
	if gone := c.gone[name]; gone != nil {
		delete(c.gone, name)
		if err := t.record(gone, lifeEvent(gone, "RemovingNode", "Removing Node %s from Controller")); err != nil {
			return err
		}
	}
	if v := c.known[name]; node == nil || v == nil || !v.fresh || t.now.Sub(node.CreationTimestamp.Time) >= eventTTL {
		return nil
	}
	return t.recordOnce(node, lifeEvent(node, "RegisteredNode", "Registered Node %s in Controller"))
}

// anyReady tells whether a node is ready beside or instead of this one. With none left nobody is evicted: it is rather the
// control plane that is cut off, and the pods would have no place to go to.
func (c *nodeLife) anyReady(t *turn, node *corev1.Node) bool {
	return nodeReady(node) || slices.ContainsFunc(query[*corev1.Node](t, api.Nodes, store.Query{}), func(n *corev1.Node) bool {
		return n.Name != node.Name && nodeReady(n)
	})
}

// lifeEvent says that a node came or went, in the words of Kubernetes' controller.
func lifeEvent(node *corev1.Node, reason, what string) happening {
	return happening{component: nodeComponent, reason: reason, message: "Node " + node.Name + " event: " + fmt.Sprintf(what, node.Name)}
}

func (c *nodeLife) tell(t *turn, node *corev1.Node) error {
	reason := reasonNodeLost
	if nodeReady(node) {
		reason = reasonNodeBack
	}
	return t.record(node, happening{
		component: nodeComponent, reason: reason, message: fmt.Sprintf("Node %s status is now: %s", node.Name, reason),
	})
}

// serve takes the pods of a node that is not ready out of service. When a node that was only cut off is heard of again, those that
// run on are put back: the node knows of no change that it would have to tell.
func (c *nodeLife) serve(t *turn, node *corev1.Node, back bool) error {
	if nodeReady(node) && !back {
		return nil
	}
	for _, pod := range query[*corev1.Pod](t, api.Pods, store.Query{Index: api.IndexNode, Value: node.Name}) {
		ready := podCondition(pod, corev1.PodReady)
		switch {
		case ready == nil || podEnded(pod):
		case !nodeReady(node) && ready.Status == corev1.ConditionTrue:
			if err := c.setReady(t, pod, corev1.ConditionFalse); err != nil {
				return err
			}
			h := happening{component: nodeComponent, warning: true, reason: reasonNodeLost, message: "Node is not ready"}
			if err := t.record(pod, h); err != nil {
				return err
			}
		case nodeReady(node) && ready.Status == corev1.ConditionFalse && ready.Reason == "" && containersReady(pod):
			if err := c.setReady(t, pod, corev1.ConditionTrue); err != nil {
				return err
			}
		}
	}
	return nil
}

func containersReady(pod *corev1.Pod) bool {
	c := podCondition(pod, corev1.ContainersReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func (c *nodeLife) setReady(t *turn, pod *corev1.Pod, status corev1.ConditionStatus) error {
	seen := api.Copy(pod)
	setPodCondition(seen, corev1.PodCondition{Type: corev1.PodReady, Status: status}, t.now)
	return t.update(seen)
}

func nodeCondition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// heartbeat is when the node last told of itself by its status.
func heartbeat(node *corev1.Node) *metav1.Time {
	if c := nodeCondition(node, corev1.NodeReady); c != nil {
		return &c.LastHeartbeatTime
	}
	return nil
}
