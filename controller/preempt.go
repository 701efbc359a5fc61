package controller

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// sacrifice is the pods that have to leave a node so that one of higher priority fits there.
type sacrifice struct {
	seat     *seat
	victims  []*corev1.Pod // the most important first; never none
	breaches int           // of them, those that a disruption budget would have kept
}

func priorityOf(pod *corev1.Pod) int32 { return wantedOr(pod.Spec.Priority, 0) }

// startedAt is when a pod started; one that has not is taken to start now, later than all others.
func startedAt(pod *corev1.Pod) time.Time {
	if pod.Status.StartTime == nil {
		return time.Unix(math.MaxInt32, 0)
	}
	return pod.Status.StartTime.Time
}

// byImportance puts the more important pod first: of higher priority, then older.
func byImportance(a, b *corev1.Pod) int {
	return cmp.Or(cmp.Compare(priorityOf(b), priorityOf(a)), startedAt(a).Compare(startedAt(b)), cmp.Compare(api.Name(a), api.Name(b)))
}

// preempt looks for the pods whose going costs least among all nodes where that helps; nil with the reason when there are none, as
// kube-scheduler reasons. hopeless are the nodes where nobody's going would help.
func (w *wish) preempt(hopeless map[*seat]bool) (*sacrifice, string) {
	if p := w.pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never."
	}
	if w.makingRoom(hopeless) {
		return nil, "not eligible due to a terminating pod on the nominated node."
	}
	reasons := map[string]int{}
	var best *sacrifice
	for _, s := range w.hall.seats {
		if hopeless[s] {
			reasons["Preemption is not helpful for scheduling"]++
			continue
		}
		found, why := w.sacrificeOn(s)
		for _, reason := range why {
			reasons[reason]++
		}
		if found != nil && (best == nil || found.cheaper(best)) {
			best = found
		}
	}
	if best != nil {
		return best, fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", best.seat.node.Name, len(best.victims))
	}
	return nil, unavailable(len(w.hall.seats), reasons)
}

// makingRoom tells that victims of this pod are still on their way out.
func (w *wish) makingRoom(hopeless map[*seat]bool) bool {
	for _, s := range w.hall.seats {
		if s.node.Name != w.pod.Status.NominatedNodeName || hopeless[s] {
			continue
		}
		for _, l := range s.lodgers {
			c := podCondition(l.pod, corev1.DisruptionTarget)
			if l.pod.DeletionTimestamp != nil && priorityOf(l.pod) < priorityOf(w.pod) && c != nil && c.Reason == corev1.PodReasonPreemptionByScheduler {
				return true
			}
		}
	}
	return false
}

// sacrificeOn picks the victims on one node: all of lower priority, but for those that may stay after all, the most important first.
func (w *wish) sacrificeOn(s *seat) (*sacrifice, []string) {
	var lower, stay []*corev1.Pod
	for _, l := range s.lodgers {
		if priorityOf(l.pod) < priorityOf(w.pod) {
			lower = append(lower, l.pod)
		} else {
			stay = append(stay, l.pod)
		}
	}
	if len(lower) == 0 {
		return nil, []string{"No preemption victims found for incoming pod"}
	}
	trial := newSeat(s.node, stay)
	h := w.hall.with(s, trial)
	if r := newWish(w.pod, h).refuse(trial); len(r.reasons) > 0 {
		return nil, r.reasons
	}
	slices.SortFunc(lower, byImportance)
	kept, others := guarded(lower, w.hall.budgets())
	found := &sacrifice{seat: s}
	spare := func(pods []*corev1.Pod) (n int) {
		for _, pod := range pods {
			if trial.take(pod); len(newWish(w.pod, h).refuse(trial).reasons) > 0 {
				trial.leave(api.Name(pod))
				found.victims = append(found.victims, pod)
				n++
			}
		}
		return n
	}
	found.breaches = spare(kept)
	spare(others)
	if len(found.victims) == 0 {
		return nil, []string{"No preemption victims found for incoming pod"}
	}
	slices.SortFunc(found.victims, byImportance)
	return found, nil
}

