package api

import (
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateJob(j *batchv1.Job) field.ErrorList {
	spec, path := &j.Spec, field.NewPath("spec")
	var errs field.ErrorList
	for name, n := range map[string]*int32{"parallelism": spec.Parallelism, "completions": spec.Completions,
		"backoffLimit": spec.BackoffLimit, "backoffLimitPerIndex": spec.BackoffLimitPerIndex,
		"maxFailedIndexes": spec.MaxFailedIndexes, "ttlSecondsAfterFinished": spec.TTLSecondsAfterFinished} {
		if n != nil {
			errs = append(errs, notNegative(path.Child(name), int64(*n))...)
		}
	}
	if n := spec.ActiveDeadlineSeconds; n != nil {
		errs = append(errs, notNegative(path.Child("activeDeadlineSeconds"), *n)...)
	}
	if m := spec.CompletionMode; m != nil {
		errs = append(errs, supportedOr(path.Child("completionMode"), *m, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	}
	errs = append(errs, validateIndexes(spec, path)...)
	if m := spec.ManagedBy; m != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *m)...)
	}
	errs = append(errs, validateFailurePolicy(spec, path.Child("podFailurePolicy").Child("rules"))...)
	if p := spec.PodReplacementPolicy; p != nil && spec.PodFailurePolicy != nil {
		errs = append(errs, supportedOr(path.Child("podReplacementPolicy"), *p, batchv1.Failed)...)
	} else if p != nil {
		errs = append(errs, supportedOr(path.Child("podReplacementPolicy"), *p, batchv1.Failed, batchv1.TerminatingOrFailed)...)
	}
	errs = append(errs, validateJobSelector(spec, path)...)
	return append(errs, validateJobTemplate(spec, path.Child("template"))...)
}

func validateJobSelector(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Selector != nil {
		errs = append(errs, labelSelector(spec.Selector, path.Child("selector"))...)
		if s, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !s.Matches(labels.Set(spec.Template.Labels)) {
			errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), spec.Template.Labels,
				"`selector` does not match template `labels`"))
		}
	} else if spec.ManualSelector != nil && *spec.ManualSelector {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	return errs
}

// validateJobTemplate checks a Job's pods, which end.
func validateJobTemplate(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, e := range validateTemplate(&spec.Template, path) {
		if !strings.HasSuffix(e.Field, "restartPolicy") && !strings.HasSuffix(e.Field, "activeDeadlineSeconds") {
			errs = append(errs, e)
		}
	}
	if p := spec.Template.Spec.RestartPolicy; p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever {
		errs = append(errs, field.Required(path.Child("spec", "restartPolicy"), `valid values: "OnFailure", "Never"`))
	} else if spec.PodFailurePolicy != nil && p != corev1.RestartPolicyNever {
		errs = append(errs, field.Invalid(path.Child("spec", "restartPolicy"), p, `only "Never" is supported when podFailurePolicy is specified`))
	}
	return errs
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	errs := immutable(j.Spec.Selector, old.Spec.Selector, "spec", "selector")
	errs = append(errs, immutable(j.Spec.CompletionMode, old.Spec.CompletionMode, "spec", "completionMode")...)
	if j.Spec.CompletionMode != nil && *j.Spec.CompletionMode != batchv1.IndexedCompletion {
		errs = append(errs, immutable(j.Spec.Completions, old.Spec.Completions, "spec", "completions")...)
	}
	errs = append(errs, immutable(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex, "spec", "backoffLimitPerIndex")...)
	suspended := old.Spec.Suspend != nil && *old.Spec.Suspend && old.Status.StartTime == nil
	if !suspended && !equality.Semantic.DeepEqual(j.Spec.Template, old.Spec.Template) {
		errs = append(errs, immutable(j.Spec.Template, old.Spec.Template, "spec", "template")...)
	}
	return errs
}

// maxIndexes is the most pods of an Indexed Job that may run at once, or fail; Kubernetes' figure.
const maxIndexes = 100000

