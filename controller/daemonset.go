package controller

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	daemonComponent = "daemonset-controller"
	// daemonBackoffMost is how long a failed daemon pod is left before another is made in its place, at most: Kubernetes' figure.
	daemonBackoffMost = 15 * time.Minute
)

// daemonSets keeps one pod of each DaemonSet on each node that it may run on.
type daemonSets struct {
	failing map[string]backoff // by DaemonSet and node: "dev/agent n1"
}

func newDaemonSets() *daemonSets { return &daemonSets{failing: map[string]backoff{}} }

func (c *daemonSets) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.DaemonSets:
		if ev.Type != store.Deleted {
			t.todo(c, api.Name(ev.Object))
		}
	case api.Nodes:
		if ev.Type == store.Modified && sameHost(ev.Old.(*corev1.Node), ev.Object.(*corev1.Node)) {
			return
		}
		for _, ds := range query[*appsv1.DaemonSet](t, api.DaemonSets, store.Query{}) {
			t.todo(c, api.Name(ds))
		}
	case api.Pods, api.ControllerRevisions:
		if t.by == controller(c) {
			return
		}
		for _, obj := range states[api.Object](ev) {
			if ref := metav1.GetControllerOfNoCopy(obj); ref != nil && ref.Kind == api.DaemonSets.Kind {
				t.todo(c, obj.GetNamespace()+"/"+ref.Name)
			}
		}
	}
}

// sameHost tells that nothing of a node changed that decides where daemons run: a node reports its health often.
func sameHost(a, b *corev1.Node) bool {
	return nodeReady(a) == nodeReady(b) && a.Spec.Unschedulable == b.Spec.Unschedulable && slices.Equal(taintsOf(a), taintsOf(b)) &&
		labels.Equals(a.Labels, b.Labels)
}

func taintsOf(n *corev1.Node) []string {
	var all []string
	for _, taint := range n.Spec.Taints {
		all = append(all, taint.ToString())
	}
	return all
}

// host is one node as a DaemonSet sees it.
type host struct {
	node      *corev1.Node
	run, keep bool // a pod is to run there; a pod that runs there may stay
	fresh     *corev1.Pod
	old       *corev1.Pod   // of an older template
	surplus   []*corev1.Pod // beyond these: the younger of a kind
	ending    bool          // a pod of it is on its way out
	available bool          // of fresh and old, some pod has been ready for long enough
	// freshAvailable: the fresh one has.
	freshAvailable bool
}

func (c *daemonSets) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	ds, ok := find[*appsv1.DaemonSet](t, api.DaemonSets, namespace, plain)
	if !ok || ds.DeletionTimestamp != nil {
		return nil
	}
	h, err := chronicle(t, ds, &ds.Spec.Template, ds.Status.CollisionCount)
	if err != nil {
		return err
	}
	hosts, err := c.survey(t, ds, h.hash())
	if err != nil {
		return err
	}
	plan := planDaemons(ds, hosts)
	if err := c.carryOut(t, ds, h.hash(), plan); err != nil {
		return err
	}
	if len(plan.create)+len(plan.delete) > 0 {
		if hosts, err = c.survey(t, ds, h.hash()); err != nil {
			return err
		}
	}
	live := map[string]bool{}
	for _, x := range hosts {
		if x.old != nil {
			live[x.old.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
		}
	}
	err = h.forget(t, ds.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
		return live[r.Labels[appsv1.ControllerRevisionHashLabelKey]]
	})
	if err != nil {
		return err
	}
	return c.report(t, ds, hosts, h.collisions)
}

// survey looks at every node, and at the DaemonSet's pods there. Pods that match its selector no longer are set free; those
// that have ended or whose node is gone are deleted.
func (c *daemonSets) survey(t *turn, ds *appsv1.DaemonSet, hash string) ([]*host, error) {
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return nil, err
	}
	byName := map[string]*host{}
	var hosts []*host
	for _, node := range query[*corev1.Node](t, api.Nodes, store.Query{}) {
		x := &host{node: node}
		x.run, x.keep = daemonFits(daemonPod(ds, node.Name, hash), node)
		byName[node.Name] = x
		hosts = append(hosts, x)
	}
	for _, pod := range owned[*corev1.Pod](t, api.Pods, ds) {
		x := byName[daemonNode(pod)]
		switch {
		case !selector.Matches(labels.Set(pod.Labels)):
			err = release(t, pod, ds)
		case pod.DeletionTimestamp != nil:
			if x != nil {
				x.ending = true
			}
		case x == nil:
			err = t.delete(pod, store.DeleteOptions{})
		case podEnded(pod):
			err = c.bury(t, ds, pod)
			x.ending = true
		default:
			c.count(t, ds, x, pod, hash)
		}
		if err != nil {
			return nil, err
		}
	}
	return hosts, nil
}