// guarded parts pods, the most important first, into those whose going breaks a disruption budget and the others.
func guarded(pods []*corev1.Pod, budgets []*policyv1.PodDisruptionBudget) (kept, others []*corev1.Pod) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.Status.DisruptionsAllowed
	}
	breaks := func(pod *corev1.Pod) bool {
		for i, b := range budgets {
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			_, counted := b.Status.DisruptedPods[pod.Name]
			if err != nil || counted || b.Namespace != pod.Namespace || selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			if left[i]--; left[i] < 0 {
				return true
			}
		}
		return false
	}
	for _, pod := range pods {
		if breaks(pod) {
			kept = append(kept, pod)
		} else {
			others = append(others, pod)
		}
	}
	return kept, others
}

// cheaper orders sacrifices as Kubernetes does: fewer breached budgets, a lower highest priority, a lower sum of priorities, fewer
// pods, and the younger pods; of equals the first node by name stays.
func (s *sacrifice) cheaper(than *sacrifice) bool {
	return cmp.Or(
		cmp.Compare(s.breaches, than.breaches),
		cmp.Compare(priorityOf(s.victims[0]), priorityOf(than.victims[0])),
		cmp.Compare(s.sum(), than.sum()),
		cmp.Compare(len(s.victims), len(than.victims)),
		startedAt(than.victims[0]).Compare(startedAt(s.victims[0])),
	) < 0
}

// sum adds the priorities up, each lifted above 0, so that fewer pods are less.
func (s *sacrifice) sum() (n int64) {
	for _, pod := range s.victims {
		n += int64(priorityOf(pod)) + math.MaxInt32 + 1
	}
	return n
}

// with is the hall with another seat in one's place.
func (h hall) with(old, other *seat) hall {
	h.seats = slices.Clone(h.seats)
	h.seats[slices.Index(h.seats, old)] = other
	return h
}

// expecting is the hall with those pods seated that made room for themselves, or had it made, and are at least as important as pod.
func (h hall) expecting(pod *corev1.Pod, nominated map[string]*corev1.Pod) hall {
	coming := map[string][]*corev1.Pod{}
	for _, p := range nominated {
		if p.UID != pod.UID && priorityOf(p) >= priorityOf(pod) {
			coming[p.Status.NominatedNodeName] = append(coming[p.Status.NominatedNodeName], p)
		}
	}
	for _, s := range h.seats {
		if pods := coming[s.node.Name]; len(pods) > 0 {
			for _, l := range s.lodgers {
				pods = append(pods, l.pod)
			}
			h = h.with(s, newSeat(s.node, pods))
		}
	}
	return h
}

// nominate keeps the list of the pods that wait for a place of which they know.
func (c *scheduler) nominate(ev store.Event, pod *corev1.Pod) (gone bool) {
	_, known := c.nominated[api.Name(pod)]
	delete(c.nominated, api.Name(pod))
	if ev.Type != store.Deleted && unplaced(pod) && pod.Status.NominatedNodeName != "" {
		c.nominated[api.Name(pod)] = pod
		return false
	}
	return known && pod.Spec.NodeName == ""
}

// makeRoom sends the victims of a pod away; less important pods that counted on the node count on it no more.
func (c *scheduler) makeRoom(t *turn, pod *corev1.Pod, s *sacrifice) error {
	node := s.seat.node.Name
	for _, victim := range s.victims {
		if victim.DeletionTimestamp != nil {
			continue // it goes already
		}
		told := api.Copy(victim)
		setPodCondition(told, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message: defaultScheduler + ": preempting to accommodate a higher priority pod",
		}, t.now)
		h := happening{component: defaultScheduler, reason: "Preempted", message: fmt.Sprintf("Preempted by pod %s on node %s", pod.UID, node), action: "Preempting"}
		if err := t.update(told); err != nil {
			return err
		}
		if err := t.delete(told, store.DeleteOptions{}); err != nil {
			return err
		}
		if err := t.record(victim, h); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.nominated)) {
		if other := c.nominated[name]; other.Status.NominatedNodeName == node && priorityOf(other) < priorityOf(pod) {
			free := api.Copy(other)
			free.Status.NominatedNodeName = ""
			if err := t.update(free); err != nil {
				return err
			}
			t.todo(c, name)
		}
	}
	return nil
}
