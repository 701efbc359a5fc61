package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func image(to string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = to }
}

// P-58: a rolling update never leaves the Service with fewer ready endpoints than availability demands, in any state that a
// consumer can see.
func TestARollingUpdateKeepsTheEndpointsReady(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(sized(deployment("web", 3), "1", "0"))
	c.until("web is rolled out", c.rolledOut("web"))

	least := 3
	change(c, api.Deployments, "web", image("web:2"))
	c.until("the new template is rolled out", func() bool {
		least = min(least, c.readyEndpoints("web"))
		return c.rolledOut("web")()
	})
	if least < 3 {
		t.Errorf("ready endpoints fell to %d, want never below 3", least)
	}
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image != "web:2" {
			t.Errorf("pod %s still runs %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
}

func TestARolloutWhoseNewPodsStayUnreadyStopsAndLeavesTheOldOnes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 4))
	c.until("web is rolled out", c.rolledOut("web"))
	c.kubelet.set(c, holdReady, true)
	change(c, api.Deployments, "web", image("broken"))
	c.until("one old pod is gone, one is added", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 5 && c.readyEndpoints("web") == 3 })
}

func TestRecreateEndsEveryOldPodBeforeTheFirstNewOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(recreate(deployment("web", 2)))
	c.until("web is rolled out", c.rolledOut("web"))
	c.kubelet.set(c, holdEnds, true)
	change(c, api.Deployments, "web", image("web:2"))
	if sets := list[*appsv1.ReplicaSet](c, api.ReplicaSets); len(sets) != 1 {
		t.Errorf("ReplicaSets while old pods end: got %d, want 1", len(sets))
	}
	c.kubelet.set(c, holdEnds, false)
	c.until("the new template is rolled out", func() bool {
		images := map[string]bool{}
		for _, p := range list[*corev1.Pod](c, api.Pods) {
			images[p.Spec.Containers[0].Image] = true
		}
		if len(images) > 1 {
			t.Errorf("pods of both templates at once: %v", images)
		}
		return c.rolledOut("web")() && images["web:2"]
	})
}

// What kubectl rollout pause, resume, undo and history do and read.
func TestARolloutPausesResumesAndGoesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	change(c, api.Deployments, "web", func(d *appsv1.Deployment) { d.Spec.Paused = true; image("web:2")(d) })
	if n := len(list[*appsv1.ReplicaSet](c, api.ReplicaSets)); n != 1 {
		t.Errorf("ReplicaSets while paused: got %d, want 1", n)
	}
	change(c, api.Deployments, "web", func(d *appsv1.Deployment) { *d.Spec.Replicas = 3 })
	c.until("a paused Deployment is scaled", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 3 })
	change(c, api.Deployments, "web", func(d *appsv1.Deployment) { d.Spec.Paused = false })
	c.until("the new template is rolled out", c.rolledOut("web"))
	change(c, api.Deployments, "web", image("web:1"))
	c.until("the old template is back", c.rolledOut("web"))

	got := map[string]string{}
	for _, rs := range list[*appsv1.ReplicaSet](c, api.ReplicaSets) {
		got[rs.Spec.Template.Spec.Containers[0].Image] = rs.Annotations[revisionAnnotation] + " after " + rs.Annotations[revisionHistoryAnnotation]
	}
	if want := map[string]string{"web:1": "3 after 1", "web:2": "2 after "}; !cmp.Equal(got, want) {
		t.Errorf("revisions: %s", cmp.Diff(want, got))
	}
	d := list[*appsv1.Deployment](c, api.Deployments)[0]
	if d.Annotations[revisionAnnotation] != "3" {
		t.Errorf("the Deployment's revision: got %q, want 3", d.Annotations[revisionAnnotation])
	}
}

