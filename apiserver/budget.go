package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// admitEviction refuses the eviction of a ready pod that a PodDisruptionBudget cannot spare. It counts the pods themselves, in
// the transaction that evicts, so that two evictions cannot both take the last one that may go.
func admitEviction(tx *store.Tx, pod *corev1.Pod) error {
	if !api.Ready(pod) || !api.PodActive(pod) {
		return nil
	}
	for _, obj := range tx.List(api.PodDisruptionBudgets, store.Query{Namespace: pod.Namespace}) {
		budget := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil {
			return err
		}
		pods := tx.List(api.Pods, store.Query{Namespace: pod.Namespace, Labels: selector})
		healthy, expected, covered := 0, 0, false
		for _, p := range pods {
			one := p.(*corev1.Pod)
			covered = covered || one.Name == pod.Name
			if api.PodTerminal(one) {
				continue
			}
			expected++
			if api.Ready(one) && api.PodActive(one) {
				healthy++
			}
		}
		if !covered {
			continue
		}
		need, err := budgetNeeds(&budget.Spec, expected)
		if err != nil {
			return err
		}
		if healthy-1 < need {
			refused := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
			refused.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf(
				"The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, need, healthy)}}
			return refused
		}
	}
	return nil
}

// budgetNeeds is how many of the expected pods must stay healthy.
func budgetNeeds(spec *policyv1.PodDisruptionBudgetSpec, expected int) (int, error) {
	switch {
	case spec.MinAvailable != nil:
		return intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, expected, true)
	case spec.MaxUnavailable != nil:
		may, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, expected, true)
		return max(expected-may, 0), err
	}
	return 0, nil
}
