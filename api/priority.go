package api

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// highestUserPriority is the most that a PriorityClass of a user may be worth; above it are Kubernetes' own.
	highestUserPriority   = 1_000_000_000
	systemPriority        = 2 * highestUserPriority
	systemPriorityPrefix  = "system-"
	systemNodeCritical    = "system-node-critical"
	systemClusterCritical = "system-cluster-critical"
)

// SystemPriorityClasses are those that every cluster has.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, about string) *schedulingv1.PriorityClass {
		c := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: about}
		Default(c)
		return c
	}
	return []*schedulingv1.PriorityClass{
		class(systemNodeCritical, systemPriority+1000, "Used for system critical pods that must not be moved from their current node."),
		class(systemClusterCritical, systemPriority,
			"Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, systemPriorityPrefix) {
		if err := knownSystemClass(c); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+systemPriorityPrefix+"' prefix are reserved for system use only. error: "+err.Error()))
		}
	} else if c.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if p := c.PreemptionPolicy; p != nil {
		errs = append(errs, oneOf(field.NewPath("preemptionPolicy"), *p, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

func knownSystemClass(c *schedulingv1.PriorityClass) error {
	for _, known := range SystemPriorityClasses() {
		if known.Name != c.Name {
			continue
		}
		if known.Value != c.Value {
			return fmt.Errorf("value of %v PriorityClass must be %v", known.Name, known.Value)
		}
		if c.GlobalDefault {
			return fmt.Errorf("globalDefault of %v PriorityClass must be false", known.Name)
		}
		return nil
	}
	return fmt.Errorf("%v is not a known system priority class", c.Name)
}

func validatePriorityClassUpdate(new, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if new.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, immutable(new.PreemptionPolicy, old.PreemptionPolicy, "preemptionPolicy")...)
}

// DefaultPriorityClass is the class, of all there are, of pods that name none; nil when no class is meant for them.
func DefaultPriorityClass(classes []*schedulingv1.PriorityClass) *schedulingv1.PriorityClass {
	var found *schedulingv1.PriorityClass
	for _, c := range classes {
		if c.GlobalDefault && (found == nil || found.Value > c.Value) {
			found = c
		}
	}
	return found
}

// UsePriorityClass gives a new pod the priority of its class, of all there are. Errors: Forbidden, in Kubernetes' words, for a class
// that does not exist and for a pod that says something else itself.
func UsePriorityClass(pod *corev1.Pod, classes []*schedulingv1.PriorityClass) error {
	lower := corev1.PreemptLowerPriority
	class := &schedulingv1.PriorityClass{PreemptionPolicy: &lower}
	if name := pod.Spec.PriorityClassName; name != "" {
		class = nil
		for _, c := range classes {
			if c.Name == name {
				class = c
			}
		}
		if class == nil {
			return notByItself(pod, "no PriorityClass with name %v was found", name)
		}
	} else if c := DefaultPriorityClass(classes); c != nil {
		class = c
	}
	spec := &pod.Spec
	if p := spec.Priority; p != nil && *p != class.Value {
		return notByItself(pod, "the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d "+
			"from the given PriorityClass name", *p, class.Value)
	}
	if p, its := spec.PreemptionPolicy, class.PreemptionPolicy; p != nil && its != nil && *p != *its {
		return notByItself(pod, "the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller "+
			"computed %s from the given PriorityClass name", *p, *its)
	}
	value := class.Value
	spec.PriorityClassName, spec.Priority = class.Name, &value
	if class.PreemptionPolicy != nil {
		policy := *class.PreemptionPolicy
		spec.PreemptionPolicy = &policy
	}
	return nil
}

func notByItself(pod *corev1.Pod, format string, args ...any) error {
	return apierrors.NewForbidden(Pods.GroupResource(), pod.Name, fmt.Errorf(format, args...))
}
