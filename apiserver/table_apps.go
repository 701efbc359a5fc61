package apiserver

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var deploymentColumns = []column{
	text("Ready", func(d *appsv1.Deployment) string {
		return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, value(d.Spec.Replicas))
	}),
	number("Up-to-date", func(d *appsv1.Deployment) int64 { return int64(d.Status.UpdatedReplicas) }),
	number("Available", func(d *appsv1.Deployment) int64 { return int64(d.Status.AvailableReplicas) }),
	ageColumn,
	wide("Containers", func(d *appsv1.Deployment) string { return containerNames(d.Spec.Template.Spec.Containers) }),
	wide("Images", func(d *appsv1.Deployment) string { return containerImages(d.Spec.Template.Spec.Containers) }),
	wide("Selector", func(d *appsv1.Deployment) string { return selectorText(d.Spec.Selector) }),
}

var replicaSetColumns = []column{
	number("Desired", func(r *appsv1.ReplicaSet) int64 { return int64(value(r.Spec.Replicas)) }),
	number("Current", func(r *appsv1.ReplicaSet) int64 { return int64(r.Status.Replicas) }),
	number("Ready", func(r *appsv1.ReplicaSet) int64 { return int64(r.Status.ReadyReplicas) }),
	ageColumn,
	wide("Containers", func(r *appsv1.ReplicaSet) string { return containerNames(r.Spec.Template.Spec.Containers) }),
	wide("Images", func(r *appsv1.ReplicaSet) string { return containerImages(r.Spec.Template.Spec.Containers) }),
	wide("Selector", func(r *appsv1.ReplicaSet) string { return selectorText(r.Spec.Selector) }),
}

func value(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func containerNames(containers []corev1.Container) string {
	var all []string
	for _, c := range containers {
		all = append(all, c.Name)
	}
	return strings.Join(all, ",")
}

func containerImages(containers []corev1.Container) string {
	var all []string
	for _, c := range containers {
		all = append(all, c.Image)
	}
	return strings.Join(all, ",")
}

func selectorText(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

var sliceColumns = []column{
	text("AddressType", func(s *discoveryv1.EndpointSlice) string { return string(s.AddressType) }),
	text("Ports", slicePorts),
	text("Endpoints", sliceEndpoints),
	ageColumn,
}

func slicePorts(s *discoveryv1.EndpointSlice) string {
	var all []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			all = append(all, strconv.Itoa(int(*p.Port)))
		case p.Name != nil && *p.Name != "":
			all = append(all, *p.Name)
		default:
			all = append(all, "*")
		}
	}
	if len(all) == 0 {
		return "<unset>"
	}
	return shortened(all)
}

func sliceEndpoints(s *discoveryv1.EndpointSlice) string {
	var all []string
	for _, e := range s.Endpoints {
		all = append(all, e.Addresses...)
	}
	if len(all) == 0 {
		return "<unset>"
	}
	return shortened(all)
}

// shortened joins the first few of all and counts the others.
func shortened(all []string) string {
	if more := len(all) - maxShown; more > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:maxShown], ","), more)
	}
	return strings.Join(all, ",")
}
