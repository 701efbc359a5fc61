package api

import (
	"cmp"
	"reflect"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// SpecChanged tells whether new differs from old in what its writer asks for, so that the generation rises: the spec; for a
// Deployment the annotations too (they are copied to its ReplicaSets); for an EndpointSlice everything but other metadata.
func SpecChanged(new, old Object) bool {
	same := equality.Semantic.DeepEqual
	switch n := new.(type) {
	case *appsv1.Deployment:
		o := old.(*appsv1.Deployment)
		return !same(n.Spec, o.Spec) || !same(n.Annotations, o.Annotations)
	case *discoveryv1.EndpointSlice:
		o := old.(*discoveryv1.EndpointSlice)
		return !same(n.Endpoints, o.Endpoints) || !same(n.Ports, o.Ports) || n.AddressType != o.AddressType ||
			!same(n.Labels, o.Labels)
	}
	if n, ok := new.(*corev1.Pod); ok {
		if o := old.(*corev1.Pod); o.Spec.NodeName == "" && n.Spec.NodeName != "" { // a binding is nobody's wish for another spec
			before := o.Spec
			before.NodeName = n.Spec.NodeName
			return !same(n.Spec, before)
		}
	}
	spec, ok := part(new, "Spec")
	if !ok {
		return false
	}
	before, _ := part(old, "Spec")
	return !same(spec.Interface(), before.Interface())
}

// PrepareForCreate puts a new object into the state in which every object of its kind begins, whatever its writer said about
// it: no status, pods Pending, namespaces Active with the finalizer that lets their contents go first.
func PrepareForCreate(obj Object) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		o.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		if !slices.Contains(o.Spec.Finalizers, corev1.FinalizerKubernetes) {
			o.Spec.Finalizers = append(o.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
	case *corev1.Pod:
		o.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(&o.Spec)}
		if len(o.Spec.SchedulingGates) > 0 {
			o.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
				Message: "Scheduling is blocked due to non-empty scheduling gates",
			}}
		}
	case *corev1.Service:
		o.Status = corev1.ServiceStatus{}
		if o.Spec.ClusterIP != "" && len(o.Spec.ClusterIPs) == 0 {
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		}
	case *corev1.Node: // a machine registers with what it has
	default:
		if status, ok := part(obj, "Status"); ok {
			status.SetZero()
		}
	}
}

// part is a field of the struct an object points to: its Spec or its Status, which nearly all have.
func part(obj Object, name string) (reflect.Value, bool) {
	f := reflect.ValueOf(obj).Elem().FieldByName(name)
	return f, f.IsValid()
}

// keepPart gives new the part that old, a copy, has.
func keepPart(new, old Object, name string) {
	if f, ok := part(new, name); ok {
		was, _ := part(old, name)
		f.Set(was)
	}
}

// PrepareForUpdate takes back what a writer of the whole object may not change (status), and gives a Service back the
// addresses and node ports it was allocated when the writer left them out. old is only read.
func PrepareForUpdate(new, old Object) {
	keepIdentity(new, old)
	new.SetGeneration(old.GetGeneration()) // the store counts; a manifest that says nothing of it is not older
	switch n := new.(type) {
	case *corev1.Namespace:
		o := Copy(old.(*corev1.Namespace))
		n.Status, n.Spec.Finalizers = o.Status, o.Spec.Finalizers
	case *corev1.Service:
		o := Copy(old.(*corev1.Service))
		n.Status = o.Status
		keepAllocated(n, o)
		normalizeClusterIPs(n, o)
		dropOtherTypes(n, o)
	case *corev1.Pod:
		o := Copy(old.(*corev1.Pod))
		n.Status = o.Status
		n.Spec.Priority = cmp.Or(n.Spec.Priority, o.Spec.Priority) // given at birth: whoever leaves them out does not mean none
		n.Spec.PreemptionPolicy = cmp.Or(n.Spec.PreemptionPolicy, o.Spec.PreemptionPolicy)
	case *batchv1.Job:
		keepPart(n, Copy(old), "Status")
		keepJobSelector(n, old.(*batchv1.Job))
	default:
		keepPart(new, Copy(old), "Status")
	}
}

// PrepareForStatusUpdate takes back everything a writer of the subresource status may not change. old is only read.
func PrepareForStatusUpdate(new, old Object) {
	old = Copy(old)
	keepIdentity(new, old)
	switch n := new.(type) {
	case *corev1.Pod:
		n.Spec, n.OwnerReferences = old.(*corev1.Pod).Spec, old.GetOwnerReferences()
		setEmpty(&n.Status.QOSClass, old.(*corev1.Pod).Status.QOSClass)
		defaultPodStatus(&n.Status)
	case *appsv1.Deployment:
		n.Spec, n.Labels = old.(*appsv1.Deployment).Spec, old.GetLabels()
	default:
		keepPart(new, old, "Spec")
	}
	new.SetDeletionTimestamp(old.GetDeletionTimestamp())
	new.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	new.SetGeneration(old.GetGeneration())
	new.SetFinalizers(old.GetFinalizers())
}

// qosClass is the pod's quality of service: Guaranteed when every container limits cpu and memory and asks for just that,
// BestEffort when none says anything, else Burstable.
func qosClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	resources := make([]corev1.ResourceRequirements, 0, len(spec.Containers)+len(spec.InitContainers))
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			resources = append(resources, containers[i].Resources)
		}
	}
	if spec.Resources != nil {
		resources = []corev1.ResourceRequirements{*spec.Resources}
	}
	any, all := false, len(resources) > 0
	for _, r := range resources {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := r.Limits[name], r.Requests[name]
			any = any || !limit.IsZero() || !request.IsZero()
			all = all && !limit.IsZero() && limit.Cmp(request) == 0
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case all:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

// keepIdentity gives an object what a writer may leave out and cannot change. A UID that was given stays: one that differs is
// refused (apimachinery's ValidateObjectMetaAccessorUpdate does the same).
func keepIdentity(new, old Object) {
	if new.GetUID() == "" {
		new.SetUID(old.GetUID())
	}
	new.SetCreationTimestamp(old.GetCreationTimestamp())
}
