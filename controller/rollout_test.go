package controller

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// set is a ReplicaSet of a size, with so many pods available, sized when the Deployment wanted desired and allowed most.
func set(name string, size, available int32, sized ...int) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	rs.Spec.Replicas = &size
	rs.Status = appsv1.ReplicaSetStatus{Replicas: size, ReadyReplicas: available, AvailableReplicas: available}
	if len(sized) == 2 {
		rs.Annotations = map[string]string{desiredAnnotation: strconv.Itoa(sized[0]), maxReplicasAnnotation: strconv.Itoa(sized[1])}
	}
	return rs
}

func sized(d *appsv1.Deployment, surge, unavailable string) *appsv1.Deployment {
	up, down := intstr.Parse(surge), intstr.Parse(unavailable)
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &up, MaxUnavailable: &down}
	return d
}

func recreate(d *appsv1.Deployment) *appsv1.Deployment {
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	return d
}

func paused(d *appsv1.Deployment) *appsv1.Deployment {
	d.Spec.Paused = true
	return d
}

func TestARolloutTakesTheStepThatSurgeAndUnavailabilityAllow(t *testing.T) {
	t.Parallel()
	olds := func(sets ...*appsv1.ReplicaSet) []*appsv1.ReplicaSet { return sets }
	for _, tc := range []struct {
		name string
		r    rollout
		want []string
	}{
		{"nothing to do", rollout{deployment: deployment("w", 4), current: set("new", 4, 4)}, nil},
		{"the new one grows by the surge", rollout{deployment: sized(deployment("w", 10), "3", "2"), current: set("new", 0, 0), old: olds(set("old", 10, 10))}, []string{"new=3"}},
		{"the old one shrinks by what may be unavailable", rollout{deployment: sized(deployment("w", 10), "3", "2"), current: set("new", 3, 0), old: olds(set("old", 10, 10))}, []string{"old=8"}},
		{"without surge the old one goes first", rollout{deployment: sized(deployment("w", 2), "0", "1"), current: set("new", 0, 0), old: olds(set("old", 2, 2))}, []string{"old=1"}},
		{"neither allowed means one unavailable", rollout{deployment: sized(deployment("w", 2), "0", "0"), current: set("new", 0, 0), old: olds(set("old", 2, 2))}, []string{"old=1"}},
		{"the new one is not ready: wait", rollout{deployment: sized(deployment("w", 1), "1", "0"), current: set("new", 1, 0), old: olds(set("old", 1, 1))}, nil},
		{"the new one is available: the old one goes", rollout{deployment: sized(deployment("w", 1), "1", "0"), current: set("new", 1, 1), old: olds(set("old", 1, 1))}, []string{"old=0"}},
		{"broken old pods go first", rollout{deployment: sized(deployment("w", 4), "1", "0"), current: set("new", 1, 0), old: olds(set("older", 4, 4), set("broken", 1, 0))}, []string{"broken=0"}},
		{"a stale status does not count twice", rollout{deployment: sized(deployment("w", 4), "1", "1"), current: set("new", 2, 0), old: olds(set("old", 3, 4))}, nil},
		{"too big a new one is cut", rollout{deployment: deployment("w", 2), current: set("new", 5, 5)}, []string{"new=2"}},
		{"paused", rollout{deployment: paused(deployment("w", 4)), current: set("new", 1, 1, 4, 5), old: olds(set("old", 4, 4, 4, 5))}, nil},
		{"paused and scaled", rollout{deployment: paused(deployment("w", 6)), old: olds(set("old", 4, 4, 4, 5))}, []string{"old=6"}},
		{"recreate ends the old ones", rollout{deployment: recreate(deployment("w", 3)), current: set("new", 0, 0), old: olds(set("old", 3, 3))}, []string{"old=0"}},
		{"recreate waits for their pods", rollout{deployment: recreate(deployment("w", 3)), current: set("new", 0, 0), old: olds(set("old", 0, 0)), oldPods: true}, nil},
		{"recreate starts the new ones", rollout{deployment: recreate(deployment("w", 3)), current: set("new", 0, 0), old: olds(set("old", 0, 0))}, []string{"new=3"}},
		{"scaled up amid a rollout: in proportion", rollout{
			deployment: sized(deployment("w", 20), "5", "5"), current: set("new", 5, 5, 10, 15), old: olds(set("old", 10, 10, 10, 15)),
		}, []string{"new=8", "old=17"}},
		{"scaled down amid a rollout: in proportion", rollout{
			deployment: sized(deployment("w", 5), "5", "5"), current: set("new", 5, 5, 10, 15), old: olds(set("old", 10, 10, 10, 15)),
		}, []string{"new=3", "old=7"}},
		{"scaled to nothing amid a rollout", rollout{
			deployment: sized(deployment("w", 0), "25%", "25%"), current: set("new", 2, 2, 4, 5), old: olds(set("old", 3, 3, 4, 5)),
		}, []string{"new=0", "old=0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := map[string]bool{}
			for _, s := range planScale(tc.r) {
				got[fmt.Sprintf("%s=%d", s.set.Name, s.replicas)] = true
			}
			want := map[string]bool{}
			for _, w := range tc.want {
				want[w] = true
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("steps (-want +got):\n%s", d)
			}
		})
	}
}

