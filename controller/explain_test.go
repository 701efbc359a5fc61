package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Each pod gets the one reason that keeps it from being chosen, from the functions that write the slices (E-1, E-2, E-3).
func TestExplainNamesTheOneReason(t *testing.T) {
	t.Parallel()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "shop"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "shop", "track": "stable"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
	ready := func(change func(*corev1.Pod)) *corev1.Pod {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "a", Labels: map[string]string{"app": "shop", "track": "stable"}},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
				Name: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			}}},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, PodIP: "10.244.1.1",
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			},
		}
		change(pod)
		return pod
	}
	unready := func(p *corev1.Pod) {
		p.Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, Message: "containers with unready status: [web]"}
	}
	going := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }
	for _, tt := range []struct {
		name    string
		change  func(*corev1.Pod)
		publish bool
		want    Candidacy
	}{
		{"ready", func(*corev1.Pod) {}, false, Candidacy{Selected: true, Endpoint: true, Ready: true, Reason: "ready"}},
		{"another namespace", func(p *corev1.Pod) { p.Namespace = "prod" }, false, Candidacy{Reason: "it is in namespace prod, the Service in dev"}},
		{"a label that differs", func(p *corev1.Pod) { p.Labels["track"] = "canary" }, false, Candidacy{Reason: "label track is canary; the selector wants stable"}},
		{"a label that is missing", func(p *corev1.Pod) { delete(p.Labels, "app") }, false, Candidacy{Reason: "label app is missing; the selector wants app=shop"}},
		{"ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false, Candidacy{Selected: true, Reason: "it has ended: phase Succeeded"}},
		{"no address", func(p *corev1.Pod) { p.Status.PodIP = "" }, false, Candidacy{Selected: true, Reason: "it has no address yet"}},
		{"no node", func(p *corev1.Pod) { p.Status.PodIP, p.Spec.NodeName = "", "" }, false, Candidacy{Selected: true, Reason: "it has no node yet"}},
		{"not ready", unready, false, Candidacy{Selected: true, Endpoint: true, Reason: "not ready: containers with unready status: [web]"}},
		{"not ready, and published", unready, true, Candidacy{Selected: true, Endpoint: true, Ready: true, Reason: "not ready, but the Service publishes pods that are not ready"}},
		{"terminating", going, false, Candidacy{Selected: true, Endpoint: true, Reason: "terminating"}},
		{"no such port", func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil }, false, Candidacy{Selected: true, Endpoint: true, Reason: "no container has a port named http"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := svc.DeepCopy()
			s.Spec.PublishNotReadyAddresses = tt.publish
			if got := Explain(s, ready(tt.change)); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	bare := svc.DeepCopy()
	bare.Spec.Selector = nil
	if got := Explain(bare, ready(func(*corev1.Pod) {})); got != (Candidacy{Reason: "the Service has no selector"}) {
		t.Errorf("without a selector: %+v", got)
	}
}
