package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// taintValue is how Kubernetes prints a taint that another one repeats.
type taintValue struct {
	Key, Value string
	Effect     corev1.TaintEffect
	TimeAdded  *metav1.Time
}

func validateNode(node *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, t := range node.Spec.Taints {
		p := field.NewPath("metadata", "taints").Index(i) // Kubernetes says metadata, too
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
		if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, strings.Join(messages, ";")))
		}
		errs = append(errs, taintEffect(p.Child("effect"), t.Effect)...)
		key := t.Key + "\x00" + string(t.Effect)
		if seen[key] {
			e := field.Duplicate(p, taintValue{t.Key, t.Value, t.Effect, t.TimeAdded})
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
		seen[key] = true
	}
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", node.Status.Capacity}, {"allocatable", node.Status.Allocatable}} {
		for _, name := range slices.Sorted(maps.Keys(l.list)) {
			errs = append(errs, quantity(name, l.list[name], field.NewPath("status", l.name, string(name)))...)
		}
	}
	return append(errs, validatePodCIDRs(node.Spec.PodCIDRs)...)
}

func validatePodCIDRs(cidrs []string) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "podCIDRs")
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), c, true, nil)...)
	}
	if len(cidrs) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		errs = append(errs, field.InternalError(path,
			fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
	}
	if !dual || len(cidrs) > 2 {
		errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func validateNodeUpdate(node, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range node.Status.Addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		seen[a] = true
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(node.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"),
			`node updates may not change podCIDR except from "" to valid`))
	}
	if was, is := old.Spec.ProviderID, node.Spec.ProviderID; was != "" && was != is {
		message := "field cannot be modified once set"
		if is == "" {
			message = "field cannot be cleared once set"
		}
		errs = append(errs, field.Invalid(field.NewPath("spec", "providerID"), nil, message))
	}
	return errs
}

// maxConfigMapSize is the size of all values of a ConfigMap, in bytes.
const maxConfigMapSize = 1 << 20

func validateConfigMap(cm *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
		path := field.NewPath("data").Key(key)
		errs = append(errs, invalid(path, key, validation.IsConfigMapKey(key))...)
		if _, ok := cm.BinaryData[key]; ok {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(cm.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(cm.BinaryData)) {
		errs = append(errs, invalid(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(cm.BinaryData[key])
	}
	if size > maxConfigMapSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxConfigMapSize))
	}
	return errs
}

func validateConfigMapUpdate(cm, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if old.Immutable != nil && *old.Immutable {
		const fixed = "field is immutable when `immutable` is set"
		if cm.Immutable == nil || !*cm.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), fixed))
		}
		if !reflect.DeepEqual(cm.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), fixed))
		}
		if !reflect.DeepEqual(cm.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), fixed))
		}
	}
	return append(errs, validateConfigMap(cm)...)
}

// validateEvent: an event stands in the namespace of what it tells of, and newer events name who reports them.
func validateEvent(ev *corev1.Event) field.ErrorList {
	about := ev.InvolvedObject.Namespace
	elsewhere := field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")}
	if ev.EventTime.IsZero() {
		clusterWide := about == "" && (ev.Namespace == "" || ev.Namespace == metav1.NamespaceDefault)
		if about != ev.Namespace && !clusterWide {
			return elsewhere
		}
		return nil
	}
	var errs field.ErrorList
	if about == "" && ev.Namespace != metav1.NamespaceDefault && ev.Namespace != metav1.NamespaceSystem {
		errs = elsewhere
	}
	for _, f := range []struct{ name, value string }{
		{"reportingComponent", ev.ReportingController}, {"reportingInstance", ev.ReportingInstance},
		{"action", ev.Action}, {"reason", ev.Reason},
	} {
		if f.value == "" {
			errs = append(errs, field.Required(field.NewPath(f.name), ""))
		} else if len(f.value) > 128 && f.name != "reportingComponent" {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", "can have at most 128 characters"))
		}
	}
	errs = append(errs, qualifiedName(field.NewPath("reportingComponent"), ev.ReportingController)...)
	if len(ev.Message) > 1024 {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", "can have at most 1024 characters"))
	}
	return errs
}