func TestTheHistoryIsCutToItsLimit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	d := deployment("web", 1)
	*d.Spec.RevisionHistoryLimit = 1
	c.create(d)
	c.until("web is rolled out", c.rolledOut("web"))
	for _, to := range []string{"web:2", "web:3", "web:4"} {
		change(c, api.Deployments, "web", image(to))
		c.until(to+" is rolled out", c.rolledOut("web"))
	}
	var images []string
	for _, rs := range list[*appsv1.ReplicaSet](c, api.ReplicaSets) {
		images = append(images, rs.Spec.Template.Spec.Containers[0].Image)
	}
	slices.Sort(images)
	if want := []string{"web:3", "web:4"}; !cmp.Equal(images, want) {
		t.Errorf("kept: got %v, want %v", images, want)
	}
}

func TestScalingDownDeletesTheUnreadyFirst(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	ready := list[*corev1.Pod](c, api.Pods)
	c.kubelet.set(c, holdReady, true)
	change(c, api.Deployments, "web", func(d *appsv1.Deployment) { *d.Spec.Replicas = 4 })
	change(c, api.Deployments, "web", func(d *appsv1.Deployment) { *d.Spec.Replicas = 2 })
	c.until("two pods are left", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 2 })
	for i, p := range list[*corev1.Pod](c, api.Pods) {
		if p.Name != ready[i].Name { // both lists are in order of names
			t.Errorf("left: %s, want the ready %s", p.Name, ready[i].Name)
		}
	}
}

func TestVictimsAreRankedAsKubernetesRanksThem(t *testing.T) {
	t.Parallel()
	pod := func(name, node string, phase corev1.PodPhase, ready bool, age int64, cost string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0)}}
		p.Spec.NodeName, p.Status.Phase = node, phase
		if cost != "" {
			p.Annotations = map[string]string{corev1.PodDeletionCost: cost}
		}
		status := corev1.ConditionFalse
		if ready {
			status = corev1.ConditionTrue
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Unix(1000-age, 0)}}
		return p
	}
	run := corev1.PodRunning
	restarted := pod("restarted", "n9", run, false, 50, "")
	restarted.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}}
	pods := []*corev1.Pod{
		pod("dear", "n2", run, true, 1, "10"), pod("old", "n2", run, true, 90, ""), pod("young", "n2", run, true, 10, ""),
		pod("crowded", "n1", run, true, 95, ""), pod("crowding", "n1", run, true, 99, ""), pod("also", "n1", run, true, 97, ""),
		pod("cheap", "n3", run, true, 99, "-5"), pod("unready", "n3", run, false, 50, ""), restarted,
		pod("pending", "n3", corev1.PodPending, false, 99, ""), pod("nowhere", "", corev1.PodPending, false, 99, ""),
	}
	var got []string
	for _, p := range rankVictims(pods, pods[1:6]) {
		got = append(got, p.Name)
	}
	want := strings.Fields("nowhere pending restarted unready cheap crowded also crowding young old dear")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestALostPodIsReplacedAndAFinishedOneToo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	first := list[*corev1.Pod](c, api.Pods)[0].Name
	change(c, api.Pods, first, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	if n := len(list[*corev1.Pod](c, api.Pods)); n != 3 {
		t.Errorf("pods: got %d, want 3: two that live and the failed one", n)
	}
	c.delete(api.Pods, first, "")
	c.until("web is whole again", c.rolledOut("web"))
}

// Moving a pod out of its ReplicaSet by a label is how one is taken aside to be looked at.
func TestAPodWhoseLabelsChangeIsReleasedAndReplacedAndAnOrphanAdopted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	name := list[*corev1.Pod](c, api.Pods)[0].Name
	change(c, api.Pods, name, func(p *corev1.Pod) { p.Labels["app"] = "aside" })
	if pod, err := store.Get[*corev1.Pod](c.store, api.Pods, "dev", name); err != nil || len(pod.OwnerReferences) > 0 {
		t.Errorf("released pod: got owners %v (%v), want none", pod.OwnerReferences, err)
	}
	if n := len(list[*corev1.Pod](c, api.Pods)); n != 3 {
		t.Errorf("pods: got %d, want 3", n)
	}
	change(c, api.Pods, name, func(p *corev1.Pod) { p.Labels["app"] = "web" })
	pod, err := store.Get[*corev1.Pod](c.store, api.Pods, "dev", name)
	if err == nil && metav1.GetControllerOf(pod) == nil {
		t.Errorf("pod %s matches again: want it adopted", name)
	}
	c.until("one of three is deleted", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 2 })
}

