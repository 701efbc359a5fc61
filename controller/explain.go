package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Candidacy says what the slices make of a pod for a Service, and the one reason for it.
type Candidacy struct {
	Selected bool   // its labels match
	Endpoint bool   // it is listed, ready or not
	Ready    bool   // and new connections may go to it
	Reason   string // "ready", or why not
}

// Explain tells what the slices of svc make of pod. It asks the functions that write the slices.
func Explain(svc *corev1.Service, pod *corev1.Pod) Candidacy {
	if pod.Namespace != svc.Namespace {
		return Candidacy{Reason: fmt.Sprintf("it is in namespace %s, the Service in %s", pod.Namespace, svc.Namespace)}
	}
	if len(svc.Spec.Selector) == 0 {
		return Candidacy{Reason: "the Service has no selector"}
	}
	if !labels.SelectorFromValidatedSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
		return Candidacy{Reason: difference(svc.Spec.Selector, pod.Labels)}
	}
	c := Candidacy{Selected: true}
	switch {
	case podEnded(pod):
		c.Reason = "it has ended: phase " + string(pod.Status.Phase)
		return c
	case podAddress(pod, families(svc)[0]) == "":
		c.Reason = "it has no address yet"
		if pod.Spec.NodeName == "" {
			c.Reason = "it has no node yet"
		}
		return c
	}
	c.Endpoint = true
	cond := endpointOf(svc, candidate{pod: pod}, "").Conditions
	c.Ready = *cond.Ready
	missing := unresolved(svc, pod)
	switch {
	case missing != "":
		c.Ready, c.Reason = false, missing
	case *cond.Terminating && c.Ready:
		c.Reason = "terminating, but the Service publishes pods that are not ready"
	case *cond.Terminating:
		c.Reason = "terminating"
	case *cond.Serving:
		c.Reason = "ready"
	case c.Ready:
		c.Reason = "not ready, but the Service publishes pods that are not ready"
	default:
		c.Reason = "not ready: " + unreadyBecause(pod)
	}
	return c
}

// difference names the first label, in order, that keeps a pod from being selected.
func difference(selector, have map[string]string) string {
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		got, ok := have[key]
		switch {
		case !ok:
			return fmt.Sprintf("label %s is missing; the selector wants %s=%s", key, key, selector[key])
		case got != selector[key]:
			return fmt.Sprintf("label %s is %s; the selector wants %s", key, got, selector[key])
		}
	}
	return ""
}

// unresolved names the target ports of svc that pod has no number for, if they are all of them.
func unresolved(svc *corev1.Service, pod *corev1.Pod) string {
	if len(svc.Spec.Ports) == 0 || len(resolvePorts(svc, pod)) > 0 {
		return ""
	}
	var names []string
	for _, p := range svc.Spec.Ports {
		names = append(names, p.TargetPort.String())
	}
	return "no container has a port named " + strings.Join(names, " or ")
}

func unreadyBecause(pod *corev1.Pod) string {
	if c := podCondition(pod, corev1.PodReady); c != nil && c.Message != "" {
		return c.Message
	}
	return "phase " + string(pod.Status.Phase)
}
