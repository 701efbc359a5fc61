package cluster

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/controller"
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
		at, err := c.verdictOn(ctx, svc, pod)
		if err != nil {
			return w, err
		}
		w.Services = append(w.Services, PodService{svc.Name, at})
	}
	slices.SortStableFunc(w.Services, func(a, b PodService) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Service, b.Service))
	})
	return w, nil
}

// verdictOn is what a Service has to say of a pod. Only one that takes it in is looked at as a whole, for the pod's share.
func (c *Cluster) verdictOn(ctx context.Context, svc *corev1.Service, pod *corev1.Pod) (WhyPod, error) {
	if verdict := controller.Explain(svc, pod); !verdict.Endpoint {
		return WhyPod{Pod: pod.Name, Addresses: []string{}, Reason: verdict.Reason}, nil
	}
	why, err := c.Why(ctx, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	if err != nil {
		return WhyPod{}, err
	}
	i := slices.IndexFunc(why.Pods, func(p WhyPod) bool { return p.Pod == pod.Name })
	if i < 0 {
		return WhyPod{}, apierrors.NewNotFound(api.Pods.GroupResource(), pod.Name) // it went meanwhile
	}
	return why.Pods[i], nil
}

// waits are the reasons that a pod's status gives for not being ready.
func waits(pod *corev1.Pod) []string {
	all := []string{}
	if pod.DeletionTimestamp != nil {
		all = append(all, "Terminating")
	}
	all = reason(all, "", pod.Status.Reason, pod.Status.Message)
	all = unmet(all, pod, corev1.PodScheduled)
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			switch {
			case s.State.Waiting != nil:
				all = reason(all, s.Name+": ", s.State.Waiting.Reason, s.State.Waiting.Message)
			case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
				all = reason(all, s.Name+": ", s.State.Terminated.Reason, s.State.Terminated.Message)
			}
		}
	}
	return unmet(all, pod, corev1.PodReady)
}

func unmet(all []string, pod *corev1.Pod, t corev1.PodConditionType) []string {
	c := api.PodCondition(pod, t)
	if c == nil || c.Status == corev1.ConditionTrue {
		return all
	}
	return reason(all, "", c.Reason, c.Message)
}

// reason adds what there is of a reason and its message.
func reason(all []string, who, reason, message string) []string {
	switch {
	case reason == "" && message == "":
		return all
	case reason == "" || message == "":
		return append(all, who+reason+message)
	}
	return append(all, who+reason+": "+message)
}
