package controller

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const statefulComponent = "statefulset-controller"

// statefulSets keeps the pods of each StatefulSet: each under its own number and name, started and stopped in order.
//
// There is no storage here: a StatefulSet with volumeClaimTemplates gets a warning event and no pods, rather than pods that
// would lose what they were told to keep.
type statefulSets struct{}

func (c *statefulSets) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.StatefulSets:
		if ev.Type != store.Deleted {
			t.todo(c, api.Name(ev.Object))
		}
	case api.Pods, api.ControllerRevisions:
		if t.by == controller(c) {
			return
		}
		for _, obj := range states[api.Object](ev) {
			if ref := metav1.GetControllerOfNoCopy(obj); ref != nil && ref.Kind == api.StatefulSets.Kind {
				t.todo(c, obj.GetNamespace()+"/"+ref.Name)
			}
		}
	}
}

func (c *statefulSets) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	set, ok := find[*appsv1.StatefulSet](t, api.StatefulSets, namespace, plain)
	if !ok || set.DeletionTimestamp != nil {
		return nil
	}
	h, err := chronicle(t, set, &set.Spec.Template, set.Status.CollisionCount)
	if err != nil {
		return err
	}
	s, err := c.look(t, set, h)
	if err != nil {
		return err
	}
	if len(set.Spec.VolumeClaimTemplates) > 0 {
		warning := happening{component: statefulComponent, warning: true, reason: "FailedCreate",
			message: "volumeClaimTemplates need storage, which this cluster does not have: no pods are made; use an emptyDir or a hostPath volume"}
		if err := t.record(set, warning); err != nil {
			return err
		}
	} else if err := c.step(t, s); err != nil {
		return err
	}
	if s, err = c.look(t, set, h); err != nil {
		return err
	}
	live := func(r *appsv1.ControllerRevision) bool { return r.Name == s.currentName() || s.uses(r.Name) }
	if err := h.forget(t, set.Spec.RevisionHistoryLimit, live); err != nil {
		return err
	}
	return c.report(t, s)
}

// member is one pod of a StatefulSet; pod is nil where there is none.
type member struct {
	number    int
	pod       *corev1.Pod
	available bool
}

// ranks is a StatefulSet with its pods: those it wants in order, and those beyond.
type ranks struct {
	set     *appsv1.StatefulSet
	history revisions
	wanted  []member
	surplus []member // lowest number first
}

var ordinal = regexp.MustCompile(`^(.*)-([0-9]+)$`)

// numberOf is the number in the name of a StatefulSet's pod.
func numberOf(set, pod string) (int, bool) {
	m := ordinal.FindStringSubmatch(pod)
	if m == nil || m[1] != set {
		return 0, false
	}
	n, err := strconv.Atoi(m[2])
	return n, err == nil
}

func firstNumber(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// look sorts the pods of a StatefulSet, and sets free those that its selector matches no longer.
func (c *statefulSets) look(t *turn, set *appsv1.StatefulSet, h revisions) (*ranks, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil, err
	}
	s := &ranks{set: set, history: h}
	first := firstNumber(set)
	for i := range int(wanted(set.Spec.Replicas)) {
		s.wanted = append(s.wanted, member{number: first + i})
	}
	for _, pod := range owned[*corev1.Pod](t, api.Pods, set) {
		n, ok := numberOf(set.Name, pod.Name)
		if !ok || !selector.Matches(labels.Set(pod.Labels)) {
			if err := release(t, pod, set); err != nil {
				return nil, err
			}
			continue
		}
		m := member{number: n, pod: pod}
		switch wait, ready := availableIn(pod, set.Spec.MinReadySeconds, t.now); {
		case !ready || pod.DeletionTimestamp != nil || podEnded(pod):
		case wait > 0:
			t.later(c, api.Name(set), t.now.Add(wait))
		default:
			m.available = true
		}
		if i := n - first; i >= 0 && i < len(s.wanted) {
			s.wanted[i] = m
		} else {
			s.surplus = append(s.surplus, m)
		}
	}
	slices.SortFunc(s.surplus, func(a, b member) int { return a.number - b.number })
	return s, nil
}

