package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Ready tells whether the pod's Ready condition is true: it then belongs in the slices of its Services.
func Ready(pod *corev1.Pod) bool {
	c := PodCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// PodCondition returns the pod's condition of that type, or nil.
func PodCondition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// PodTerminal tells whether the pod has ended for good (Succeeded or Failed): it will not run again and holds no address.
func PodTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PodTerminating tells whether somebody asked for the pod's deletion and it still runs down.
func PodTerminating(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

// PodActive tells whether the pod counts as one of its ReplicaSet's: neither ended nor going.
func PodActive(pod *corev1.Pod) bool { return !PodTerminal(pod) && !PodTerminating(pod) }

// ServingContainers are those of a pod's containers that run on beside one another, whose ports are the pod's: its containers, and
// the init containers that are restarted (E-12).
func ServingContainers(pod *corev1.Pod) []corev1.Container {
	all := slices.Clip(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}

// Headless tells whether the Service has no address of its own: its name answers with the addresses of its pods.
func Headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }
