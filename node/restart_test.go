package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// N-6, N-12, N-13: another image restarts the container that runs, and no other, also under the policy Never; resources show at once.
func TestAnotherImageRestartsTheContainer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers = append(pod.Spec.Containers, shell("beside", stay))
	b.create(pod)
	b.awaitReady(pod)
	b.change(pod, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "shop:2.0" })
	got := b.await(pod, "restarted", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return s[0].RestartCount == 1 && s[0].Image == "shop:2.0" && isReady(p)
	})
	if s := got.Status.ContainerStatuses; s[0].LastTerminationState.Terminated == nil || s[1].RestartCount != 0 || got.Status.ObservedGeneration != 2 {
		t.Errorf("got %+v, observed generation %d", s, got.Status.ObservedGeneration)
	}
	const want = "Container web definition changed, will be restarted"
	if m := b.message(pod, "Killing"); m != want {
		t.Errorf("got %q, want %q", m, want)
	}
	b.change(pod, func(p *corev1.Pod) {
		p.Spec.Containers[1].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("150m")}
	})
	got = b.await(pod, "resized", func(p *corev1.Pod) bool { return p.Status.ObservedGeneration == 3 })
	s := got.Status.ContainerStatuses[1]
	if s.Resources == nil || s.Resources.Requests.Cpu().String() != "150m" || s.AllocatedResources.Cpu().String() != "150m" || s.RestartCount != 0 {
		t.Errorf("got %+v", s)
	}
}
