package controller

import (
	"cmp"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// The weights of the preferences, and the best mark, as in kube-scheduler.
const (
	weightTaints   = 3
	weightAffinity = 2
	weightSocial   = 2
	weightSpread   = 2
	bestMark       = 100
)

// best picks a node: by what the pod and others prefer; then where fewest pods of the same controller are; then where least is
// requested; then with the fewest pods, and the first by name.
func (w *wish) best(fit []*seat) *seat {
	if len(fit) == 1 {
		return fit[0]
	}
	marks := w.marks(fit)
	owner := controllerUID(w.pod)
	at := 0
	for i, s := range fit[1:] {
		b := fit[at]
		order := cmp.Or(
			cmp.Compare(marks[at], marks[i+1]),
			cmp.Compare(s.byOwner[owner], b.byOwner[owner]),
			cmp.Compare(s.fullness(), b.fullness()),
			cmp.Compare(s.live, b.live),
			strings.Compare(s.node.Name, b.node.Name),
		)
		if order < 0 {
			at = i + 1
		}
	}
	return fit[at]
}

// fullness is how many percent of a node are asked for, as kube-scheduler's LeastAllocated reckons it.
func (s *seat) fullness() int64 {
	sum, n := int64(0), int64(0)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if all := whole(s.node.Status.Allocatable, name); all > 0 {
			sum += min(s.weight[name]*bestMark/all, bestMark)
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / n
}

// marks are the weighted sums of each node's preferences.
func (w *wish) marks(fit []*seat) []int64 {
	sum := make([]int64, len(fit))
	add := func(weight int64, marks []int64) {
		for i := range marks {
			sum[i] += weight * marks[i]
		}
	}
	add(weightTaints, w.taintMarks(fit))
	add(weightAffinity, w.affinityMarks(fit))
	add(weightSocial, w.socialMarks(fit))
	add(weightSpread, w.spreadMarks(fit))
	return sum
}

// taintMarks: the fewer taints ask the pod to stay away, the better.
func (w *wish) taintMarks(fit []*seat) []int64 {
	raw := make([]int64, len(fit))
	for i, s := range fit {
		for _, taint := range s.node.Spec.Taints {
			if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerated(w.pod, taint) {
				raw[i]++
			}
		}
	}
	most := slices.Max(raw)
	for i := range raw {
		raw[i] = bestMark - share(raw[i], most)
	}
	return raw
}

// share is n of most, with the best mark for all of it.
func share(n, most int64) int64 {
	if most == 0 {
		return 0
	}
	return n * bestMark / most
}

func (w *wish) affinityMarks(fit []*seat) []int64 {
	a := w.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil
	}
	raw := make([]int64, len(fit))
	for i, s := range fit {
		raw[i] = terms.Score(s.node)
	}
	most := slices.Max(raw)
	for i := range raw {
		raw[i] = share(raw[i], most)
	}
	return raw
}

func (w *wish) socialMarks(fit []*seat) []int64 {
	liking := w.liking()
	if len(liking) == 0 {
		return nil
	}
	raw := make([]int64, len(fit))
	for i, s := range fit {
		for d, n := range liking {
			if value, ok := s.node.Labels[d.key]; ok && value == d.value {
				raw[i] += n
			}
		}
	}
	least, most := slices.Min(raw), slices.Max(raw)
	for i := range raw {
		raw[i] = share(raw[i]-least, most-least)
	}
	return raw
}

// spreadMarks: the fewer of the pods that ScheduleAnyway constraints are about, the better. A key with more values weighs more.
func (w *wish) spreadMarks(fit []*seat) []int64 {
	soft := w.spreads(corev1.ScheduleAnyway)
	if len(soft) == 0 {
		return nil
	}
	raw := make([]int64, len(fit))
	least, most := int64(math.MaxInt64), int64(0)
	for i, s := range fit {
		if !hasKeys(s.node, soft) {
			raw[i] = -1
			continue
		}
		var cost float64
		for j := range soft {
			n := soft[j].counts[s.node.Labels[soft[j].TopologyKey]]
			cost += float64(n)*math.Log(float64(len(soft[j].counts)+2)) + float64(soft[j].MaxSkew-1)
		}
		raw[i] = int64(math.Round(cost))
		least, most = min(least, raw[i]), max(most, raw[i])
	}
	for i := range raw {
		switch {
		case raw[i] < 0:
			raw[i] = 0
		case most == 0:
			raw[i] = bestMark
		default:
			raw[i] = bestMark * (most + least - raw[i]) / most
		}
	}
	return raw
}
