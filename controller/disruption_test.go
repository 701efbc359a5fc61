package controller

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	appsv1 "k8s.io/api/apps/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func budget(name string, spec policyv1.PodDisruptionBudgetSpec) *policyv1.PodDisruptionBudget {
	spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}, Spec: spec}
}

func value(s string) *intstr.IntOrString {
	v := intstr.Parse(s)
	return &v
}

// N-3: a budget's status counts its pods, those that are healthy and those that may go, and follows them and their controller's scale.
func TestABudgetCountsWhatMayGo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.create(deployment("web", 5))
	c.until("web is rolled out", c.rolledOut("web"))
	for name, spec := range map[string]policyv1.PodDisruptionBudgetSpec{
		"least": {MinAvailable: value("3")}, "least-percent": {MinAvailable: value("50%")}, "most": {MaxUnavailable: value("1")},
		"most-percent": {MaxUnavailable: value("30%")}, "all": {MinAvailable: value("7")},
	} {
		c.create(budget(name, spec))
	}
	status := func() map[string]string {
		all := map[string]string{}
		for _, b := range list[*policyv1.PodDisruptionBudget](c, api.PodDisruptionBudgets) {
			s := b.Status
			reason := ""
			if cond := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition); cond != nil {
				reason = fmt.Sprint(cond.Status, " ", cond.Reason)
			}
			all[b.Name] = fmt.Sprintf("%d expected, %d of %d healthy, %d may go: %s", s.ExpectedPods, s.CurrentHealthy, s.DesiredHealthy, s.DisruptionsAllowed, reason)
		}
		return all
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		if d := cmp.Diff(want, status()); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	check("five of five", map[string]string{
		"least":         "5 expected, 5 of 3 healthy, 2 may go: True SufficientPods",
		"least-percent": "5 expected, 5 of 3 healthy, 2 may go: True SufficientPods",
		"most":          "5 expected, 5 of 4 healthy, 1 may go: True SufficientPods",
		"most-percent":  "5 expected, 5 of 3 healthy, 2 may go: True SufficientPods",
		"all":           "5 expected, 5 of 7 healthy, 0 may go: False InsufficientPods",
	})
	c.kubelet.set(c, holdReady, true)
	sick := list[*corev1.Pod](c, api.Pods)[0]
	change(c, api.Pods, sick.Name, func(p *corev1.Pod) { p.Status.Conditions = nil })
	check("one is not ready", map[string]string{
		"least":         "5 expected, 4 of 3 healthy, 1 may go: True SufficientPods",
		"least-percent": "5 expected, 4 of 3 healthy, 1 may go: True SufficientPods",
		"most":          "5 expected, 4 of 4 healthy, 0 may go: False InsufficientPods",
		"most-percent":  "5 expected, 4 of 3 healthy, 1 may go: True SufficientPods",
		"all":           "5 expected, 4 of 7 healthy, 0 may go: False InsufficientPods",
	})
	change(c, api.Deployments, "web", func(d *appsv1.Deployment) { *d.Spec.Replicas = 8 })
	if got, want := status()["most"], "8 expected, 4 of 7 healthy, 0 may go: False InsufficientPods"; got != want {
		t.Errorf("after a scale: %s, want %s", got, want)
	}
}

// N-3: with a controller that has no scale a percentage cannot be worked out: nobody may go, and it is said why.
func TestABudgetOfWhatHasNoScaleSaysSo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: deployment("web", 1).Spec.Template,
	}}
	c.create(set)
	c.create(budget("b", policyv1.PodDisruptionBudgetSpec{MaxUnavailable: value("50%")}))
	b, err := store.Get[*policyv1.PodDisruptionBudget](c.store, api.PodDisruptionBudgets, "dev", "b")
	if err != nil {
		t.Fatal(err)
	}
	if cond := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition); cond == nil ||
		cond.Reason != policyv1.SyncFailedReason || b.Status.DisruptionsAllowed != 0 {
		t.Errorf("got %+v", b.Status)
	}
}
