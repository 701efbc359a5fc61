package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Reasons of the events of a resize, as kubelet words them.
const (
	reasonResizeDeferred  = "ResizeDeferred"
	reasonResizeStarted   = "ResizeStarted"
	reasonResizeCompleted = "ResizeCompleted"
)

// resizing is how far a pod is with giving its containers other amounts of cpu and memory.
type resizing struct {
	pending string // why it has to wait; "" while it has not
	asked   int64  // the generation that asked for what it waits for
	ongoing int64  // the generation of what it is being given; 0 for nothing
}

// asRemembered is how far a pod was before the machine lost its power.
func asRemembered(pod *corev1.Pod) (r resizing) {
	for _, c := range pod.Status.Conditions {
		switch c.Type {
		case corev1.PodResizePending:
			r.pending, r.asked = c.Message, c.ObservedGeneration
		case corev1.PodResizeInProgress:
			r.ongoing = c.ObservedGeneration
		}
	}
	return r
}

// admit fails a pod that asks for more than the machine has left, in kubelet's words.
func (w *worker) admit() {
	if w.failed != nil {
		return
	}
	if lack := w.n.allocations.admit(w.claimOf(w.allocated())); lack != nil {
		w.reject("OutOf"+string(lack.name), lack.Error())
	}
}

// reject fails a pod before anything of it has been made.
func (w *worker) reject(reason, message string) {
	w.failed = &verdict{reason: reason, message: "Pod was rejected: " + message, rejected: true}
	w.note(happening{kind: corev1.EventTypeWarning, reason: reason, message: message})
}

// allocated is the pod with the amounts that its containers have.
func (w *worker) allocated() *corev1.Pod {
	pod := *w.pod
	for _, list := range []*[]corev1.Container{&pod.Spec.InitContainers, &pod.Spec.Containers} {
		*list = slices.Clone(*list)
		for i := range *list {
			if c := w.find((*list)[i].Name); c != nil {
				(*list)[i].Resources = c.given
			}
		}
	}
	return &pod
}

// resized calls fn with each container whose amounts the pod's spec has changed.
func (w *worker) resized(fn func(*container, corev1.ResourceRequirements)) {
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			if c := w.find(list[i].Name); c != nil && !equality.Semantic.DeepEqual(c.given, list[i].Resources) {
				fn(c, list[i].Resources)
			}
		}
	}
}

// resize gives the containers the amounts that the pod's spec asks for now, or says why not.
func (w *worker) resize() {
	if w.decided() || !asksForResources(&w.pod.Spec) {
		return
	}
	wanted := false
	w.resized(func(*container, corev1.ResourceRequirements) { wanted = true })
	if !wanted {
		if w.sizes.pending != "" {
			w.sizes.pending, w.dirty = "", true
			w.n.allocations.withdraw(w.uid)
		}
		return
	}
	if lack := w.n.allocations.ask(w.claimOf(w.pod)); lack != nil {
		w.postpone(lack.Error())
		return
	}
	w.sizes = resizing{ongoing: w.pod.Generation}
	w.note(happening{reason: reasonResizeStarted, message: "Pod resize started: " + w.summary(w.pod.Generation, "")})
	w.resized(func(c *container, to corev1.ResourceRequirements) {
		from := c.given
		c.given = to
		if c.mustRestart(from, to) {
			c.again(fmt.Sprintf("Container %s resize requires restart", c.spec.Name))
		}
	})
	w.dirty = true
	w.finishResize()
}

// postpone says that there is not enough for now. It is an event when it is news.
func (w *worker) postpone(message string) {
	if w.sizes.pending == "" || w.sizes.asked != w.pod.Generation {
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonResizeDeferred,
			message: "Pod resize " + corev1.PodReasonDeferred + ": " + w.summary(w.pod.Generation, message)})
	}
	if w.sizes.pending != message || w.sizes.asked != w.pod.Generation {
		w.sizes.pending, w.sizes.asked, w.dirty = message, w.pod.Generation, true
	}
}

// finishResize tells of the end of a resize, when every container that had to be started again for it has been.
func (w *worker) finishResize() {
	if w.sizes.ongoing == 0 || slices.ContainsFunc(w.all(), func(c *container) bool { return c.changed }) {
		return
	}
	w.note(happening{reason: reasonResizeCompleted, message: "Pod resize completed: " + w.summary(w.sizes.ongoing, "")})
	w.sizes.ongoing, w.dirty = 0, true
}

// mustRestart tells that the container wants to be started again when such amounts change.
func (c *container) mustRestart(from, to corev1.ResourceRequirements) bool {
	return slices.ContainsFunc(c.spec.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
		changes := func(was, is corev1.ResourceList) bool { return !was[p.ResourceName].Equal(is[p.ResourceName]) }
		return p.RestartPolicy == corev1.RestartContainer && (changes(from.Requests, to.Requests) || changes(from.Limits, to.Limits))
	})
}

// summary is a pod's amounts as the events of a resize carry them.
func (w *worker) summary(generation int64, fault string) string {
	type allocation struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	all := func(list []corev1.Container) (out []allocation) {
		for _, c := range list {
			out = append(out, allocation{c.Name, c.Resources})
		}
		return out
	}
	raw, err := json.Marshal(struct {
		InitContainers []allocation `json:"initContainers,omitempty"`
		Containers     []allocation `json:"containers,omitempty"`
		Generation     int64        `json:"generation"`
		Error          string       `json:"error,omitempty"`
	}{all(w.pod.Spec.InitContainers), all(w.pod.Spec.Containers), generation, fault})
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// show gives a status the conditions that it has while the pod is being resized, and only then.
func (r resizing) show(s *corev1.PodStatus, now time.Time) {
	set := func(t corev1.PodConditionType, is bool, reason, message string) {
		if !is {
			s.Conditions = slices.DeleteFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == t })
			return
		}
		setCondition(s, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastProbeTime: metaTime(now)}, now)
	}
	set(corev1.PodResizePending, r.pending != "", corev1.PodReasonDeferred, r.pending)
	set(corev1.PodResizeInProgress, r.ongoing != 0, "", "")
}
