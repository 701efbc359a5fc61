package api

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateMore is Validate for the kinds of kinds_more.go.
func validateMore(obj Object) field.ErrorList {
	switch o := obj.(type) {
	case *corev1.Secret:
		return validateSecret(o)
	case *corev1.ResourceQuota:
		return validateQuota(o)
	case *corev1.LimitRange:
		return validateLimitRange(o)
	case *appsv1.DaemonSet:
		return validateDaemonSet(o)
	case *appsv1.StatefulSet:
		return validateStatefulSet(o)
	case *appsv1.ControllerRevision:
		return validateRevision(o)
	case *batchv1.Job:
		return validateJob(o)
	case *networkingv1.Ingress:
		return validateIngress(o)
	case *networkingv1.IngressClass:
		return validateIngressClass(o)
	case *networkingv1.NetworkPolicy:
		return validateNetworkPolicy(o)
	case *networkingv1.ServiceCIDR:
		return validateServiceCIDR(o)
	case *networkingv1.IPAddress:
		return validateIPAddress(o)
	case *policyv1.PodDisruptionBudget:
		return validateBudget(o)
	case *coordinationv1.Lease:
		return validateLease(o)
	}
	return validateRest(obj)
}

// validateRest is validateMore for classes of priority, and roles and their bindings.
func validateRest(obj Object) field.ErrorList {
	if class, ok := obj.(*schedulingv1.PriorityClass); ok {
		return validatePriorityClass(class)
	}
	return validateRBAC(obj)
}

// validateMoreUpdate says which fields of those kinds may not change.
func validateMoreUpdate(new, old Object) field.ErrorList {
	switch n := new.(type) {
	case *corev1.Secret:
		return validateSecretUpdate(n, old.(*corev1.Secret))
	case *corev1.ResourceQuota:
		return validateQuotaUpdate(n, old.(*corev1.ResourceQuota))
	case *appsv1.DaemonSet:
		return immutable(n.Spec.Selector, old.(*appsv1.DaemonSet).Spec.Selector, "spec", "selector")
	case *appsv1.StatefulSet:
		return validateStatefulSetUpdate(n, old.(*appsv1.StatefulSet))
	case *appsv1.ControllerRevision:
		return immutable(n.Data, old.(*appsv1.ControllerRevision).Data, "data")
	case *batchv1.Job:
		return validateJobUpdate(n, old.(*batchv1.Job))
	case *networkingv1.IngressClass:
		return immutable(n.Spec.Controller, old.(*networkingv1.IngressClass).Spec.Controller, "spec", "controller")
	case *networkingv1.ServiceCIDR:
		return validateServiceCIDRUpdate(n.Spec.CIDRs, old.(*networkingv1.ServiceCIDR).Spec.CIDRs)
	case *networkingv1.IPAddress:
		return immutable(n.Spec.ParentRef, old.(*networkingv1.IPAddress).Spec.ParentRef, "spec", "parentRef")
	case *schedulingv1.PriorityClass:
		return validatePriorityClassUpdate(n, old.(*schedulingv1.PriorityClass))
	case *rbacv1.RoleBinding:
		return sameRole(n.RoleRef, old.(*rbacv1.RoleBinding).RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return sameRole(n.RoleRef, old.(*rbacv1.ClusterRoleBinding).RoleRef)
	}
	return nil
}

// requiredData are the keys that a Secret of a type must have.
var requiredData = map[corev1.SecretType][]string{
	corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
	corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
	corev1.SecretTypeSSHAuth:          {corev1.SSHAuthPrivateKey},
	corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	data, size := field.NewPath("data"), 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, invalid(data.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	for _, key := range requiredData[s.Type] {
		value, ok := s.Data[key]
		if !ok || s.Type == corev1.SecretTypeSSHAuth && len(value) == 0 {
			errs = append(errs, field.Required(data.Key(key), ""))
			continue
		}
		if s.Type == corev1.SecretTypeDockercfg || s.Type == corev1.SecretTypeDockerConfigJson {
			if err := json.Unmarshal(value, &map[string]any{}); err != nil {
				errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		if _, password := s.Data[corev1.BasicAuthPasswordKey]; !user && !password {
			errs = append(errs, field.Required(data.Key(corev1.BasicAuthUsernameKey), ""),
				field.Required(data.Key(corev1.BasicAuthPasswordKey), ""))
		}
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := immutable(s.Type, old.Type, "type")
	if old.Immutable == nil || !*old.Immutable {
		return errs
	}
	const fixed = "field is immutable when `immutable` is set"
	if s.Immutable == nil || !*s.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), fixed))
	}
	if !reflect.DeepEqual(s.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), fixed))
	}
	return errs
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	path, spec := field.NewPath("spec"), &l.Spec
	if n := spec.LeaseDurationSeconds; n != nil && *n <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *n, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	if s := spec.Strategy; s != nil && !strings.Contains(string(*s), "/") {
		errs = append(errs, supportedOr(path.Child("strategy", "strategy"), *s, coordinationv1.OldestEmulationVersion)...)
	}
	if h := spec.PreferredHolder; h != nil && *h != "" && (spec.Strategy == nil || *spec.Strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}

func validateBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	path, spec := field.NewPath("spec"), &b.Spec
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		shown := struct { // as Kubernetes prints it
			MinAvailable               *intstr.IntOrString
			Selector                   *metav1.LabelSelector
			MaxUnavailable             *intstr.IntOrString
			UnhealthyPodEvictionPolicy *policyv1.UnhealthyPodEvictionPolicyType
		}{spec.MinAvailable, spec.Selector, spec.MaxUnavailable, spec.UnhealthyPodEvictionPolicy}
		errs = append(errs, field.Invalid(path, shown, "minAvailable and maxUnavailable cannot be both set"))
	}
	if spec.MinAvailable != nil {
		errs = append(errs, atMostAll(*spec.MinAvailable, path.Child("minAvailable"))...)
	}
	if spec.MaxUnavailable != nil {
		errs = append(errs, atMostAll(*spec.MaxUnavailable, path.Child("maxUnavailable"))...)
	}
	errs = append(errs, labelSelector(spec.Selector, path.Child("selector"))...)
	if p := spec.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, supportedOr(path.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}