// validateIndexes holds what goes with one completion mode and not with the other.
func validateIndexes(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if m := spec.CompletionMode; m == nil || *m == batchv1.NonIndexedCompletion {
		for name, n := range map[string]*int32{"backoffLimitPerIndex": spec.BackoffLimitPerIndex, "maxFailedIndexes": spec.MaxFailedIndexes} {
			if n != nil {
				errs = append(errs, field.Invalid(path.Child(name), *n, "requires indexed completion mode"))
			}
		}
		if p := spec.SuccessPolicy; p != nil {
			shown := struct{ Rules []batchv1.SuccessPolicyRule }{p.Rules} // as Kubernetes prints it
			errs = append(errs, field.Invalid(path.Child("successPolicy"), shown, "requires indexed completion mode"))
		}
		return errs
	} else if *m == batchv1.IndexedCompletion {
		errs = append(errs, validateIndexed(spec, path)...)
	}
	return errs
}

func validateIndexed(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	if n := spec.Parallelism; n != nil && *n > maxIndexes {
		errs = append(errs, field.Invalid(path.Child("parallelism"), *n, "must be less than or equal to 100000 when completion mode is Indexed"))
	}
	n := spec.MaxFailedIndexes
	if n != nil && spec.Completions != nil && *n > *spec.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *n, "must be less than or equal to completions"))
	}
	if n != nil && *n > maxIndexes {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *n, "must be less than or equal to 100000"))
	}
	if spec.SuccessPolicy != nil && len(spec.SuccessPolicy.Rules) == 0 {
		errs = append(errs, field.Required(path.Child("successPolicy", "rules"), "at least one rules must be specified when the successPolicy is specified"))
	}
	return errs
}

func validateFailurePolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	for i, r := range spec.PodFailurePolicy.Rules {
		at := path.Index(i)
		switch {
		case r.Action == "":
			errs = append(errs, field.Required(at.Child("action"), `valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`))
		case r.Action == batchv1.PodFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil:
			errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
		default:
			errs = append(errs, supportedOr(at.Child("action"), r.Action, batchv1.PodFailurePolicyActionCount,
				batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
		}
		if r.OnExitCodes != nil {
			errs = append(errs, validateExitCodes(spec, r.OnExitCodes, at.Child("onExitCodes"))...)
		}
		if r.OnExitCodes != nil && len(r.OnPodConditions) > 0 {
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		}
		if r.OnExitCodes == nil && len(r.OnPodConditions) == 0 {
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
		for j, c := range r.OnPodConditions {
			on := at.Child("onPodConditions").Index(j)
			errs = append(errs, qualifiedName(on.Child("type"), string(c.Type))...)
			errs = append(errs, supportedOr(on.Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
	}
	return errs
}

func validateExitCodes(spec *batchv1.JobSpec, codes *batchv1.PodFailurePolicyOnExitCodesRequirement, path *field.Path) field.ErrorList {
	errs := supportedOr(path.Child("operator"), codes.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if name := codes.ContainerName; name != nil {
		named := func(c corev1.Container) bool { return c.Name == *name }
		if !slices.ContainsFunc(spec.Template.Spec.Containers, named) && !slices.ContainsFunc(spec.Template.Spec.InitContainers, named) {
			errs = append(errs, field.Invalid(path.Child("containerName"), *name,
				"must be one of the container or initContainer names in the pod template"))
		}
	}
	at := path.Child("values")
	if len(codes.Values) == 0 {
		errs = append(errs, field.Invalid(at, codes.Values, "at least one value is required"))
	}
	seen := map[int32]bool{}
	for i, code := range codes.Values {
		if codes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			errs = append(errs, field.Invalid(at.Index(i), code, "must not be 0 for the In operator"))
		}
		if seen[code] {
			errs = append(errs, field.Duplicate(at.Index(i), code))
		}
		seen[code] = true
	}
	if !slices.IsSorted(codes.Values) {
		errs = append(errs, field.Invalid(at, codes.Values, "must be ordered"))
	}
	return errs
}