// step makes and deletes the pods that are due.
func (c *statefulSets) step(t *turn, s *ranks) error {
	p := planStateful(s)
	for _, pod := range p.delete {
		if err := t.delete(pod, store.DeleteOptions{}); err != nil {
			return err
		}
		if err := c.tell(t, s.set, "SuccessfulDelete", "delete Pod "+pod.Name+" in StatefulSet "+s.set.Name+" successful"); err != nil {
			return err
		}
		t.todo(c, api.Name(s.set)) // one that no node has to end is gone already
	}
	for _, n := range p.create {
		pod, err := c.newPod(t, s, n)
		if err != nil {
			return err
		}
		if _, taken := find[*corev1.Pod](t, api.Pods, pod.Namespace, pod.Name); taken {
			return t.record(s.set, happening{component: statefulComponent, warning: true, reason: "FailedCreate",
				message: fmt.Sprintf("create Pod %s in StatefulSet %s failed: a pod of that name exists", pod.Name, s.set.Name)})
		}
		if err := t.create(pod); forbidden(err) {
			t.engine.barred.note(c, s.set)
			return t.record(s.set, happening{component: statefulComponent, warning: true, reason: "FailedCreate",
				message: fmt.Sprintf("create Pod %s in StatefulSet %s failed error: %v", pod.Name, s.set.Name, err)})
		} else if err != nil {
			return err
		}
		if err := c.tell(t, s.set, "SuccessfulCreate", "create Pod "+pod.Name+" in StatefulSet "+s.set.Name+" successful"); err != nil {
			return err
		}
	}
	return nil
}

func (c *statefulSets) tell(t *turn, set *appsv1.StatefulSet, reason, message string) error {
	return t.record(set, happening{component: statefulComponent, reason: reason, message: message})
}

// newPod is the pod of a number: of the current revision below the partition, of the newest from there on.
func (c *statefulSets) newPod(t *turn, s *ranks, number int) (*corev1.Pod, error) {
	template, revision := &s.set.Spec.Template, s.history.current.Name
	if old := s.currentName(); old != revision && s.keepsOld(number) {
		r, ok := find[*appsv1.ControllerRevision](t, api.ControllerRevisions, s.set.Namespace, old)
		if ok {
			was, err := templateOf(r)
			if err != nil {
				return nil, err
			}
			template, revision = was, old
		}
	}
	return podFrom(template, s.set, func(pod *corev1.Pod) {
		pod.GenerateName, pod.Name = "", s.set.Name+"-"+strconv.Itoa(number)
		pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, s.set.Spec.ServiceName
		pod.Labels = with(pod.Labels, appsv1.StatefulSetPodNameLabel, pod.Name)
		pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(number)
		pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	}), nil
}

// report writes the status.
func (c *statefulSets) report(t *turn, s *ranks) error {
	newest := s.history.current.Name
	status := appsv1.StatefulSetStatus{
		ObservedGeneration: s.set.Generation, CollisionCount: s.history.collisions, Conditions: s.set.Status.Conditions,
		CurrentRevision: s.currentName(), UpdateRevision: newest,
	}
	for _, m := range append(slices.Clone(s.wanted), s.surplus...) {
		if m.pod == nil || podEnded(m.pod) {
			continue
		}
		status.Replicas++
		if podReady(m.pod) && m.pod.DeletionTimestamp == nil {
			status.ReadyReplicas++
		}
		if m.available {
			status.AvailableReplicas++
		}
		if m.pod.DeletionTimestamp != nil {
			continue
		}
		switch m.pod.Labels[appsv1.ControllerRevisionHashLabelKey] {
		case newest:
			status.UpdatedReplicas++
			if status.CurrentRevision == newest {
				status.CurrentReplicas++
			}
		case status.CurrentRevision:
			status.CurrentReplicas++
		}
	}
	want := wanted(s.set.Spec.Replicas)
	rolled := status.UpdatedReplicas == want && status.Replicas == want && status.ReadyReplicas == want
	if rolled && s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		status.CurrentRevision, status.CurrentReplicas = newest, status.UpdatedReplicas
	}
	next := api.Copy(s.set)
	next.Status = status
	return t.update(next)
}
