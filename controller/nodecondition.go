package controller

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wellConditions are the conditions of a node as its kubelet writes them while all is well; nobody but it can know them when it is
// silent.
var wellConditions = []corev1.NodeCondition{
	{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
	{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
	{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
	{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
}

// loseNode says of a node that it is not heard of any more.
func loseNode(node *corev1.Node, now time.Time) {
	at := metav1.NewTime(now.Truncate(time.Second))
	for _, well := range wellConditions {
		c := nodeCondition(node, well.Type)
		switch {
		case c == nil:
			node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
				Type: well.Type, Status: corev1.ConditionUnknown, Reason: reasonNodeNever, Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: at,
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, reasonNodeUnknown, "Kubelet stopped posting node status."
			c.LastTransitionTime = at
		}
	}
}

// reviveNode takes loseNode's word back; it tells whether there was one.
func reviveNode(node *corev1.Node, now time.Time) bool {
	at, back := metav1.NewTime(now.Truncate(time.Second)), false
	for _, well := range wellConditions {
		c := nodeCondition(node, well.Type)
		if c != nil && c.Status == corev1.ConditionUnknown && c.Reason == reasonNodeUnknown {
			well.LastHeartbeatTime, well.LastTransitionTime = at, at
			*c, back = well, true
		}
	}
	return back
}

// conditionTaintKeys are the taints that Kubernetes keeps in step with a node's state; no one else's are touched.
var conditionTaintKeys = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
}

// conditionTaints are the NoSchedule taints that a node's state asks for.
func conditionTaints(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	add := func(key string) {
		taints = append(taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, c := range node.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse:
			add(corev1.TaintNodeNotReady)
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown:
			add(corev1.TaintNodeUnreachable)
		case c.Status != corev1.ConditionTrue:
		case c.Type == corev1.NodeMemoryPressure:
			add(corev1.TaintNodeMemoryPressure)
		case c.Type == corev1.NodeDiskPressure:
			add(corev1.TaintNodeDiskPressure)
		case c.Type == corev1.NodePIDPressure:
			add(corev1.TaintNodePIDPressure)
		case c.Type == corev1.NodeNetworkUnavailable:
			add(corev1.TaintNodeNetworkUnavailable)
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable)
	}
	return taints
}

// taintNode brings a node's taints in step with its state. Pods are evicted from a node that is not ready only if evict.
func taintNode(node *corev1.Node, evict bool, now time.Time) {
	want := conditionTaints(node)
	for _, taint := range slices.Clone(want) {
		if evict && (taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable) {
			taint.Effect = corev1.TaintEffectNoExecute
			want = append(want, taint)
		}
	}
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		ours := slices.Contains(conditionTaintKeys, taint.Key) && taint.Effect != corev1.TaintEffectPreferNoSchedule
		if !ours || hasTaint(want, taint) {
			taints = append(taints, taint)
		}
	}
	at := metav1.NewTime(now.Truncate(time.Second))
	for _, taint := range want {
		if !hasTaint(taints, taint) {
			taint.TimeAdded = &at
			taints = append(taints, taint)
		}
	}
	node.Spec.Taints = taints
}

// hasTaint tells whether a taint of this key and effect is there.
func hasTaint(taints []corev1.Taint, want corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(t corev1.Taint) bool { return t.Key == want.Key && t.Effect == want.Effect })
}
