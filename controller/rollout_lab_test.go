package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func (l *lab) deployment(name string) *appsv1.Deployment {
	l.t.Helper()
	d, err := store.Get[*appsv1.Deployment](l.store, api.Deployments, "dev", name)
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

// sizes lists the ReplicaSets that have pods by their image: "web:1=3 web:2=1".
func (l *lab) sizes() string {
	var all []string
	for _, rs := range list[*appsv1.ReplicaSet](l.testCluster, api.ReplicaSets) {
		if *rs.Spec.Replicas > 0 {
			all = append(all, fmt.Sprintf("%s=%d", rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (l *lab) edit(name string, fn func(*appsv1.Deployment)) {
	l.t.Helper()
	change(l.testCluster, api.Deployments, name, fn)
	l.pass(time.Second)
}

func toImage(image string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image }
}

func TestMinReadySecondsSlowARolloutDown(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		d := sized(deployment("web", 2), "1", "0")
		d.Spec.MinReadySeconds = 10
		l.create(d)
		l.pass(5 * time.Second)
		if s := l.deployment("web").Status; s.ReadyReplicas != 2 || s.AvailableReplicas != 0 {
			t.Errorf("at first: got %d ready, %d available; want 2 and 0", s.ReadyReplicas, s.AvailableReplicas)
		}
		l.pass(10 * time.Second)
		l.edit("web", toImage("web:2"))
		for _, step := range []struct {
			after time.Duration
			want  string
		}{{time.Second, "web:1=2 web:2=1"}, {10 * time.Second, "web:1=1 web:2=2"}, {12 * time.Second, "web:2=2"}} {
			l.pass(step.after)
			if got := l.sizes(); got != step.want {
				t.Errorf("got %q, want %q", got, step.want)
			}
		}
	}, "n1")
}

func TestARolloutBeyondItsDeadlineSaysSoAndRecovers(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(deployment("web", 2))
		l.pass(time.Second)
		l.kubelet.set(l.testCluster, holdReady, true)
		l.edit("web", func(d *appsv1.Deployment) {
			toImage("web:2")(d)
			d.Spec.ProgressDeadlineSeconds = number(60)
		})
		reason := func() string {
			return condition(l.deployment("web").Status, appsv1.DeploymentProgressing).Reason
		}
		if l.pass(50 * time.Second); reason() == reasonTimedOut {
			t.Error("timed out before the deadline")
		}
		if l.pass(20 * time.Second); reason() != reasonTimedOut {
			t.Errorf("after the deadline: got %s, want %s", reason(), reasonTimedOut)
		}
		l.kubelet.set(l.testCluster, holdReady, false)
		if l.pass(time.Second); reason() != reasonComplete || l.sizes() != "web:2=2" {
			t.Errorf("once the pods are ready: got %s, %s", reason(), l.sizes())
		}
		l.edit("web", func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = number(1<<31 - 1) })
		if c := condition(l.deployment("web").Status, appsv1.DeploymentProgressing); c != nil {
			t.Errorf("without a deadline: got %v, want no condition", c)
		}
	}, "n1")
}

func TestARolloverLeavesTheHalfDoneOneAndAScaleKeepsTheShares(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(sized(deployment("web", 10), "3", "2"))
		l.pass(time.Second)
		l.kubelet.set(l.testCluster, holdReady, true)
		l.edit("web", toImage("web:2"))
		if got := l.sizes(); got != "web:1=8 web:2=5" {
			t.Fatalf("stuck: got %q, want web:1=8 web:2=5", got)
		}
		l.edit("web", func(d *appsv1.Deployment) { d.Spec.Replicas = number(20) })
		if got := l.sizes(); got != "web:1=14 web:2=9" {
			t.Errorf("scaled: got %q, want web:1=14 web:2=9", got) // 23 = 20 and the surge, in the shares 8 and 5
		}
		l.edit("web", toImage("web:3"))
		if got := l.sizes(); got != "web:1=9 web:2=9 web:3=5" { // of 23 five may go: unready ones, of the oldest set first
			t.Errorf("rolled over: got %q, want web:1=9 web:2=9 web:3=5", got)
		}
		l.kubelet.set(l.testCluster, holdReady, false)
		l.pass(time.Minute)
		if got := l.sizes(); got != "web:3=20" {
			t.Errorf("at the end: got %q", got)
		}
	}, "n1", "n2")
}

func TestAPausedDeploymentScalesAndForgetsButDoesNotRoll(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(deployment("web", 2))
		for _, image := range []string{"web:2", "web:3", "web:4"} {
			l.edit("web", toImage(image))
			l.pass(5 * time.Second)
		}
		l.edit("web", func(d *appsv1.Deployment) { d.Spec.Paused = true })
		l.edit("web", func(d *appsv1.Deployment) {
			toImage("web:5")(d)
			d.Spec.Replicas, d.Spec.RevisionHistoryLimit = number(4), number(1)
		})
		if got := l.sizes(); got != "web:4=4" {
			t.Errorf("paused: got %q, want web:4=4", got)
		}
		if n := len(list[*appsv1.ReplicaSet](l.testCluster, api.ReplicaSets)); n != 1 {
			t.Errorf("paused with a history of one: got %d ReplicaSets, want the running one", n)
		}
		l.edit("web", func(d *appsv1.Deployment) { d.Spec.Paused = false })
		l.pass(5 * time.Second)
		if got := l.sizes(); got != "web:5=4" {
			t.Errorf("resumed: got %q, want web:5=4", got)
		}
	}, "n1")
}

func TestEqualSizesAmidARolloutStayAsTheyAre(t *testing.T) {
	t.Parallel()
	// 8 + 5 is what 10 pods and a surge of 3 allow; the number wanted was written anew, and is the same.
	r := rollout{deployment: sized(deployment("w", 10), "3", "2"), current: set("new", 5, 5, 9, 12), old: []*appsv1.ReplicaSet{set("old", 8, 8, 9, 12)}}
	for _, s := range planScale(r) {
		if want := map[string]int32{"new": 5, "old": 8}[s.set.Name]; s.replicas != want {
			t.Errorf("%s: got %d, want %d", s.set.Name, s.replicas, want)
		}
	}
}

func TestABareReplicaSetCountsWhatIsReadyForLongEnough(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		two := int32(2)
		l.create(&appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "bare"},
			Spec: appsv1.ReplicaSetSpec{Replicas: &two, MinReadySeconds: 30, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "bare"}},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "bare"}}, Spec: deployment("bare", 1).Spec.Template.Spec}},
		})
		for _, want := range []int32{0, 2} {
			l.pass(20 * time.Second)
			rs, err := store.Get[*appsv1.ReplicaSet](l.store, api.ReplicaSets, "dev", "bare")
			if err != nil {
				t.Fatal(err)
			}
			if s := rs.Status; s.ReadyReplicas != 2 || s.AvailableReplicas != want {
				t.Errorf("got %d ready, %d available; want 2 and %d", s.ReadyReplicas, s.AvailableReplicas, want)
			}
		}
	}, "n1")
}
