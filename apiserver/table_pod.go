package apiserver

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

var podColumns = []column{
	text("Ready", podReady),
	text("Status", podStatus),
	{name: "Restarts", kind: "string", cell: func(obj api.Object, now time.Time) any { return podRestarts(obj.(*corev1.Pod), now) }},
	ageColumn,
	wide("IP", func(p *corev1.Pod) string { return orNone(podIP(p)) }),
	wide("Node", func(p *corev1.Pod) string { return orNone(p.Spec.NodeName) }),
	wide("Nominated Node", func(p *corev1.Pod) string { return orNone(p.Status.NominatedNodeName) }),
	wide("Readiness Gates", podGates),
}

func podIP(p *corev1.Pod) string {
	if len(p.Status.PodIPs) > 0 {
		return p.Status.PodIPs[0].IP
	}
	return p.Status.PodIP
}

func podReady(p *corev1.Pod) string {
	ready, total := 0, len(p.Spec.Containers)
	for _, c := range p.Status.ContainerStatuses {
		if c.Ready && c.State.Running != nil {
			ready++
		}
	}
	for _, c := range p.Spec.InitContainers {
		if !isSidecar(&c) {
			continue
		}
		total++
		for _, st := range p.Status.InitContainerStatuses {
			if st.Name == c.Name && st.Ready && st.State.Running != nil {
				ready++
			}
		}
	}
	return fmt.Sprintf("%d/%d", ready, total)
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// podStatus is the word kubectl shows for a pod: its phase, or what keeps its containers from running.
func podStatus(p *corev1.Pod) string {
	word := string(p.Status.Phase)
	if p.Status.Reason != "" {
		word = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			word = corev1.PodReasonSchedulingGated
		}
	}
	if init, waiting := initStatus(p); waiting {
		word = init
	} else {
		word = containersStatus(p, word)
	}
	if p.DeletionTimestamp == nil {
		return word
	}
	switch {
	case p.Status.Reason == "NodeLost":
		return "Unknown"
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return word
	}
	return "Terminating"
}

// initStatus says which init container a pod waits for.
func initStatus(p *corev1.Pod) (string, bool) {
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		sidecars[p.Spec.InitContainers[i].Name] = isSidecar(&p.Spec.InitContainers[i])
	}
	for i, c := range p.Status.InitContainerStatuses {
		t := c.State.Terminated
		switch {
		case t != nil && t.ExitCode == 0:
		case sidecars[c.Name] && c.Started != nil && *c.Started:
		case t != nil:
			return "Init:" + terminatedWord(t), true
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			return "Init:" + c.State.Waiting.Reason, true
		default:
			return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers)), true
		}
	}
	return "", false
}

func terminatedWord(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// containersStatus is what the containers say, the first of them last; word when they have nothing to say.
func containersStatus(p *corev1.Pod, word string) string {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := p.Status.ContainerStatuses[i]
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			word = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			word = terminatedWord(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
		}
	}
	if word == "Completed" && running {
		if podIsReady(p) {
			return "Running"
		}
		return "NotReady"
	}
	return word
}

func podIsReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func podRestarts(p *corev1.Pod, now time.Time) string {
	restarts, last := 0, metav1.Time{}
	count := func(c corev1.ContainerStatus) {
		restarts += int(c.RestartCount)
		if t := c.LastTerminationState.Terminated; t != nil && last.Before(&t.FinishedAt) {
			last = t.FinishedAt
		}
	}
	if _, waiting := initStatus(p); waiting {
		for _, c := range p.Status.InitContainerStatuses {
			count(c)
		}
	} else {
		for _, c := range p.Status.ContainerStatuses {
			count(c)
		}
	}
	if restarts > 0 && !last.IsZero() {
		return fmt.Sprintf("%d (%s ago)", restarts, since(last, now))
	}
	return fmt.Sprint(restarts)
}

func podGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, g := range p.Spec.ReadinessGates {
		for _, c := range p.Status.Conditions {
			if c.Type == g.ConditionType && c.Status == corev1.ConditionTrue {
				met++
			}
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}
