package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateResize returns everything that is wrong with new as a pod of other amounts of cpu and memory than old, and nothing else.
func ValidateResize(new, old *corev1.Pod) field.ErrorList {
	errs := append(validateMetaUpdate(new, old), validatePod(new)...)
	spec := field.NewPath("spec")
	if qosClass(&old.Spec) != qosClass(&new.Spec) {
		errs = append(errs, field.Invalid(spec, new.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	was := old.Spec.DeepCopy()
	for _, kind := range []struct {
		name     string
		now, was []corev1.Container
	}{{"initContainers", new.Spec.InitContainers, was.InitContainers}, {"containers", new.Spec.Containers, was.Containers}} {
		at := spec.Child(kind.name)
		if len(kind.now) != len(kind.was) {
			return append(errs, field.Forbidden(at, "containers may not be added or removed on resize"))
		}
		for i := range kind.now {
			if kind.now[i].Name != kind.was[i].Name {
				errs = append(errs, field.Forbidden(at.Index(i).Child("name"), "containers may not be renamed or reordered on resize"))
			}
			errs = append(errs, notRemoved(at.Index(i).Child("resources"), kind.now[i].Resources, kind.was[i].Resources)...)
			takeAmounts(&kind.was[i].Resources, kind.now[i].Resources)
		}
	}
	if len(errs) == 0 && !equality.Semantic.DeepEqual(&new.Spec, was) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
	}
	return errs
}

func notRemoved(at *field.Path, now, was corev1.ResourceRequirements) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name, words string
		now, was    corev1.ResourceList
	}{{"requests", "resource requests cannot be removed", now.Requests, was.Requests}, {"limits", "resource limits cannot be removed", now.Limits, was.Limits}} {
		for name := range list.was {
			if _, ok := list.now[name]; !ok {
				errs = append(errs, field.Forbidden(at.Child(list.name), list.words))
				break
			}
		}
	}
	return errs
}

// takeAmounts gives to what from says of cpu and memory.
func takeAmounts(to *corev1.ResourceRequirements, from corev1.ResourceRequirements) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		for _, list := range []struct {
			to   *corev1.ResourceList
			from corev1.ResourceList
		}{{&to.Requests, from.Requests}, {&to.Limits, from.Limits}} {
			q, ok := list.from[name]
			if !ok {
				continue
			}
			if *list.to == nil {
				*list.to = corev1.ResourceList{}
			}
			(*list.to)[name] = q
		}
	}
}

// ValidateEphemeral returns everything that is wrong with new as a pod with more ephemeral containers than old.
func ValidateEphemeral(new, old *corev1.Pod) field.ErrorList {
	errs := append(validateMetaUpdate(new, old), validatePod(new)...)
	at := field.NewPath("spec", "ephemeralContainers")
	now := map[string]*corev1.EphemeralContainer{}
	for i := range new.Spec.EphemeralContainers {
		now[new.Spec.EphemeralContainers[i].Name] = &new.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		switch is, ok := now[was.Name]; {
		case !ok:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(is, was):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n", was.Name)))
		}
	}
	return errs
}

// ValidateNewEvent returns what is wrong with an Event that is created as one of events.k8s.io/v1, beyond what Validate finds:
// that version knows no fields of the old one.
func ValidateNewEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if s := e.Series; s != nil {
		if s.Count < 2 {
			errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
		}
		if s.LastObservedTime.IsZero() {
			errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
		}
	}
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()}, {"count", e.Count != 0},
		{"source", e.Source != corev1.EventSource{}},
	} {
		if f.set {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", "needs to be unset"))
		}
	}
	return errs
}