func (c *daemonSets) count(t *turn, ds *appsv1.DaemonSet, x *host, pod *corev1.Pod, hash string) {
	seat := &x.old
	if pod.Labels[appsv1.ControllerRevisionHashLabelKey] == hash {
		seat = &x.fresh
	}
	if was := *seat; was != nil {
		if byAge(was, pod) > 0 {
			was, pod = pod, was
		}
		x.surplus = append(x.surplus, pod)
		pod = was
	}
	*seat = pod
	switch wait, ok := availableIn(pod, ds.Spec.MinReadySeconds, t.now); {
	case ok && wait == 0:
		if x.available = true; pod == x.fresh {
			x.freshAvailable = true
		}
	case ok:
		t.later(c, api.Name(ds), t.now.Add(wait))
	}
}

// byAge puts the pod that has a node first, and then the older.
func byAge(a, b *corev1.Pod) int {
	return cmp.Or(
		boolFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name),
	)
}

// daemonPause is how long after the last failed pod of a node the next one is deleted.
func daemonPause(times int) time.Duration {
	if times == 0 {
		return 0
	}
	return min(time.Second<<min(times-1, 10), daemonBackoffMost)
}

// bury deletes a pod that has ended; one that failed later and later when that happens again and again.
func (c *daemonSets) bury(t *turn, ds *appsv1.DaemonSet, pod *corev1.Pod) error {
	key := api.Name(ds) + " " + daemonNode(pod)
	if pod.Status.Phase == corev1.PodFailed {
		b := c.failing[key]
		if b.times > 0 && t.now.Sub(b.last) > 2*daemonBackoffMost {
			b = backoff{}
		}
		if wait := b.last.Add(daemonPause(b.times)).Sub(t.now); wait > 0 {
			t.later(c, api.Name(ds), t.now.Add(wait))
			return nil
		}
		c.failing[key] = backoff{b.times + 1, t.now}
	}
	h := happening{component: daemonComponent, warning: true, reason: "FailedDaemonPod"}
	h.message = fmt.Sprintf("Found failed daemon pod %s on node %s, will try to kill it", api.Name(pod), daemonNode(pod))
	if pod.Status.Phase == corev1.PodSucceeded {
		h.reason, h.warning = "SucceededDaemonPod", false
		h.message = fmt.Sprintf("Found succeeded daemon pod %s on node %s, will try to delete it", api.Name(pod), daemonNode(pod))
	}
	if err := t.record(ds, h); err != nil {
		return err
	}
	t.todo(c, api.Name(ds))
	return t.delete(pod, store.DeleteOptions{})
}

func (c *daemonSets) carryOut(t *turn, ds *appsv1.DaemonSet, hash string, p daemonPlan) error {
	for _, pod := range p.delete {
		if err := t.delete(pod, store.DeleteOptions{}); err != nil {
			return err
		}
		h := happening{component: daemonComponent, reason: "SuccessfulDelete", message: "Deleted pod: " + pod.Name}
		if err := t.record(ds, h); err != nil {
			return err
		}
		t.todo(c, api.Name(ds)) // one that no node has to end is gone already
	}
	for _, node := range p.create[:min(len(p.create), burst)] {
		pod := daemonPod(ds, node, hash)
		if failure, err := t.turnedAway(ds, daemonComponent, t.create(pod)); failure != nil || err != nil {
			return err
		}
		h := happening{component: daemonComponent, reason: "SuccessfulCreate", message: "Created pod: " + pod.Name}
		if err := t.record(ds, h); err != nil {
			return err
		}
	}
	if len(p.create) > burst {
		t.todo(c, api.Name(ds))
	}
	return nil
}

// report writes the status.
func (c *daemonSets) report(t *turn, ds *appsv1.DaemonSet, hosts []*host, collisions *int32) error {
	s := appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation, CollisionCount: collisions, Conditions: ds.Status.Conditions}
	for _, x := range hosts {
		there := x.fresh != nil || x.old != nil
		switch {
		case x.run:
			s.DesiredNumberScheduled++
			if !there {
				continue
			}
			s.CurrentNumberScheduled++
			if x.fresh != nil && podReady(x.fresh) || x.old != nil && podReady(x.old) {
				s.NumberReady++
			}
			if x.available {
				s.NumberAvailable++
			}
			if x.fresh != nil {
				s.UpdatedNumberScheduled++
			}
		case there:
			s.NumberMisscheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	next := api.Copy(ds)
	next.Status = s
	return t.update(next)
}
