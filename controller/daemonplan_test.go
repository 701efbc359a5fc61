package controller

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
)

func TestADaemonSetKeepsTheOldestOfItsPodsOnANode(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(daemon("agent"))
		l.pass(5 * time.Second)
		first := list[*corev1.Pod](l.testCluster, api.Pods)[0]
		for _, name := range []string{"twin-1", "twin-2"} {
			twin := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name, Labels: first.Labels}, Spec: *first.Spec.DeepCopy()}
			l.create(twin)
		}
		l.pass(time.Second)
		pods := list[*corev1.Pod](l.testCluster, api.Pods)
		if len(pods) != 1 || pods[0].Name != first.Name {
			t.Errorf("got %v, want %s alone", pods, first.Name)
		}
	}, "n1")
}

func TestASurgingDaemonSetDropsAnOldPodThatIsNotReady(t *testing.T) {
	t.Parallel()
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	ds := daemon("agent", func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &none, MaxSurge: &one}
	})
	ready := running("ready", "10.0.0.1")
	unready := but(running("unready", "10.0.0.2"), func(p *corev1.Pod) { p.Status.Conditions = nil })
	fresh := but(running("fresh", "10.0.0.3"), func(p *corev1.Pod) { p.Status.Conditions = nil })
	for _, old := range []*corev1.Pod{ready, unready} {
		x := &host{node: node("n1"), run: true, keep: true, fresh: fresh, old: old, available: old == ready}
		if got := len(planDaemons(ds, []*host{x}).delete); (got == 1) != (old == unready) {
			t.Errorf("%s: got %d pods deleted", old.Name, got)
		}
	}
}
