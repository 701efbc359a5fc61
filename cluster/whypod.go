package cluster

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// PodWhy says what a pod waits for, if for anything, and which Services lead to it.
type PodWhy struct {
	Pod      string       `json:"pod"` // namespace/name
	Phase    string       `json:"phase"`
	Node     string       `json:"node"` // "" while it has none
	Address  string       `json:"address"`
	Ready    bool         `json:"ready"`
	Waits    []string     `json:"waits"`    // what holds it back, the first cause first; the container's name before its own
	Services []PodService `json:"services"` // of its namespace; those that lead to it first
}

// PodService is a Service's verdict on a pod.
type PodService struct {
	Service string `json:"service"`
	WhyPod
}

// WhyPod explains a pod.
func (c *Cluster) WhyPod(ctx context.Context, name types.NamespacedName) (PodWhy, error) {
	obj, err := c.store.Get(api.Pods, name.Namespace, name.Name)
	if err != nil {
		return PodWhy{}, err
	}
	pod := obj.(*corev1.Pod)
	w := PodWhy{
		Pod: name.String(), Phase: string(pod.Status.Phase), Node: pod.Spec.NodeName, Address: pod.Status.PodIP,
		Ready: api.Ready(pod), Waits: waits(pod), Services: []PodService{},
	}
	list, err := c.store.List(ctx, api.Services, store.Query{Namespace: name.Namespace})
	if err != nil {
		return w, err
	}
	for _, svc := range store.All[*corev1.Service](list.Items) {
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		why, err := c.Why(ctx, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
		if err != nil {
			return w, err
		}
		for _, p := range why.Pods {
			if p.Pod == name.Name {
				w.Services = append(w.Services, PodService{svc.Name, p})
			}
		}
	}
	slices.SortStableFunc(w.Services, func(a, b PodService) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Service, b.Service))
	})
	return w, nil
}

// waits are the reasons that a pod's status gives for not being ready.
func waits(pod *corev1.Pod) []string {
	all := []string{}
	say := func(who, reason, message string) {
		if reason == "" && message == "" {
			return
		}
		text := cmp.Or(reason, message)
		if reason != "" && message != "" {
			text += ": " + message
		}
		if who != "" {
			text = who + ": " + text
		}
		all = append(all, text)
	}
	if pod.DeletionTimestamp != nil {
		say("", "Terminating", "")
	}
	say("", pod.Status.Reason, pod.Status.Message)
	if c := api.PodCondition(pod, corev1.PodScheduled); c != nil && c.Status != corev1.ConditionTrue {
		say("", c.Reason, c.Message)
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			switch {
			case s.State.Waiting != nil:
				say(s.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
			case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
				say(s.Name, s.State.Terminated.Reason, s.State.Terminated.Message)
			}
		}
	}
	if c := api.PodCondition(pod, corev1.PodReady); c != nil && c.Status != corev1.ConditionTrue {
		say("", c.Reason, c.Message)
	}
	return all
}
