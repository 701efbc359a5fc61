package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
			errs = append(errs, standardResource(at, text)...)
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
	return append(errs, validateScopes(&q.Spec)...)
}

func standardScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return true
	}
	return false
}

// scopeFits tells whether a scope means anything for a resource: pods for all, what pods ask for for all but BestEffort.
func scopeFits(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	if !standardScope(s) || !slices.Contains(quotaNames, string(name)) || name == corev1.ResourcePods {
		return true
	}
	computed := []corev1.ResourceName{"cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"}
	return s != corev1.ResourceQuotaScopeBestEffort && slices.Contains(computed, name)
}

func validateScopes(spec *corev1.ResourceQuotaSpec) field.ErrorList {
	var errs field.ErrorList
	at, hard := field.NewPath("spec", "scopes"), slices.Sorted(maps.Keys(spec.Hard))
	var named []corev1.ResourceQuotaScope
	check := func(s corev1.ResourceQuotaScope, unsupported *field.Path, shown any, path *field.Path, all any) {
		if !standardScope(s) {
			errs = append(errs, field.Invalid(unsupported, shown, "unsupported scope"))
		}
		for _, name := range hard {
			if !scopeFits(s, name) {
				errs = append(errs, field.Invalid(path, all, "unsupported scope applied to resource"))
			}
		}
		named = append(named, s)
	}
	conflicts := func(path *field.Path) {
		for _, pair := range [][2]corev1.ResourceQuotaScope{{"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"}} {
			if slices.Contains(named, pair[0]) && slices.Contains(named, pair[1]) {
				errs = append(errs, field.Invalid(path, spec.Scopes, "conflicting scopes"))
			}
		}
	}
	for _, s := range spec.Scopes {
		check(s, at, spec.Scopes, at, spec.Scopes)
	}
	conflicts(at)
	if spec.ScopeSelector == nil {
		return errs
	}
	at, named = field.NewPath("spec", "scopeSelector", "matchExpressions"), nil
	for _, r := range spec.ScopeSelector.MatchExpressions {
		check(r.ScopeName, at.Child("scopeName"), r.ScopeName, at, spec.ScopeSelector)
		errs = append(errs, validateScopeTerm(r, at)...)
	}
	conflicts(at)
	return errs
}

func validateScopeTerm(r corev1.ScopedResourceSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if standardScope(r.ScopeName) && r.ScopeName != corev1.ResourceQuotaScopePriorityClass && r.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of "+
			"ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort "+
			"or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			errs = append(errs, field.Invalid(at.Child("values"), r.Values,
				"must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

// validateQuotaUpdate holds that a quota's scopes stay what they are, in whatever order.
func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	if d := slices.Compact(slices.Sorted(slices.Values(q.Spec.Scopes))); !slices.Equal(d, slices.Compact(slices.Sorted(slices.Values(old.Spec.Scopes)))) {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, "field is immutable")}
	}
	return nil
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
		errs = append(errs, validateLimitItem(item, at)...)
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

// standardResource complains about a resource without a domain that Kubernetes does not know.
func standardResource(at *field.Path, name string) field.ErrorList {
	if errs := qualifiedName(at, name); len(errs) > 0 {
		return errs
	}
	if strings.Contains(name, "/") || slices.Contains(quotaNames, name) || name == "storage" || strings.HasPrefix(name, "hugepages-") ||
		strings.HasPrefix(name, "requests.hugepages-") {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "must be a standard resource type or fully qualified")}
}

// validateLimitItem checks the type of a limit, the resources it names, and its ratios.
func validateLimitItem(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	kind := string(item.Type)
	errs := qualifiedName(at.Child("type"), kind)
	own := item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer
	if len(errs) == 0 && !strings.Contains(kind, "/") && !own && item.Type != corev1.LimitTypePersistentVolumeClaim {
		errs = append(errs, field.Invalid(at.Child("type"), item.Type, "must be a standard limit type or fully qualified"))
	}
	lists := []struct {
		name string
		list corev1.ResourceList
	}{{"max", item.Max}, {"min", item.Min}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio}}
	if item.Type != corev1.LimitTypePod {
		lists = append(lists, lists[0], lists[0])
		lists[3].name, lists[3].list, lists[4].name, lists[4].list = "default", item.Default, "defaultRequest", item.DefaultRequest
	}
	for _, l := range lists {
		for _, name := range slices.Sorted(maps.Keys(l.list)) {
			path, text := at.Child(l.name).Key(string(name)), string(name)
			errs = append(errs, standardResource(path, text)...)
			if own && !strings.Contains(text, "/") && !slices.Contains(containerResources, name) && !strings.HasPrefix(text, "hugepages-") {
				errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
			}
		}
	}
	return append(errs, validateClaimLimit(item, at)...)
}

// validateClaimLimit wants a limit of claims to bound their size, and looks at the ratios of every limit.
func validateClaimLimit(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	_, least := item.Min[corev1.ResourceStorage]
	if _, most := item.Max[corev1.ResourceStorage]; item.Type == corev1.LimitTypePersistentVolumeClaim && !least && !most {
		errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
	}
	return append(errs, validateRatios(item, at)...)
}

func validateRatios(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(item.MaxLimitRequestRatio)) {
		ratio, path := item.MaxLimitRequestRatio[name], at.Child("maxLimitRequestRatio").Key(string(name))
		if ratio.AsApproximateFloat64() < 1 {
			errs = append(errs, field.Invalid(path, ratio, "ratio "+ratio.String()+" is less than 1"))
		}
		smallest, ok := item.Min[name]
		if greatest, both := item.Max[name]; ok && both {
			if most := greatest.AsApproximateFloat64() / smallest.AsApproximateFloat64(); ratio.AsApproximateFloat64() > most {
				errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
			}
		}
	}
	return errs
}