// times is how often an event was told, of either kind.
func times(ev *corev1.Event) int32 {
	if ev.Series != nil {
		return ev.Series.Count
	}
	return max(ev.Count, 1)
}

// N-12: the scheduler's events are of the newer kind, as kube-scheduler's: so kubectl describe lists them before kubelet's of the same second.
func TestTheSchedulersEventsAreSeries(t *testing.T) {
	t.Parallel()
	h := happening{component: defaultScheduler, reason: "FailedScheduling", message: "again", action: "Scheduling"}
	at := time.Date(2026, 1, 1, 0, 0, 0, 5000, time.UTC)
	first := &corev1.Event{EventTime: metav1.NewMicroTime(at), Action: "Scheduling", ReportingInstance: "default-scheduler-kubarium"}
	third := repeated(repeated(first, h, at.Add(time.Second)), h, at.Add(time.Minute))
	if first.Series != nil || times(third) != 3 || third.Count != 0 || !third.LastTimestamp.IsZero() || !third.Series.LastObservedTime.Time.Equal(at.Add(time.Minute)) ||
		!third.EventTime.Time.Equal(at) || third.Message != "again" {
		t.Errorf("got %+v", third)
	}
	c := newCluster(t, "n1")
	c.create(deployment("web", 1))
	c.until("web is rolled out", c.rolledOut("web"))
	for _, ev := range list[*corev1.Event](c, api.Events) {
		if is := ev.ReportingController == defaultScheduler; is != !ev.EventTime.IsZero() || is != ev.LastTimestamp.IsZero() || is && (ev.Action != "Binding" || ev.ReportingInstance == "") {
			t.Errorf("got %+v", ev)
		}
	}
}

// N-12: what happens is told in events, once each.
func TestEventsTellOfScalingPlacingAndCreating(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(deployment("web", 1))
	c.until("web is rolled out", c.rolledOut("web"))
	rs, pod := list[*appsv1.ReplicaSet](c, api.ReplicaSets)[0].Name, list[*corev1.Pod](c, api.Pods)[0].Name
	got := map[string]int32{}
	for _, ev := range list[*corev1.Event](c, api.Events) {
		got[ev.InvolvedObject.Kind+" "+ev.Reason+" "+ev.Message] = times(ev)
	}
	want := map[string]int32{
		"Deployment ScalingReplicaSet Scaled up replica set " + rs + " from 0 to 1": 1,
		"ReplicaSet SuccessfulCreate Created pod: " + pod:                           1,
		"Pod Scheduled Successfully assigned dev/" + pod + " to n1":                 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestATakenReplicaSetNameIsCountedAsACollisionAndPassedBy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	d := deployment("web", 1)
	stranger := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web-" + templateHash(&d.Spec.Template, nil)}}
	stranger.Spec.Replicas, stranger.Spec.Selector = new(int32), &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}
	stranger.Spec.Template = template("other")
	stranger.Labels = stranger.Spec.Selector.MatchLabels
	c.create(stranger)
	c.create(d)
	c.until("web is rolled out", c.rolledOut("web"))
	got, err := store.Get[*appsv1.Deployment](c.store, api.Deployments, "dev", "web")
	if err != nil || got.Status.CollisionCount == nil || *got.Status.CollisionCount != 1 {
		t.Errorf("status: got %+v, %v, want one collision", got.Status, err)
	}
}
