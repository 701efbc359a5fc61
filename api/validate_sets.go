package api

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// atMostAll takes a count, or a percentage up to 100%.
func atMostAll(v intstr.IntOrString, path *field.Path) field.ErrorList {
	errs := countOrPercent(v, path)
	if len(errs) == 0 && v.Type == intstr.String && numberOf(v) > 100 {
		errs = append(errs, field.Invalid(path, v, "must not be greater than 100%"))
	}
	return errs
}

// validateChosen checks the selector and the pod template of a kind of set.
func validateChosen(kind string, sel *metav1.LabelSelector, template *corev1.PodTemplateSpec) field.ErrorList {
	path := field.NewPath("spec")
	at := path.Child("selector")
	var errs field.ErrorList
	switch {
	case sel == nil && kind == "DaemonSet": // Kubernetes says only that nothing matches it
	case sel == nil:
		errs = append(errs, field.Required(at, ""))
	case len(sel.MatchLabels)+len(sel.MatchExpressions) == 0:
		errs = append(errs, field.Invalid(at, sel, "empty selector is invalid for "+strings.ToLower(kind)))
	default:
		errs = append(errs, labelSelector(sel, at)...)
	}
	path = path.Child("template")
	if selector, err := metav1.LabelSelectorAsSelector(sel); err == nil && !selector.Matches(labels.Set(template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), template.Labels, "`selector` does not match template `labels`"))
	}
	for _, e := range validateTemplate(template, path) {
		e.Detail = strings.Replace(e.Detail, "in ReplicaSet", "in "+kind, 1)
		errs = append(errs, e)
	}
	return errs
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	spec, path := &d.Spec, field.NewPath("spec")
	errs := validateChosen("DaemonSet", spec.Selector, &spec.Template)
	errs = append(errs, notNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))...)
	if n := spec.RevisionHistoryLimit; n != nil {
		errs = append(errs, notNegative(path.Child("revisionHistoryLimit"), int64(*n))...)
	}
	path = path.Child("updateStrategy")
	switch spec.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return errs
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		unsupported := field.NotSupported(path, spec.UpdateStrategy.Type, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})
		unsupported.BadValue = struct { // as Kubernetes prints it
			Type          appsv1.DaemonSetUpdateStrategyType
			RollingUpdate *appsv1.RollingUpdateDaemonSet
		}{spec.UpdateStrategy.Type, spec.UpdateStrategy.RollingUpdate}
		return append(errs, unsupported)
	}
	path = path.Child("rollingUpdate")
	r := spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil || r.MaxSurge == nil {
		return append(errs, field.Required(path, ""))
	}
	errs = append(errs, atMostAll(*r.MaxUnavailable, path.Child("maxUnavailable"))...)
	errs = append(errs, atMostAll(*r.MaxSurge, path.Child("maxSurge"))...)
	switch unavailable, surge := numberOf(*r.MaxUnavailable) != 0, numberOf(*r.MaxSurge) != 0; {
	case unavailable && surge:
		errs = append(errs, field.Invalid(path.Child("maxSurge"), *r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !unavailable && !surge:
		errs = append(errs, field.Required(path.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := validateReplicas(spec.Replicas, path)
	errs = append(errs, notNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))...)
	if p := spec.PodManagementPolicy; p != appsv1.OrderedReadyPodManagement && p != appsv1.ParallelPodManagement {
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), p, "must be 'OrderedReady' or 'Parallel'"))
	}
	if spec.Ordinals != nil {
		errs = append(errs, notNegative(path.Child("ordinals.start"), int64(spec.Ordinals.Start))...)
	}
	if spec.ServiceName != "" {
		errs = append(errs, dnsLabel(path.Child("serviceName"), spec.ServiceName)...)
	}
	if p := spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := path.Child("persistentVolumeClaimRetentionPolicy")
		const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		errs = append(errs, supportedOr(at.Child("whenDeleted"), p.WhenDeleted, retain, remove)...)
		errs = append(errs, supportedOr(at.Child("whenScaled"), p.WhenScaled, retain, remove)...)
	}
	errs = append(errs, validateSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	return append(errs, validateChosen("StatefulSet", spec.Selector, withClaims(spec))...)
}

// withClaims is a StatefulSet's template as its pods will have it: with a volume for each claim, under names of their own.
func withClaims(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := spec.Template.DeepCopy()
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	claimed := map[string]bool{}
	var volumes []corev1.Volume
	for _, c := range spec.VolumeClaimTemplates {
		claimed[c.Name] = true
		volumes = append(volumes, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
	}
	for _, v := range t.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return t
}

func validateSetStrategy(u *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	r, at := u.RollingUpdate, path.Child("rollingUpdate")
	switch u.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if r != nil {
			shown := struct { // as Kubernetes prints it
				Partition      int32
				MaxUnavailable *intstr.IntOrString
			}{MaxUnavailable: r.MaxUnavailable}
			if r.Partition != nil {
				shown.Partition = *r.Partition
			}
			return field.ErrorList{field.Invalid(at, shown, "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		shown := struct { // as Kubernetes prints it
			Type          appsv1.StatefulSetUpdateStrategyType
			RollingUpdate *appsv1.RollingUpdateStatefulSetStrategy
		}{u.Type, r}
		return field.ErrorList{field.Invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'")}
	}
	var errs field.ErrorList
	if r != nil && r.Partition != nil {
		errs = append(errs, notNegative(at.Child("partition"), int64(*r.Partition))...)
	}
	if r != nil && r.MaxUnavailable != nil {
		at = at.Child("maxUnavailable")
		errs = append(errs, atMostAll(*r.MaxUnavailable, at)...)
		if numberOf(*r.MaxUnavailable) == 0 {
			errs = append(errs, field.Invalid(at, *r.MaxUnavailable, "cannot be 0"))
		}
	}
	return errs
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := immutable(s.Spec.Selector, old.Spec.Selector, "spec", "selector")
	errs = append(errs, immutable(s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates, "spec", "volumeClaimTemplates")...)
	errs = append(errs, immutable(s.Spec.ServiceName, old.Spec.ServiceName, "spec", "serviceName")...)
	return append(errs, immutable(s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy, "spec", "podManagementPolicy")...)
}

func validateRevision(r *appsv1.ControllerRevision) field.ErrorList {
	path := field.NewPath("data")
	errs := notNegative(field.NewPath("revision"), r.Revision)
	var v any
	if r.Data.Raw == nil {
		return append(errs, field.Required(path, "data is mandatory"))
	}
	if err := json.Unmarshal(r.Data.Raw, &v); err != nil {
		return append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err)))
	}
	if _, ok := v.(map[string]any); !ok {
		errs = append(errs, field.Required(path, "data must be a valid JSON object"))
	}
	return errs
}
