package controller

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is an affinity term of a pod, ready to be held against others.
type term struct {
	key        string
	pods       labels.Selector
	namespaces []string
	inThose    labels.Selector // namespaces; nil for none
	weight     int64
}

func newTerm(of *corev1.Pod, t *corev1.PodAffinityTerm) term {
	out := term{key: t.TopologyKey, pods: among(of, t.LabelSelector, t.MatchLabelKeys, t.MismatchLabelKeys), namespaces: t.Namespaces}
	if t.NamespaceSelector != nil {
		out.inThose = among(of, t.NamespaceSelector, nil, nil)
	} else if len(t.Namespaces) == 0 {
		out.namespaces = []string{of.Namespace}
	}
	return out
}

func newTerms(of *corev1.Pod, list []corev1.PodAffinityTerm) []term {
	var all []term
	for i := range list {
		all = append(all, newTerm(of, &list[i]))
	}
	return all
}

// preferred are weighted terms; sign is -1 for those of aversion.
func preferred(of *corev1.Pod, list []corev1.WeightedPodAffinityTerm, sign int64) []term {
	var all []term
	for i := range list {
		t := newTerm(of, &list[i].PodAffinityTerm)
		t.weight = sign * int64(list[i].Weight)
		all = append(all, t)
	}
	return all
}

func (h hall) matches(t term, pod *corev1.Pod) bool {
	if !t.pods.Matches(labels.Set(pod.Labels)) {
		return false
	}
	return slices.Contains(t.namespaces, pod.Namespace) || t.inThose != nil && t.inThose.Matches(h.labels(pod.Namespace))
}

// domain is a value of a topology key.
type domain struct{ key, value string }

// social is what a pod's wishes about other pods, and theirs about it, make of the domains.
type social struct {
	toward, away []term
	friends      map[domain]bool // domains with a pod that all of toward match
	lonely       bool            // there are none, and the pod would be its own friend: it may be the first
	foes         map[domain]bool // domains with a pod that a term of away matches
	avoided      map[domain]bool // domains that a pod there wants to keep free of this one
}

func newSocial(pod *corev1.Pod, h hall) social {
	w := social{friends: map[domain]bool{}, foes: map[domain]bool{}, avoided: map[domain]bool{}}
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		w.toward = newTerms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		w.away = newTerms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	for _, s := range h.seats {
		for _, l := range s.social {
			if a := l.pod.Spec.Affinity.PodAntiAffinity; a != nil {
				for _, t := range newTerms(l.pod, a.RequiredDuringSchedulingIgnoredDuringExecution) {
					mark(w.avoided, s, t, h.matches(t, pod))
				}
			}
		}
		if len(w.toward)+len(w.away) > 0 {
			w.look(s, h)
		}
	}
	w.lonely = len(w.friends) == 0 && h.matchesAll(w.toward, pod)
	return w
}

// look files the friends and foes on one node.
func (w *social) look(s *seat, h hall) {
	for _, l := range s.lodgers {
		if len(w.toward) > 0 && h.matchesAll(w.toward, l.pod) {
			for _, t := range w.toward {
				mark(w.friends, s, t, true)
			}
		}
		for _, t := range w.away {
			mark(w.foes, s, t, h.matches(t, l.pod))
		}
	}
}

func (h hall) matchesAll(terms []term, pod *corev1.Pod) bool {
	return !slices.ContainsFunc(terms, func(t term) bool { return !h.matches(t, pod) })
}

func mark(set map[domain]bool, s *seat, t term, matches bool) {
	if value, ok := s.node.Labels[t.key]; ok && matches {
		set[domain{t.key, value}] = true
	}
}

func (w *social) refuse(s *seat) refusal {
	for _, t := range w.toward {
		value, ok := s.node.Labels[t.key]
		if !ok || !w.lonely && !w.friends[domain{t.key, value}] {
			return refused(true, "node(s) didn't match pod affinity rules")
		}
	}
	for _, t := range w.away {
		if value, ok := s.node.Labels[t.key]; ok && w.foes[domain{t.key, value}] {
			return refused(false, "node(s) didn't match pod anti-affinity rules")
		}
	}
	for d := range w.avoided {
		if value, ok := s.node.Labels[d.key]; ok && value == d.value {
			return refused(false, "node(s) didn't satisfy existing pods anti-affinity rules")
		}
	}
	return refusal{}
}

// liking is what preferences, the pod's and the lodgers', make of each domain.
func (w *wish) liking() map[domain]int64 {
	sum := map[domain]int64{}
	add := func(s *seat, t term, matches bool) {
		if value, ok := s.node.Labels[t.key]; ok && matches {
			sum[domain{t.key, value}] += t.weight
		}
	}
	own := preferences(w.pod)
	for _, s := range w.hall.seats {
		for _, l := range s.social {
			for _, t := range preferences(l.pod) {
				add(s, t, w.hall.matches(t, w.pod))
			}
		}
		if len(own) == 0 {
			continue
		}
		for _, l := range s.lodgers {
			for _, t := range own {
				add(s, t, w.hall.matches(t, l.pod))
			}
		}
	}
	return sum
}

func preferences(pod *corev1.Pod) []term {
	var all []term
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			all = preferred(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a.PodAntiAffinity != nil {
			all = append(all, preferred(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
		}
	}
	return all
}
