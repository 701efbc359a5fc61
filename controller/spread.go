package controller

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spread is a topology spread constraint of a pod, with the count of the pods it is about.
type spread struct {
	corev1.TopologySpreadConstraint
	counts map[string]int // by the topology key's value; domains without such a pod are there with 0
	least  int            // of the counts
	self   int            // 1 if the pod itself is one of them
}

// spreads counts for the pod's constraints of one kind.
func (w *wish) spreads(action corev1.UnsatisfiableConstraintAction) []spread {
	var all []spread
	for _, c := range w.pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == action {
			all = append(all, spread{TopologySpreadConstraint: c, counts: map[string]int{}})
		}
	}
	for i := range all {
		w.count(&all[i], all)
	}
	return all
}

// count counts one constraint's pods on the nodes that have the keys of all constraints.
func (w *wish) count(s *spread, all []spread) {
	selector := among(w.pod, s.LabelSelector, s.MatchLabelKeys, nil)
	if selector.Matches(labels.Set(w.pod.Labels)) {
		s.self = 1
	}
	for _, seat := range w.hall.seats {
		if !w.counted(s, seat.node) || !hasKeys(seat.node, all) {
			continue
		}
		n := 0
		for _, l := range seat.lodgers {
			if l.pod.Namespace == w.pod.Namespace && l.pod.DeletionTimestamp == nil && selector.Matches(labels.Set(l.pod.Labels)) {
				n++
			}
		}
		s.counts[seat.node.Labels[s.TopologyKey]] += n
	}
	s.least = math.MaxInt
	for _, n := range s.counts {
		s.least = min(s.least, n)
	}
	if len(s.counts) == 0 || s.MinDomains != nil && len(s.counts) < int(*s.MinDomains) {
		s.least = 0
	}
}

// counted tells whether a node's pods count for a constraint, by its policies.
func (w *wish) counted(s *spread, node *corev1.Node) bool {
	if (s.NodeAffinityPolicy == nil || *s.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !w.suits(node) {
		return false
	}
	return s.NodeTaintsPolicy == nil || *s.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore || !untolerated(w.pod, node)
}

func hasKeys(node *corev1.Node, all []spread) bool {
	for i := range all {
		if _, ok := node.Labels[all[i].TopologyKey]; !ok {
			return false
		}
	}
	return true
}

// unspread says which constraint the pod would break on a node.
func (w *wish) unspread(at *seat) refusal {
	const reason = "node(s) didn't match pod topology spread constraints"
	for i := range w.spread {
		s := &w.spread[i]
		domain, ok := at.node.Labels[s.TopologyKey]
		if !ok {
			return refused(true, reason+" (missing required label)")
		}
		if s.counts[domain]+s.self-s.least > int(s.MaxSkew) {
			return refused(false, reason)
		}
	}
	return refusal{}
}

// among is a selector of other pods; keys name labels that must be as the pod's own, or must not. A missing selector matches
// nothing.
func among(pod *corev1.Pod, s *metav1.LabelSelector, same, other []string) labels.Selector {
	if s != nil && len(same)+len(other) > 0 {
		s = s.DeepCopy()
		for operator, keys := range map[metav1.LabelSelectorOperator][]string{metav1.LabelSelectorOpIn: same, metav1.LabelSelectorOpNotIn: other} {
			for _, key := range keys {
				if value, ok := pod.Labels[key]; ok {
					s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
				}
			}
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}
