package controller

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// podIndex files pods' names under each of their labels, so that a Service finds its pods without a look at all of the namespace's.
// It follows the events and may be a moment behind the store: the event that is still to come names the Service again.
type podIndex map[string]map[string]struct{}

func (x podIndex) put(pod *corev1.Pod) {
	for k, v := range pod.Labels {
		term := api.SelectorTerm(pod.Namespace, k, v)
		if x[term] == nil {
			x[term] = map[string]struct{}{}
		}
		x[term][pod.Name] = struct{}{}
	}
}

func (x podIndex) drop(pod *corev1.Pod) {
	for k, v := range pod.Labels {
		term := api.SelectorTerm(pod.Namespace, k, v)
		delete(x[term], pod.Name)
		if len(x[term]) == 0 {
			delete(x, term)
		}
	}
}

// matching lists by name the pods that carry the rarest of the labels which a Service selects.
func (x podIndex) matching(svc *corev1.Service) []string {
	var rarest map[string]struct{}
	first := true
	for k, v := range svc.Spec.Selector {
		if pods := x[api.SelectorTerm(svc.Namespace, k, v)]; first || len(pods) < len(rarest) {
			rarest, first = pods, false
		}
	}
	names := make([]string, 0, len(rarest))
	for name := range rarest {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
