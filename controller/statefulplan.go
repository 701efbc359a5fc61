package controller

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// currentName is the revision that pods below the partition have; the newest where none was before.
func (s *ranks) currentName() string {
	if s.set.Status.CurrentRevision == "" {
		return s.history.current.Name
	}
	return s.set.Status.CurrentRevision
}

// uses tells that a pod is of a revision.
func (s *ranks) uses(revision string) bool {
	for _, members := range [][]member{s.wanted, s.surplus} {
		for _, m := range members {
			if m.pod != nil && m.pod.Labels[appsv1.ControllerRevisionHashLabelKey] == revision {
				return true
			}
		}
	}
	return false
}

// keepsOld tells that the pod of a number is made of the current revision, not the newest: the update has not come to it.
func (s *ranks) keepsOld(number int) bool {
	r := s.set.Spec.UpdateStrategy.RollingUpdate
	if s.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType || r == nil || r.Partition == nil {
		return false
	}
	return number < firstNumber(s.set)+int(*r.Partition)
}

// templateOf reads the template that a revision keeps.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var kept struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &kept); err != nil {
		return nil, fmt.Errorf("read ControllerRevision %s: %w", r.Name, err)
	}
	return &kept.Spec.Template, nil
}

// statefulPlan is the next step of a StatefulSet: numbers that get a pod, pods that go.
type statefulPlan struct {
	create []int
	delete []*corev1.Pod
}

// planStateful decides the next step. In order means: a pod starts when all before it are available, one stops when all that
// stay are and the one after it is gone, and one is replaced when the others are available.
func planStateful(s *ranks) (p statefulPlan) {
	parallel := s.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
	for _, m := range s.wanted {
		switch {
		case m.pod == nil:
			p.create = append(p.create, m.number)
		case podEnded(m.pod) && m.pod.DeletionTimestamp == nil:
			p.delete = append(p.delete, m.pod) // its successor comes when it is gone
		case m.available || parallel:
			continue
		}
		if !parallel {
			return p
		}
	}
	for i := len(s.surplus) - 1; i >= 0; i-- {
		if s.surplus[i].pod.DeletionTimestamp == nil {
			p.delete = append(p.delete, s.surplus[i].pod)
		}
		if !parallel {
			return p
		}
	}
	if len(p.create)+len(p.delete) == 0 {
		p.delete = s.outdated()
	}
	return p
}

// rolls tells that the rolling update is to replace a pod.
func (s *ranks) rolls(m member) bool {
	return s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && !s.keepsOld(m.number) &&
		m.pod.Labels[appsv1.ControllerRevisionHashLabelKey] != s.history.current.Name
}

// outdated lists the pods to replace now, the highest number first, as many as may be missing.
func (s *ranks) outdated() (pods []*corev1.Pod) {
	spare := 1
	if r := s.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.MaxUnavailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, len(s.wanted), true)
		if err == nil {
			spare = max(n, 1)
		}
	}
	for _, m := range s.wanted {
		if !m.available {
			spare--
		}
	}
	for i := len(s.wanted) - 1; i >= 0; i-- {
		m := s.wanted[i]
		switch {
		case m.pod == nil || m.pod.DeletionTimestamp != nil || !s.rolls(m):
		case !m.available:
			pods = append(pods, m.pod) // costs nothing
		case spare > 0:
			pods = append(pods, m.pod)
			spare--
		}
	}
	return pods
}