// Whatever the order in which pods become ready, a rollout neither exceeds the surge nor undercuts the availability, and ends.
func TestARolloutStaysWithinItsFencesAndEnds(t *testing.T) {
	t.Parallel()
	for _, n := range []int32{1, 2, 3, 4, 7, 10} {
		for _, fence := range [][2]string{{"25%", "25%"}, {"1", "0"}, {"0", "1"}, {"100%", "0"}, {"0", "50%"}, {"3", "2"}} {
			d := sized(deployment("w", n), fence[0], fence[1])
			surge, unavailable := fenceposts(d)
			r := rollout{deployment: d, current: set("new", 0, 0), old: []*appsv1.ReplicaSet{set("old", n, n)}}
			for step := 0; ; step++ {
				if step > 200 {
					t.Fatalf("%d replicas, %v: no end; new %d, old %d", n, fence, *r.current.Spec.Replicas, *r.old[0].Spec.Replicas)
				}
				steps := planScale(r)
				for _, s := range steps {
					*s.set.Spec.Replicas = s.replicas
					s.set.Status.AvailableReplicas = min(s.set.Status.AvailableReplicas, s.replicas)
				}
				live := available(r.current) + available(r.old[0])
				if all := total(r.all()); all > n+surge || live < n-unavailable {
					t.Fatalf("%d replicas, %v: %d pods, %d available; want at most %d and at least %d", n, fence, all, live, n+surge, n-unavailable)
				}
				if len(steps) == 0 && available(r.current) == *r.current.Spec.Replicas {
					break
				}
				if len(steps) == 0 {
					r.current.Status.AvailableReplicas++ // one more pod becomes available
				}
			}
			if *r.current.Spec.Replicas != n || *r.old[0].Spec.Replicas != 0 {
				t.Errorf("%d replicas, %v: ended with new %d, old %d", n, fence, *r.current.Spec.Replicas, *r.old[0].Spec.Replicas)
			}
		}
	}
}

func TestTheStatusTellsHowTheRolloutStands(t *testing.T) {
	t.Parallel()
	now := time.Unix(10_000, 0)
	was := func(d *appsv1.Deployment, reason string, ago time.Duration, s appsv1.DeploymentStatus) *appsv1.Deployment {
		d.Status = s
		at := metav1.NewTime(now.Add(-ago))
		d.Status.Conditions = []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason, LastUpdateTime: at, LastTransitionTime: at,
			Message: `ReplicaSet "new" has successfully progressed.`,
		}}
		return d
	}
	half := appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 1, AvailableReplicas: 1}
	for _, tc := range []struct {
		name        string
		r           rollout
		progressing string
		available   string
	}{
		{"new", rollout{deployment: deployment("w", 2), current: set("new", 2, 0)}, reasonCreated, reasonUnavailable},
		{"progressing", rollout{deployment: was(deployment("w", 2), reasonCreated, time.Second, appsv1.DeploymentStatus{}), current: set("new", 2, 1)}, reasonUpdated, reasonUnavailable},
		{"complete", rollout{deployment: was(deployment("w", 2), reasonUpdated, time.Second, half), current: set("new", 2, 2)}, reasonComplete, reasonAvailable},
		{"complete and a pod lost", rollout{deployment: was(deployment("w", 2), reasonComplete, time.Hour, half), current: set("new", 2, 1)}, reasonComplete, reasonUnavailable},
		{"complete and a new template", rollout{deployment: was(deployment("w", 2), reasonComplete, time.Hour, appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2}), current: set("newer", 0, 0), old: []*appsv1.ReplicaSet{set("new", 2, 2)}}, reasonFound, reasonAvailable},
		{"stuck, not for long", rollout{deployment: was(deployment("w", 2), reasonUpdated, 599*time.Second, half), current: set("new", 2, 1)}, reasonUpdated, reasonUnavailable},
		{"stuck too long", rollout{deployment: was(deployment("w", 2), reasonUpdated, 600*time.Second, half), current: set("new", 2, 1)}, reasonTimedOut, reasonUnavailable},
		{"stuck, then on", rollout{deployment: was(deployment("w", 2), reasonTimedOut, time.Hour, half), current: set("new", 2, 2)}, reasonComplete, reasonAvailable},
		{"paused", rollout{deployment: paused(was(deployment("w", 2), reasonUpdated, time.Second, half)), current: set("new", 2, 2)}, reasonPaused, reasonAvailable},
		{"resumed", rollout{deployment: was(deployment("w", 2), reasonPaused, time.Hour, half), current: set("new", 2, 2)}, reasonResumed, reasonAvailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := planStatus(tc.r, now)
			if got := condition(s, appsv1.DeploymentProgressing).Reason; got != tc.progressing {
				t.Errorf("Progressing: got %s, want %s", got, tc.progressing)
			}
			if got := condition(s, appsv1.DeploymentAvailable).Reason; got != tc.available {
				t.Errorf("Available: got %s, want %s", got, tc.available)
			}
		})
	}
}

// A template's hash is Kubernetes' own: the same over time, another for another template.
func TestATemplateHashNamesTheTemplate(t *testing.T) {
	t.Parallel()
	a, b := deployment("w", 1).Spec.Template, deployment("w", 1).Spec.Template
	if x, y := templateHash(&a, nil), templateHash(&b, nil); x != y {
		t.Errorf("equal templates: got %s and %s", x, y)
	}
	b.Spec.Containers[0].Image = "w:2"
	n := int32(1)
	if x, y, z := templateHash(&a, nil), templateHash(&b, nil), templateHash(&a, &n); x == y || x == z {
		t.Errorf("another template or a collision: got %s, %s and %s, want three names", x, y, z)
	}
}
