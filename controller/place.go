package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// hall is all nodes, the labels of a namespace by its name, and the disruption budgets, asked for when pods have to go.
type hall struct {
	seats   []*seat
	labels  func(namespace string) labels.Set
	budgets func() []*policyv1.PodDisruptionBudget
}

// refusal says why a pod cannot go to a node, in kube-scheduler's words; none when it can.
type refusal struct {
	reasons []string
	final   bool // no pod's leaving would help
}

func refused(final bool, reasons ...string) refusal { return refusal{reasons: reasons, final: final} }

// place picks the node for a pod: of those where it fits the one that had room made for it, else the one that score likes best. Nil
// with the reason, in Kubernetes' words, when it fits nowhere; then perhaps with the pods that have to go so that it does.
func place(pod *corev1.Pod, h hall) (*seat, *sacrifice, string) {
	if len(h.seats) == 0 {
		return nil, nil, "no nodes available to schedule pods"
	}
	w := newWish(pod, h)
	var fit []*seat
	reasons, hopeless := map[string]int{}, map[*seat]bool{}
	for _, s := range h.seats {
		r := w.refuse(s)
		if len(r.reasons) == 0 {
			fit = append(fit, s)
			continue
		}
		for _, reason := range r.reasons {
			reasons[reason]++
		}
		if r.final {
			hopeless[s] = true
		}
	}
	if i := slices.IndexFunc(fit, func(s *seat) bool { return s.node.Name == pod.Status.NominatedNodeName }); i >= 0 {
		return fit[i], nil, ""
	}
	if len(fit) > 0 {
		return w.best(fit), nil, ""
	}
	found, why := w.preempt(hopeless)
	return nil, found, unavailable(len(h.seats), reasons) + " preemption: " + why
}

// unavailable is kube-scheduler's count of the reasons.
func unavailable(nodes int, reasons map[string]int) string {
	all := make([]string, 0, len(reasons))
	for _, reason := range slices.Collect(maps.Keys(reasons)) {
		all = append(all, fmt.Sprintf("%d %s", reasons[reason], reason))
	}
	slices.Sort(all)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(all, ", "))
}

// wish is a pod to be placed, with what is worked out for it once and not for each node.
type wish struct {
	pod      *corev1.Pod
	hall     hall
	lodger   *lodger
	affinity nodeaffinity.RequiredNodeAffinity
	spread   []spread // its DoNotSchedule constraints
	social   social
}

func newWish(pod *corev1.Pod, h hall) *wish {
	w := &wish{pod: pod, hall: h, lodger: newLodger(pod), affinity: nodeaffinity.GetRequiredNodeAffinity(pod)}
	w.spread = w.spreads(corev1.DoNotSchedule)
	w.social = newSocial(pod, h)
	return w
}

// refuse asks in kube-scheduler's order; the first plugin that refuses says all its reasons.
func (w *wish) refuse(s *seat) refusal {
	if s.node.Spec.Unschedulable && !tolerated(w.pod, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return refused(true, "node(s) were unschedulable")
	}
	if untolerated(w.pod, s.node) {
		return refused(true, "node(s) had untolerated taint(s)")
	}
	if !w.suits(s.node) {
		return refused(true, "node(s) didn't match Pod's node affinity/selector")
	}
	if slices.ContainsFunc(w.lodger.ports, s.holds) {
		return refused(false, "node(s) didn't have free ports for the requested pod ports")
	}
	if r := w.crowded(s); len(r.reasons) > 0 {
		return r
	}
	if r := w.unspread(s); len(r.reasons) > 0 {
		return r
	}
	return w.social.refuse(s)
}

// suits holds the pod's nodeSelector and required node affinity against a node.
func (w *wish) suits(node *corev1.Node) bool {
	ok, err := w.affinity.Match(node)
	return err == nil && ok
}

// unlimited are the resources of which a node that does not speak of them has enough.
var unlimited = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
}

// crowded says what a node has too little of.
func (w *wish) crowded(s *seat) refusal {
	var r refusal
	has := s.node.Status.Allocatable
	if most, limited := has[corev1.ResourcePods]; limited && int64(len(s.lodgers)) >= most.Value() {
		r.reasons = append(r.reasons, "Too many pods")
	}
	for name, asked := range w.lodger.requests {
		_, known := has[name]
		all := whole(has, name)
		if !known && unlimited[name] || asked <= all-s.reserved[name] {
			continue
		}
		r.reasons = append(r.reasons, "Insufficient "+string(name))
		r.final = r.final || asked > all
	}
	return r
}

// untolerated tells whether a taint keeps the pod away. A node that is not ready counts as tainted so, whether or not anyone has
// written the taint.
func untolerated(pod *corev1.Pod, node *corev1.Node) bool {
	taints := node.Spec.Taints
	if implied := conditionTaints(node); len(implied) > 0 {
		taints = append(slices.Clone(taints), implied...)
	}
	if nodeCondition(node, corev1.NodeReady) == nil {
		taints = append(slices.Clone(taints), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	return slices.ContainsFunc(taints, func(taint corev1.Taint) bool {
		return taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated(pod, taint)
	})
}

func tolerated(pod *corev1.Pod, taint corev1.Taint) bool {
	return slices.ContainsFunc(pod.Spec.Tolerations, func(tol corev1.Toleration) bool { return tolerates(tol, taint) })
}

func tolerates(tol corev1.Toleration, taint corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != taint.Effect || tol.Key != "" && tol.Key != taint.Key {
		return false
	}
	return tol.Operator == corev1.TolerationOpExists || (tol.Operator == "" || tol.Operator == corev1.TolerationOpEqual) && tol.Value == taint.Value
}

func nodeReady(node *corev1.Node) bool {
	c := nodeCondition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}
