package apiserver

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// reasonNodeCapacity is the cause that kube-apiserver's PodResizeValidator names.
const reasonNodeCapacity metav1.CauseType = "NodeCapacity"

// admitResize refuses to resize a pod to more than its node could ever give. What the node cannot give now, it gives later.
func (s *Server) admitResize(pod, was *corev1.Pod) error {
	if pod.Spec.NodeName == "" || equality.Semantic.DeepEqual(pod.Spec, was.Spec) {
		return nil
	}
	node, err := store.Get[*corev1.Node](s.store, api.Nodes, "", pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return forbidden(pod, "node %q not found", pod.Spec.NodeName)
	}
	if err != nil {
		return err
	}
	requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	var over []string
	if has := node.Status.Allocatable.Cpu(); requests.Cpu().Cmp(*has) > 0 {
		over = append(over, fmt.Sprintf("cpu, requested: %d, allocatable: %d", requests.Cpu().MilliValue(), has.MilliValue()))
	}
	if has := node.Status.Allocatable.Memory(); requests.Memory().Cmp(*has) > 0 {
		over = append(over, fmt.Sprintf("memory, requested: %d, allocatable: %d", requests.Memory().Value(), has.Value()))
	}
	if len(over) == 0 {
		return nil
	}
	err = forbidden(pod, "node didn't have enough allocatable resources: %s", strings.Join(over, "; "))
	if refused := (*apierrors.StatusError)(nil); errors.As(err, &refused) {
		refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{Type: reasonNodeCapacity})
	}
	return err
}
