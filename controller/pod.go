package controller

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// podCondition returns a condition of a pod, or nil.
func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// podReady tells whether a pod says that it is ready; a terminating pod may still be.
func podReady(pod *corev1.Pod) bool {
	c := podCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// podEnded tells that a pod has run to its end.
func podEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podActive tells that a pod counts as a replica: it has neither ended nor been deleted.
func podActive(pod *corev1.Pod) bool { return !podEnded(pod) && pod.DeletionTimestamp == nil }

// availableIn is how long until a ready pod has been ready for minReady seconds: 0 for an available pod. False when it is not
// ready, so that no time makes it available.
func availableIn(pod *corev1.Pod, minReady int32, now time.Time) (time.Duration, bool) {
	c := podCondition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return 0, false
	}
	if minReady == 0 {
		return 0, true
	}
	if c.LastTransitionTime.IsZero() {
		return 0, false
	}
	return max(c.LastTransitionTime.Add(time.Duration(minReady)*time.Second).Sub(now), 0), true
}
