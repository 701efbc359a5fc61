package api

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// DefaultToleration is for how long a pod that says nothing stays on a lost node: Kubernetes' own (--default-not-ready-toleration-seconds).
const DefaultToleration = 300 * time.Second

// TolerateLostNodes lets a new pod that says nothing of lost nodes stay on one for a while, rounded up to whole seconds (zero is
// 300 s), as Kubernetes' admission plugin DefaultTolerationSeconds does.
func TolerateLostNodes(pod *corev1.Pod, after time.Duration) {
	if after <= 0 {
		after = DefaultToleration
	}
	seconds := int64((after + time.Second - 1) / time.Second)
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		spoken := slices.ContainsFunc(pod.Spec.Tolerations, func(tol corev1.Toleration) bool {
			return (tol.Key == key || tol.Key == "") && (tol.Effect == corev1.TaintEffectNoExecute || tol.Effect == "")
		})
		if !spoken {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
	}
}
