package api

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Validate returns everything that is wrong with a new object, each error with its field path and Kubernetes 1.37's words.
// The object has been defaulted (Default) and prepared (PrepareForCreate), has its namespace, and its name if that was to be
// generated. What needs the rest of the cluster (is the namespace there, is the node port free) is the API server's to check.
func Validate(obj Object) field.ErrorList {
	errs := validateMeta(obj)
	switch o := obj.(type) {
	case *corev1.Namespace:
		for _, f := range o.Spec.Finalizers {
			errs = append(errs, validateFinalizer(string(f), field.NewPath("spec", "finalizers"))...)
		}
	case *corev1.Node:
		errs = append(errs, validateNode(o)...)
	case *corev1.Pod:
		errs = append(errs, validatePod(o)...)
		errs = append(errs, validatePodCreate(o)...)
	case *corev1.Service:
		errs = append(errs, validateService(o, nil)...)
	case *corev1.Endpoints:
		errs = append(errs, validateSubsets(o.Subsets)...)
	case *corev1.ConfigMap:
		errs = append(errs, validateConfigMap(o)...)
	case *corev1.Event:
		errs = append(errs, validateEvent(o)...)
	case *appsv1.Deployment:
		errs = append(errs, validateDeployment(o)...)
	case *appsv1.ReplicaSet:
		errs = append(errs, validateReplicaSet(o)...)
	case *discoveryv1.EndpointSlice:
		errs = append(errs, validateSlice(o)...)
	default:
		errs = append(errs, validateMore(obj)...)
	}
	return errs
}

// ValidateUpdate returns everything that is wrong with new as the successor of old, fields that may not change included.
// new has been defaulted and prepared (PrepareForUpdate). A new object without resourceVersion is an update of whatever
// stands there.
func ValidateUpdate(new, old Object) field.ErrorList {
	errs := append(validateMeta(new), validateMetaUpdate(new, old)...)
	switch n := new.(type) {
	case *corev1.Node:
		errs = append(errs, validateNode(n)...)
		errs = append(errs, validateNodeUpdate(n, old.(*corev1.Node))...)
	case *corev1.Pod:
		errs = append(errs, validatePod(n)...)
		errs = append(errs, validatePodUpdate(n, old.(*corev1.Pod))...)
	case *corev1.Service:
		errs = append(errs, validateServiceUpdate(n, old.(*corev1.Service))...)
	case *corev1.Endpoints:
		errs = append(errs, validateSubsets(n.Subsets)...)
	case *corev1.ConfigMap:
		errs = append(errs, validateConfigMapUpdate(n, old.(*corev1.ConfigMap))...)
	case *corev1.Event:
		errs = append(errs, validateEvent(n)...)
	case *appsv1.Deployment:
		errs = append(errs, validateDeployment(n)...)
		errs = append(errs, immutable(n.Spec.Selector, old.(*appsv1.Deployment).Spec.Selector, "spec", "selector")...)
	case *appsv1.ReplicaSet:
		errs = append(errs, validateReplicaSet(n)...)
		errs = append(errs, immutable(n.Spec.Selector, old.(*appsv1.ReplicaSet).Spec.Selector, "spec", "selector")...)
	case *discoveryv1.EndpointSlice:
		errs = append(errs, validateSlice(n)...)
		errs = append(errs, immutable(n.AddressType, old.(*discoveryv1.EndpointSlice).AddressType, "addressType")...)
	default:
		errs = append(errs, validateMore(new)...)
		errs = append(errs, validateMoreUpdate(new, old)...)
	}
	return distinct(errs)
}

// distinct leaves out what has been said already: a field is judged by itself and as the successor of another.
func distinct(errs field.ErrorList) field.ErrorList {
	said := map[string]bool{}
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		words := e.Error()
		known := said[words]
		said[words] = true
		return known
	})
}

