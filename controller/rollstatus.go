package controller

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of a Deployment's conditions; kubectl reads some of them.
const (
	reasonCreated     = "NewReplicaSetCreated"
	reasonFound       = "FoundNewReplicaSet"
	reasonUpdated     = "ReplicaSetUpdated"
	reasonComplete    = "NewReplicaSetAvailable"
	reasonTimedOut    = "ProgressDeadlineExceeded"
	reasonNotCreated  = "ReplicaSetCreateError"
	reasonPaused      = "DeploymentPaused"
	reasonResumed     = "DeploymentResumed"
	reasonAvailable   = "MinimumReplicasAvailable"
	reasonUnavailable = "MinimumReplicasUnavailable"
)

// planStatus is the status of a Deployment at a time.
func planStatus(r rollout, now time.Time) appsv1.DeploymentStatus {
	d := r.deployment
	s := appsv1.DeploymentStatus{ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount}
	for _, c := range d.Status.Conditions {
		s.Conditions = append(s.Conditions, *c.DeepCopy())
	}
	var terminating int32
	s.TerminatingReplicas = &terminating
	for _, rs := range r.all() {
		terminating += wantedOr(rs.Status.TerminatingReplicas, 0)
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
	}
	if r.current != nil {
		s.UpdatedReplicas = r.current.Status.Replicas
	}
	s.UnavailableReplicas = max(total(r.all())-s.AvailableReplicas, 0)
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentReplicaFailure })
	if c := failureOf(r); c != nil {
		s.Conditions = append(s.Conditions, *c)
	}
	setCondition(&s, availability(d, s.AvailableReplicas), now)
	progress(r, &s, now)
	return s
}

// failureOf is why pods are missing, from the newest ReplicaSet that says so.
func failureOf(r rollout) *appsv1.DeploymentCondition {
	for _, rs := range slices.Backward(r.all()) {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

func availability(d *appsv1.Deployment, n int32) appsv1.DeploymentCondition {
	if _, unavailable := fenceposts(d); n >= wanted(d.Spec.Replicas)-unavailable {
		return appsv1.DeploymentCondition{
			Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, Reason: reasonAvailable,
			Message: "Deployment has minimum availability.",
		}
	}
	return appsv1.DeploymentCondition{
		Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, Reason: reasonUnavailable,
		Message: "Deployment does not have minimum availability.",
	}
}

// progress sets the condition Progressing: how the rollout stands against its deadline.
func progress(r rollout, s *appsv1.DeploymentStatus, now time.Time) {
	d, was := r.deployment, condition(r.deployment.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(d) {
		s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing })
		return
	}
	set := func(status corev1.ConditionStatus, reason, message string) {
		setCondition(s, appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: message}, now)
	}
	moved := func(reason, message string) { // counts as progress: the deadline runs from now
		set(corev1.ConditionTrue, reason, message)
		condition(*s, appsv1.DeploymentProgressing).LastUpdateTime = metav1.NewTime(now.Truncate(time.Second))
	}
	switch {
	case d.Spec.Paused:
		set(corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case was != nil && was.Reason == reasonPaused:
		moved(reasonResumed, "Deployment is resumed")
	case r.current == nil:
	case stillComplete(r, s):
	case complete(d, s):
		moved(reasonComplete, completeMessage(r))
	case was == nil:
		moved(reasonCreated, fmt.Sprintf("Created new replica set %q", r.current.Name))
	case advanced(d.Status, s):
		moved(reasonUpdated, fmt.Sprintf("ReplicaSet %q is progressing.", r.current.Name))
	case was.Reason == reasonComplete:
		moved(reasonFound, fmt.Sprintf("Found new replica set %q", r.current.Name))
	case was.Reason == reasonTimedOut || !deadline(d, was).After(now):
		set(corev1.ConditionFalse, reasonTimedOut, fmt.Sprintf("ReplicaSet %q has timed out progressing.", r.current.Name))
	}
}

// stillComplete tells that the rollout to this ReplicaSet ended before; it stays so when a pod is lost or the size changes.
func stillComplete(r rollout, s *appsv1.DeploymentStatus) bool {
	was := condition(r.deployment.Status, appsv1.DeploymentProgressing)
	return was != nil && was.Reason == reasonComplete && was.Message == completeMessage(r) && s.Replicas == s.UpdatedReplicas
}

func completeMessage(r rollout) string {
	return fmt.Sprintf("ReplicaSet %q has successfully progressed.", r.current.Name)
}

// complete tells that every wanted pod is of the newest template and available, and no other is left.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := wanted(d.Spec.Replicas)
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want
}

// advanced tells that the rollout moved on: more new pods, fewer old ones, more that are ready or available.
func advanced(was appsv1.DeploymentStatus, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > was.UpdatedReplicas || s.Replicas-s.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		s.ReadyReplicas > was.ReadyReplicas || s.AvailableReplicas > was.AvailableReplicas
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds < 1<<31-1
}

// deadline is when a rollout that stands still has failed.
func deadline(d *appsv1.Deployment, c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
}

func condition(s appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition files c; its times move only with what it says.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition, now time.Time) {
	c.LastUpdateTime = metav1.NewTime(now.Truncate(time.Second))
	c.LastTransitionTime = c.LastUpdateTime
	old := condition(*s, c.Type)
	if old == nil {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
		if old.Reason == c.Reason {
			c.LastUpdateTime = old.LastUpdateTime
		}
	}
	*old = c
}
