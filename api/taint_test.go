package api_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/api"
)

// N-3: who says nothing of lost nodes is given Kubernetes' tolerations, once; who does keeps his own.
func TestPodsTolerateALostNodeForAWhile(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{}
	pod.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}}
	api.TolerateLostNodes(pod, 0)
	api.TolerateLostNodes(pod, time.Hour)
	seconds := int64(300)
	want := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
	}
	if d := cmp.Diff(want, pod.Spec.Tolerations); d != "" {
		t.Error(d)
	}
	short := &corev1.Pod{}
	api.TolerateLostNodes(short, time.Millisecond)
	if got := *short.Spec.Tolerations[1].TolerationSeconds; got != 1 {
		t.Errorf("got %d s, want 1 s", got)
	}
}