// ValidateStatusUpdate returns what is wrong with new as a write of old's status.
func ValidateStatusUpdate(new, old Object) field.ErrorList {
	errs := validateMetaUpdate(new, old)
	switch n := new.(type) {
	case *corev1.Namespace:
		path := field.NewPath("status", "Phase")
		if n.DeletionTimestamp == nil && n.Status.Phase != corev1.NamespaceActive {
			errs = append(errs, field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
		}
		if n.DeletionTimestamp != nil && n.Status.Phase != corev1.NamespaceTerminating {
			errs = append(errs, field.Invalid(path, n.Status.Phase,
				"may only be 'Terminating' if `deletionTimestamp` is not empty"))
		}
	case *corev1.Pod:
		errs = append(errs, immutable(n.Status.QOSClass, old.(*corev1.Pod).Status.QOSClass, "status", "qosClass")...)
	case *corev1.Node:
		errs = append(errs, validateNode(n)...)
	}
	return errs
}

// nameRule says how objects of a kind may be called.
func nameRule(obj Object) apivalidation.ValidateNameFunc {
	switch obj.(type) {
	case *corev1.Namespace, *corev1.Service, *appsv1.StatefulSet:
		return apivalidation.NameIsDNSLabel
	case *networkingv1.IPAddress: // validateIPAddress says how
		return func(string, bool) []string { return nil }
	case *corev1.Event, *rbacv1.Role, *rbacv1.RoleBinding, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
		return path.ValidatePathSegmentName
	}
	return apivalidation.NameIsDNSSubdomain
}

func validateMeta(obj Object) field.ErrorList {
	path := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(obj, KindOf(obj).Namespaced, nameRule(obj), path)
	for i, f := range obj.GetFinalizers() {
		errs = append(errs, validateKubeFinalizer(f, path.Child("finalizers").Index(i))...)
	}
	return errs
}

// bareMeta is an object's metadata alone, to be changed freely.
func bareMeta(obj metav1.Object) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{
		Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
		ResourceVersion: obj.GetResourceVersion(), Generation: obj.GetGeneration(),
		CreationTimestamp: obj.GetCreationTimestamp(), DeletionTimestamp: obj.GetDeletionTimestamp(),
		DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(), Labels: obj.GetLabels(),
		Annotations: obj.GetAnnotations(), OwnerReferences: obj.GetOwnerReferences(), Finalizers: obj.GetFinalizers(),
		ManagedFields: obj.GetManagedFields(),
	}
}

func validateMetaUpdate(new, old Object) field.ErrorList {
	meta, path := bareMeta(new), field.NewPath("metadata")
	setEmpty(&meta.ResourceVersion, old.GetResourceVersion())
	setEmpty(&meta.ResourceVersion, "0")
	errs := apivalidation.ValidateObjectMetaUpdate(meta, bareMeta(old), path)
	for i, f := range meta.Finalizers {
		errs = append(errs, validateKubeFinalizer(f, path.Child("finalizers").Index(i))...)
	}
	return errs
}

func validateFinalizer(name string, path *field.Path) field.ErrorList {
	return append(apivalidation.ValidateFinalizerName(name, path), validateKubeFinalizer(name, path)...)
}

// validateKubeFinalizer lets only Kubernetes' own finalizers do without a domain.
func validateKubeFinalizer(name string, path *field.Path) field.ErrorList {
	standard := []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}
	if strings.Contains(name, "/") || slices.Contains(standard, name) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")}
}

// immutable complains when a field differs from what it was.
func immutable(new, old any, path string, more ...string) field.ErrorList {
	return apivalidation.ValidateImmutableField(new, old, field.NewPath(path, more...))
}

// invalid makes one error of each message about a value.
func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// oneOf complains when value is empty (Required) or not among the supported ones, which are named in Kubernetes' order.
func oneOf[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if value == "" && !slices.Contains(supported, "") {
		return field.ErrorList{field.Required(path, "")}
	}
	return supportedOr(path, value, supported...)
}

// supportedOr complains when value is not among the supported ones.
func supportedOr[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

func dnsLabel(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Label(value))
}

func dnsSubdomain(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Subdomain(value))
}

func qualifiedName(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, validation.IsQualifiedName(value))
}

func portNumber(path *field.Path, port int32) field.ErrorList {
	return invalid(path, port, validation.IsValidPortNum(int(port)))
}

func portNumberOrName(path *field.Path, port intstr.IntOrString) field.ErrorList {
	if port.Type == intstr.String {
		return invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
}

func protocol(path *field.Path, p corev1.Protocol) field.ErrorList {
	return oneOf(path, p, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

func notNegative(path *field.Path, value int64) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(value, path)
}

// address complains about what is not an IP address as Kubernetes writes one; addresses the object already had (old) may stay.
func address(path *field.Path, value string, old []string) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, value, true, old)
}

// endpointAddress complains about addresses traffic cannot be sent to.
func endpointAddress(path *field.Path, value string) field.ErrorList {
	ip := netutils.ParseIPSloppy(value)
	if ip == nil {
		return field.ErrorList{field.Invalid(path, value, "must be a valid IP address")}
	}
	switch {
	case ip.IsUnspecified():
		return field.ErrorList{field.Invalid(path, value, "may not be unspecified ("+value+")")}
	case ip.IsLoopback():
		return field.ErrorList{field.Invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case ip.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(path, value,
			"may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}
