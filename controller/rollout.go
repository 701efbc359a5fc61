package controller

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Annotations by which a Deployment's controller speaks to itself and to kubectl.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredAnnotation         = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// rollout is all that the next step of a Deployment depends on.
type rollout struct {
	deployment *appsv1.Deployment
	current    *appsv1.ReplicaSet   // of the Deployment's template; nil when there is none yet
	old        []*appsv1.ReplicaSet // the others, oldest first
	oldPods    bool                 // some old ReplicaSet still has pods that have not ended
}

// scaling is one step: a ReplicaSet gets another size.
type scaling struct {
	set      *appsv1.ReplicaSet
	replicas int32
}

// all is every ReplicaSet of the rollout, oldest first, the current one last.
func (r rollout) all() []*appsv1.ReplicaSet {
	if r.current == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.current)
}

// fenceposts resolves how many pods may be there beyond the wanted number, and how many may be missing; never both 0.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	u := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || u == nil {
		return 0, 0
	}
	n := int(wanted(d.Spec.Replicas))
	quarter := intstr.FromString("25%")
	up, _ := intstr.GetScaledValueFromIntOrPercent(cmp.Or(u.MaxSurge, &quarter), n, true)
	down, _ := intstr.GetScaledValueFromIntOrPercent(cmp.Or(u.MaxUnavailable, &quarter), n, false)
	if up == 0 && down == 0 {
		down = 1
	}
	return int32(up), int32(min(down, n))
}

// planScale is the next step of a rollout: the ReplicaSets that get another size now. Nothing when it is done, or has to wait for
// pods.
func planScale(r rollout) []scaling {
	switch {
	case resized(r):
		return planResize(r)
	case r.deployment.Spec.Paused:
		return nil
	case r.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return planRecreate(r)
	case r.current == nil:
		return nil
	}
	if size := rollingSize(r); size != *r.current.Spec.Replicas {
		return []scaling{{r.current, size}}
	}
	return planShrink(r)
}

// rollingSize is how big the current ReplicaSet may be now: the wanted number, as far as the surge leaves room for it.
func rollingSize(r rollout) int32 {
	want, have := wanted(r.deployment.Spec.Replicas), int32(0)
	if r.current != nil {
		have = *r.current.Spec.Replicas
	}
	if have >= want {
		return want
	}
	surge, _ := fenceposts(r.deployment)
	room := want + surge - total(r.all())
	return have + max(min(room, want-have), 0)
}

func planRecreate(r rollout) []scaling {
	var steps []scaling
	for _, rs := range r.old {
		if *rs.Spec.Replicas > 0 {
			steps = append(steps, scaling{rs, 0})
		}
	}
	if want := wanted(r.deployment.Spec.Replicas); len(steps) == 0 && !r.oldPods && r.current != nil && *r.current.Spec.Replicas != want {
		steps = append(steps, scaling{r.current, want})
	}
	return steps
}

// planShrink takes from the old ReplicaSets: first what is broken anyway, then as much as availability allows.
func planShrink(r rollout) []scaling {
	_, unavailable := fenceposts(r.deployment)
	least := wanted(r.deployment.Spec.Replicas) - unavailable
	spare := total(r.all()) - least - (*r.current.Spec.Replicas - available(r.current))
	if total(r.old) == 0 || spare <= 0 {
		return nil
	}
	sizes := map[*appsv1.ReplicaSet]int32{}
	for _, rs := range r.old {
		sizes[rs] = *rs.Spec.Replicas
		cut := min(spare, *rs.Spec.Replicas-available(rs))
		sizes[rs] -= cut
		spare -= cut
	}
	free := available(r.current) - least
	for _, rs := range r.old {
		free += available(rs)
	}
	for _, rs := range r.old {
		if cut := min(free, sizes[rs]); cut > 0 {
			sizes[rs] -= cut
			free -= cut
		}
	}
	var steps []scaling
	for _, rs := range r.old {
		if sizes[rs] != *rs.Spec.Replicas {
			steps = append(steps, scaling{rs, sizes[rs]})
		}
	}
	return steps
}

// available counts a ReplicaSet's available pods, never more than it is to keep: its status may be older than its size.
func available(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

func total(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(rs *appsv1.ReplicaSet) bool { return *rs.Spec.Replicas == 0 })
}

// resized tells that the wanted number changed since the ReplicaSets were last given their sizes, or that a paused Deployment's
// only ReplicaSet differs from it.
func resized(r rollout) bool {
	want, sets := wanted(r.deployment.Spec.Replicas), active(r.all())
	if r.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType && len(sets) > 1 {
		return false // the old ones go anyway
	}
	for _, rs := range sets {
		if n, err := strconv.ParseInt(rs.Annotations[desiredAnnotation], 10, 32); err == nil && int32(n) != want {
			return true
		}
	}
	return r.deployment.Spec.Paused && len(sets) <= 1
}

// planResize scales without rolling: the only active ReplicaSet alone, or several in proportion, so that a rollout keeps its
// risk while it is scaled.
func planResize(r rollout) []scaling {
	want, sets := wanted(r.deployment.Spec.Replicas), active(r.all())
	if len(sets) <= 1 {
		only := r.current
		if len(sets) == 1 {
			only = sets[0]
		} else if only == nil && len(r.old) > 0 {
			only = r.old[len(r.old)-1]
		}
		if only == nil || *only.Spec.Replicas == want && only.Annotations[desiredAnnotation] == strconv.Itoa(int(want)) {
			return nil
		}
		return []scaling{{only, want}}
	}
	if r.current != nil && *r.current.Spec.Replicas == want && available(r.current) == want && r.current.Annotations[desiredAnnotation] == strconv.Itoa(int(want)) {
		var steps []scaling
		for _, rs := range active(r.old) {
			steps = append(steps, scaling{rs, 0})
		}
		return append(steps, scaling{r.current, want})
	}
	return proportional(r.deployment, sets)
}

// proportional spreads the difference between what is there and what may be there over the ReplicaSets by their size.
func proportional(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) []scaling {
	surge, _ := fenceposts(d)
	want := wanted(d.Spec.Replicas)
	allowed := int32(0)
	if want > 0 {
		allowed = want + surge
	}
	add := allowed - total(sets)
	ordered := slices.Clone(sets)
	slices.SortStableFunc(ordered, func(a, b *appsv1.ReplicaSet) int {
		newer := b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
		if add <= 0 {
			newer = -newer
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), newer)
	})
	var added int32
	steps := make([]scaling, len(ordered))
	for i, rs := range ordered {
		share := fraction(d, rs, allowed) - *rs.Spec.Replicas
		switch {
		case add == 0:
			share = 0
		case add > 0:
			share = min(share, add-added)
		default:
			share = max(share, add-added)
		}
		steps[i] = scaling{rs, *rs.Spec.Replicas + share}
		added += share
	}
	steps[0].replicas = max(steps[0].replicas+add-added, 0)
	return steps
}

// fraction is the size of rs scaled as the whole Deployment was scaled since; one that does not tell its Deployment's size is of the
// size that the status tells.
func fraction(d *appsv1.Deployment, rs *appsv1.ReplicaSet, allowed int32) int32 {
	before, err := strconv.ParseInt(rs.Annotations[maxReplicasAnnotation], 10, 32)
	if err != nil || before <= 0 {
		before = int64(d.Status.Replicas)
	}
	if before <= 0 {
		return *rs.Spec.Replicas
	}
	return int32(math.Round(float64(*rs.Spec.Replicas) * float64(allowed) / float64(before)))
}
