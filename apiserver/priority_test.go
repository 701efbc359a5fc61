package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func class(name string, value int32) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
}

// PriorityClasses: Kubernetes' own two are there; what a user may not call or value his is refused in its words; there is one
// default at most.
func TestPriorityClassesAreChecked(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.stand(t)
	classes := c.client(t).SchedulingV1().PriorityClasses()
	contains(t, c.must(t, "get", "pc", "-o", "wide"), "NAME                      VALUE        GLOBAL-DEFAULT   AGE", "PREEMPTIONPOLICY",
		"system-cluster-critical   2000000000   false", "system-node-critical      2000001000   false", "PreemptLowerPriority")
	first := class("first", 5)
	first.GlobalDefault = true
	first, err := classes.Create(t.Context(), first, metav1.CreateOptions{})
	if err != nil || *first.PreemptionPolicy != corev1.PreemptLowerPriority || first.Generation != 1 {
		t.Fatalf("got %v (%v)", first, err)
	}
	second := class("second", 6)
	second.GlobalDefault = true
	moved, fixed := first.DeepCopy(), first.DeepCopy()
	never := corev1.PreemptNever
	moved.Value, fixed.PreemptionPolicy = 6, &never
	for want, try := range map[string]func() error{
		`priorityclasses.scheduling.k8s.io "second" is forbidden: PriorityClass first is already marked as default. Only one default can exist`: func() error {
			_, err := classes.Create(t.Context(), second, metav1.CreateOptions{})
			return err
		},
		`PriorityClass.scheduling.k8s.io "high" is invalid: value: Forbidden: maximum allowed value of a user defined priority is 1000000000`: func() error {
			_, err := classes.Create(t.Context(), class("high", 1000000001), metav1.CreateOptions{})
			return err
		},
		`PriorityClass.scheduling.k8s.io "system-mine" is invalid: metadata.name: Forbidden: priority class names with 'system-' prefix are ` +
			`reserved for system use only. error: system-mine is not a known system priority class`: func() error {
			_, err := classes.Create(t.Context(), class("system-mine", 1), metav1.CreateOptions{})
			return err
		},
		`PriorityClass.scheduling.k8s.io "first" is invalid: value: Forbidden: may not be changed in an update.`: func() error {
			_, err := classes.Update(t.Context(), moved, metav1.UpdateOptions{})
			return err
		},
		`PriorityClass.scheduling.k8s.io "first" is invalid: preemptionPolicy: Invalid value: "Never": field is immutable`: func() error {
			_, err := classes.Update(t.Context(), fixed, metav1.UpdateOptions{})
			return err
		},
	} {
		if err := try(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	first.Description = "the default stays one when it is written again"
	if _, err := classes.Update(t.Context(), first, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
}

// a pod has the priority of its class, of the default class, or none; it does not choose one by itself.
func TestAPodHasThePriorityOfItsClass(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.stand(t)
	client := c.client(t)
	pods := 0
	create := func(change func(*corev1.PodSpec)) (*corev1.Pod, error) {
		pods++
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", pods)}}
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i:1"}}
		change(&pod.Spec)
		return client.CoreV1().Pods("dev").Create(t.Context(), pod, metav1.CreateOptions{})
	}
	expect := func(name string, value int32, policy corev1.PreemptionPolicy, change func(*corev1.PodSpec)) {
		t.Helper()
		pod, err := create(change)
		if err != nil {
			t.Error(err)
			return
		}
		if s := pod.Spec; s.PriorityClassName != name || *s.Priority != value || *s.PreemptionPolicy != policy {
			t.Errorf("got class %q, priority %d, %s", s.PriorityClassName, *s.Priority, *s.PreemptionPolicy)
		}
	}
	plain := func(*corev1.PodSpec) {}
	expect("", 0, corev1.PreemptLowerPriority, plain)
	never := corev1.PreemptNever
	polite, usual := class("polite", 70), class("usual", 9)
	polite.PreemptionPolicy, usual.GlobalDefault = &never, true
	for _, k := range []*schedulingv1.PriorityClass{polite, usual} {
		if _, err := client.SchedulingV1().PriorityClasses().Create(t.Context(), k, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect("usual", 9, corev1.PreemptLowerPriority, plain)
	expect("polite", 70, never, func(s *corev1.PodSpec) { s.PriorityClassName = "polite" })
	pod, err := client.CoreV1().Pods("dev").Get(t.Context(), "p3", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = nil, nil
	if pod, err = client.CoreV1().Pods("dev").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil || *pod.Spec.Priority != 70 {
		t.Errorf("written without its priority: %v (%v)", pod, err)
	}
	expect("system-node-critical", 2000001000, corev1.PreemptLowerPriority, func(s *corev1.PodSpec) { s.PriorityClassName = "system-node-critical" })
	six := int32(6)
	for want, change := range map[string]func(*corev1.PodSpec){
		"no PriorityClass with name none was found": func(s *corev1.PodSpec) { s.PriorityClassName = "none" },
		"the integer value of priority (6) must not be provided in pod spec; priority admission controller computed 9 from the given " +
			"PriorityClass name": func(s *corev1.PodSpec) { s.Priority = &six },
		"the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed " +
			"PreemptLowerPriority from the given PriorityClass name": func(s *corev1.PodSpec) { s.PreemptionPolicy = &never },
	} {
		if _, err := create(change); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "is forbidden: "+want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
