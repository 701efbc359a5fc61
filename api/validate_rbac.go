package api

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateRBAC checks roles and bindings.
func validateRBAC(obj Object) field.ErrorList {
	switch o := obj.(type) {
	case *rbacv1.Role:
		return validateRules(o.Rules, true)
	case *rbacv1.ClusterRole:
		return validateRules(o.Rules, false)
	case *rbacv1.RoleBinding:
		return validateBinding(o.RoleRef, o.Subjects, true)
	case *rbacv1.ClusterRoleBinding:
		return validateBinding(o.RoleRef, o.Subjects, false)
	}
	return nil
}

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range rules {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs,
					"namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs,
					"rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	at := field.NewPath("roleRef")
	errs := supportedOr(at.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	errs = append(errs, supportedOr(at.Child("kind"), ref.Kind, kinds...)...)
	errs = append(errs, segment(at.Child("name"), ref.Name)...)
	for i, s := range subjects {
		at := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				errs = append(errs, dnsSubdomain(at.Child("name"), s.Name)...)
			}
			errs = append(errs, supportedOr(at.Child("apiGroup"), s.APIGroup, "")...)
			if !namespaced && s.Namespace == "" {
				errs = append(errs, field.Required(at.Child("namespace"), ""))
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			errs = append(errs, supportedOr(at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)...)
		default:
			errs = append(errs, supportedOr(at.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)...)
		}
	}
	return errs
}

// quotaNames are the resources a ResourceQuota can bound, beside those with a domain and "count/...".
var quotaNames = []string{
	"cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.storage", "requests.ephemeral-storage",
	"limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods", "resourcequotas", "services", "replicationcontrollers",
	"secrets", "persistentvolumeclaims", "configmaps", "services.nodeports", "services.loadbalancers",
}

func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(q.Spec.Hard)) {
		at := field.NewPath("spec", "hard").Key(string(name))
		errs = append(errs, qualifiedName(at, string(name))...)
		if text := string(name); !strings.Contains(text, "/") && !slices.Contains(quotaNames, text) &&
			!strings.HasPrefix(text, "requests.hugepages-") && !strings.HasPrefix(text, "hugepages-") {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for quota"))
		}
		value := q.Spec.Hard[name]
		if value.Sign() < 0 {
			errs = append(errs, field.Invalid(at, value.String(), "must be greater than or equal to 0"))
		}
		if counted := !strings.Contains(string(name), "cpu") && !strings.Contains(string(name), "memory"); counted && value.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, value, "must be an integer"))
		}
	}
	at := field.NewPath("spec", "scopes")
	for _, s := range q.Spec.Scopes {
		switch s {
		case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
			corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		default:
			errs = append(errs, field.Invalid(at, q.Spec.Scopes, "unsupported scope"))
		}
	}
	return errs
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		}
		errs = append(errs, inOrder(item, at)...)
	}
	return errs
}

// inOrder checks that a limit's least, default and greatest amounts follow each other.
func inOrder(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, c := range []struct {
		less, more       corev1.ResourceList
		field            string
		lesser, greater  string
		showsGreaterOnes bool
	}{
		{item.Min, item.Max, "min", "min", "max", false},
		{item.Min, item.DefaultRequest, "defaultRequest", "min", "default request", true},
		{item.DefaultRequest, item.Max, "defaultRequest", "default request", "max", false},
		{item.DefaultRequest, item.Default, "defaultRequest", "default request", "default limit", false},
		{item.Min, item.Default, "default", "min", "default", false},
		{item.Default, item.Max, "default", "default", "max", true},
	} {
		for _, name := range slices.Sorted(maps.Keys(c.less)) {
			small := c.less[name]
			big, ok := c.more[name]
			if !ok || small.Cmp(big) <= 0 {
				continue
			}
			shown := small
			if c.showsGreaterOnes {
				shown = big
			}
			errs = append(errs, field.Invalid(at.Child(c.field).Key(string(name)), shown,
				c.lesser+" value "+small.String()+" is greater than "+c.greater+" value "+big.String()))
		}
	}
	return errs
}
