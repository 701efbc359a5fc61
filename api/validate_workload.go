package api

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	spec, path := &d.Spec, field.NewPath("spec")
	errs := validateReplicas(spec.Replicas, path)
	errs = append(errs, validateSelected(spec.Selector, &spec.Template, path)...)
	errs = append(errs, validateStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, notNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))...)
	if n := spec.RevisionHistoryLimit; n != nil {
		errs = append(errs, notNegative(path.Child("revisionHistoryLimit"), int64(*n))...)
	}
	if n := spec.ProgressDeadlineSeconds; n != nil {
		p := path.Child("progressDeadlineSeconds")
		errs = append(errs, notNegative(p, int64(*n))...)
		if *n <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(p, *n, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	spec, path := &rs.Spec, field.NewPath("spec")
	errs := validateReplicas(spec.Replicas, path)
	errs = append(errs, notNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))...)
	return append(errs, validateSelected(spec.Selector, &spec.Template, path)...)
}

func validateReplicas(n *int32, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return notNegative(path.Child("replicas"), int64(*n))
}

// validateSelected checks a selector and the pod template it must select.
func validateSelected(sel *metav1.LabelSelector, template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("selector")
	if sel == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, labelSelector(sel, at)...)
		if len(sel.MatchLabels)+len(sel.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, sel, "empty selector is invalid for deployment"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(sel)
	if err != nil {
		return append(errs, field.Invalid(at, sel, "invalid label selector"))
	}
	path = path.Child("template")
	if !selector.Empty() && !selector.Matches(labels.Set(template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), template.Labels,
			"`selector` does not match template `labels`"))
	}
	return append(errs, validateTemplate(template, path)...)
}

func validateTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	path = path.Child("spec")
	errs = append(errs, validatePodSpec(&t.Spec, path, false)...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("activeDeadlineSeconds"),
			"activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
	return errs
}

// strategyValue is how Kubernetes prints a strategy it does not know.
type strategyValue struct {
	Type          appsv1.DeploymentStrategyType
	RollingUpdate *rollingUpdateValue
}

type rollingUpdateValue struct{ MaxUnavailable, MaxSurge intstr.IntOrString }

func printedStrategy(s *appsv1.DeploymentStrategy) strategyValue {
	v := strategyValue{Type: s.Type}
	if r := s.RollingUpdate; r != nil {
		v.RollingUpdate = &rollingUpdateValue{}
		if r.MaxUnavailable != nil {
			v.RollingUpdate.MaxUnavailable = *r.MaxUnavailable
		}
		if r.MaxSurge != nil {
			v.RollingUpdate.MaxSurge = *r.MaxSurge
		}
	}
	return v
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"),
				"may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		return validateRollingUpdate(s.RollingUpdate, path.Child("rollingUpdate"))
	}
	return field.ErrorList{field.NotSupported(path, printedStrategy(s),
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func validateRollingUpdate(r *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	if r == nil || r.MaxUnavailable == nil || r.MaxSurge == nil {
		return field.ErrorList{field.Required(path, "this should be defaulted and never be nil")}
	}
	unavailable := path.Child("maxUnavailable")
	errs := countOrPercent(*r.MaxUnavailable, unavailable)
	errs = append(errs, countOrPercent(*r.MaxSurge, path.Child("maxSurge"))...)
	if numberOf(*r.MaxUnavailable) == 0 && numberOf(*r.MaxSurge) == 0 {
		errs = append(errs, field.Invalid(unavailable, *r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if r.MaxUnavailable.Type == intstr.String && numberOf(*r.MaxUnavailable) > 100 {
		errs = append(errs, field.Invalid(unavailable, *r.MaxUnavailable, "must not be greater than 100%"))
	}
	return errs
}

func countOrPercent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	if v.Type == intstr.String {
		return invalid(path, v, validation.IsValidPercent(v.StrVal))
	}
	return notNegative(path, int64(v.IntVal))
}

// numberOf is the number in "25%" or in 25; 0 for what is neither.
func numberOf(v intstr.IntOrString) int {
	if v.Type == intstr.Int {
		return int(v.IntVal)
	}
	n, _ := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n
}
