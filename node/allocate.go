package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// allocations is what a machine has promised its pods, each thing once, and who waits for more, as kubelet keeps it.
type allocations struct {
	capacity amounts

	mu    sync.Mutex // guards all below
	given map[types.UID]claim
	waits map[types.UID]claim // resizes that have not been granted
	used  amounts             // the sum of given
	turn  int                 // counts the claims that began to wait
}

// claim is what a pod asks of its machine.
type claim struct {
	uid      types.UID
	wants    amounts
	priority int32
	qos      corev1.PodQOSClass
	nudge    func() // called, with the lock held, when the answer may be another one
	turn     int
}

// amounts are quantities as whole numbers: thousandths of a core, units of all else.
type amounts map[corev1.ResourceName]int64

func amountsOf(list corev1.ResourceList) amounts {
	if len(list) == 0 {
		return nil
	}
	a := amounts{}
	for name, q := range list {
		if a[name] = q.Value(); name == corev1.ResourceCPU {
			a[name] = q.MilliValue()
		}
	}
	return a
}

func newAllocations(capacity corev1.ResourceList) *allocations {
	return &allocations{capacity: amountsOf(capacity), given: map[types.UID]claim{}, waits: map[types.UID]claim{}, used: amounts{}}
}

// shortage is what there is too little of.
type shortage struct {
	name                      corev1.ResourceName
	requested, used, capacity int64
}

// Error says it in kubelet's words.
func (s *shortage) Error() string {
	return fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.name, s.requested, s.used, s.capacity)
}

// admit gives a pod that is new here what it asks for, unless it is too much: then it gets nothing.
func (a *allocations) admit(c claim) *shortage {
	a.mu.Lock()
	defer a.mu.Unlock()
	lack := a.lack(c)
	if lack == nil {
		a.give(c)
	}
	return lack
}

// ask gives a pod another amount than it has. While there is not enough it keeps what it has, waits, and is nudged when others let go.
func (a *allocations) ask(c claim) *shortage {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, waiting := a.waits[c.uid]; waiting {
		c.turn = old.turn
	} else {
		a.turn++
		c.turn = a.turn
	}
	a.waits[c.uid] = c
	a.grant()
	if _, waiting := a.waits[c.uid]; waiting {
		return a.lack(c)
	}
	return nil
}

// withdraw takes back what a pod asked for beyond what it has.
func (a *allocations) withdraw(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waits, uid)
}

// release takes back what a pod has. It may be called more than once.
func (a *allocations) release(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waits, uid)
	if _, has := a.given[uid]; has {
		a.give(claim{uid: uid})
		delete(a.given, uid)
		a.grant()
	}
}

// grant gives those who wait what there is, in kubelet's order, and nudges them all: those who go on waiting want to say for what.
func (a *allocations) grant() {
	for _, c := range slices.SortedFunc(maps.Values(a.waits), a.order) {
		if a.lack(c) == nil {
			a.give(c)
			delete(a.waits, c.uid)
		}
		c.nudge()
	}
}

// order is who goes first: who asks for no more, then by priority, then by quality of service, then who has waited longest.
func (a *allocations) order(x, y claim) int {
	rank := func(c claim) (more, guaranteed int) {
		had := a.given[c.uid].wants
		if c.wants[corev1.ResourceCPU] > had[corev1.ResourceCPU] || c.wants[corev1.ResourceMemory] > had[corev1.ResourceMemory] {
			more = 1
		}
		if c.qos == corev1.PodQOSGuaranteed {
			guaranteed = 1
		}
		return more, guaranteed
	}
	xMore, xGuaranteed := rank(x)
	yMore, yGuaranteed := rank(y)
	return cmp.Or(cmp.Compare(xMore, yMore), cmp.Compare(y.priority, x.priority), cmp.Compare(yGuaranteed, xGuaranteed), cmp.Compare(x.turn, y.turn))
}

func (a *allocations) give(c claim) {
	for name, n := range a.given[c.uid].wants {
		a.used[name] -= n
	}
	for name, n := range c.wants {
		a.used[name] += n
	}
	a.given[c.uid] = c
}

// lack is what the machine has too little of for a claim, beside what others have; nil for nothing. What it has none of at all it is
// not asked about.
func (a *allocations) lack(c claim) *shortage {
	old, here := a.given[c.uid]
	if room := a.capacity[corev1.ResourcePods]; !here && int64(len(a.given)) >= room {
		return &shortage{corev1.ResourcePods, 1, int64(len(a.given)), room}
	}
	for _, name := range slices.Sorted(maps.Keys(c.wants)) {
		capacity, known := a.capacity[name]
		if used := a.used[name] - old.wants[name]; known && c.wants[name] > 0 && c.wants[name] > capacity-used {
			return &shortage{name, c.wants[name], used, capacity}
		}
	}
	return nil
}

// claimOf is what a pod asks for as it stands.
func (w *worker) claimOf(pod *corev1.Pod) claim {
	c := claim{uid: w.uid, qos: pod.Status.QOSClass, nudge: w.nudge}
	if pod.Spec.Priority != nil {
		c.priority = *pod.Spec.Priority
	}
	if asksForResources(&pod.Spec) {
		c.wants = amountsOf(resource.PodRequests(pod, resource.PodResourcesOptions{}))
	}
	return c
}

// asksForResources spares the sums for the many pods that ask for nothing.
func asksForResources(spec *corev1.PodSpec) bool {
	asks := func(c corev1.Container) bool { return len(c.Resources.Requests)+len(c.Resources.Limits) > 0 }
	return len(spec.Overhead) > 0 || spec.Resources != nil || slices.ContainsFunc(spec.Containers, asks) || slices.ContainsFunc(spec.InitContainers, asks)
}
