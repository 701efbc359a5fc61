package controller

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// jobBackoff and jobBackoffMost are how long a Job waits after its first failed pod, and at most: Kubernetes' figures.
	jobBackoff     = 10 * time.Second
	jobBackoffMost = 10 * time.Minute
)

// backoff is the failures in a row, and when the last one was.
type backoff struct {
	times int
	last  time.Time
}

// after is the failures in a row when these pods have ended too.
func (b backoff) after(succeeded, failed []*corev1.Pod) backoff {
	var success time.Time
	if len(succeeded) > 0 {
		b = backoff{}
		success = finishedAt(slices.MaxFunc(succeeded, byFinish))
	}
	for _, pod := range failed {
		at := finishedAt(pod)
		if len(succeeded) > 0 && !at.After(success) {
			continue
		}
		b.times++
		if at.After(b.last) {
			b.last = at
		}
	}
	return b
}

// wait is how long no pod is to be made after the last failure.
func (b backoff) wait(now time.Time) time.Duration {
	if b.times == 0 {
		return 0
	}
	pause := jobBackoff
	for n := 1; n < b.times && pause < jobBackoffMost; n++ {
		pause *= 2
	}
	return max(b.last.Add(min(pause, jobBackoffMost)).Sub(now), 0)
}

func byFinish(a, b *corev1.Pod) int { return finishedAt(a).Compare(finishedAt(b)) }

// finishedAt is when a pod's last container ended; where no container tells it, when the pod stopped being ready or was deleted.
func finishedAt(pod *corev1.Pod) time.Time {
	var last time.Time
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			last = time.Time{}
			break
		}
		if at := s.State.Terminated.FinishedAt.Time; at.After(last) {
			last = at
		}
	}
	if !last.IsZero() {
		return last
	}
	if c := podCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		grace := cmp.Or(pod.DeletionGracePeriodSeconds, new(int64))
		return pod.DeletionTimestamp.Add(-time.Duration(*grace) * time.Second)
	}
	return pod.CreationTimestamp.Time
}
