package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// getter is where an object is looked up: the store, or a transaction of it.
type getter interface {
	Get(kind *api.Kind, namespace, name string) (api.Object, error)
}

// admitNamespace refuses an object in a namespace that does not exist or is on its way out.
func admitNamespace(from getter, obj api.Object) error {
	kind := api.KindOf(obj)
	if !kind.Namespaced {
		return nil
	}
	name := obj.GetNamespace()
	found, err := from.Get(api.Namespaces, "", name)
	if err != nil {
		return err
	}
	ns := found.(*corev1.Namespace)
	if ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	refused := apierrors.NewForbidden(kind.GroupResource(), obj.GetName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name))
	refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", name),
		Field:   "metadata.namespace",
	})
	return refused
}

// admitNew is what admission does to a new object before its defaults.
func (s *Server) admitNew(c *call, obj api.Object) error {
	if pod, ok := obj.(*corev1.Pod); ok {
		return s.admitPod(c, pod)
	}
	return s.admitPriorityClass(obj)
}

// admitPod gives a new pod its ServiceAccount and what that brings, a while on a lost node, its priority, and the amounts that LimitRanges
// give.
func (s *Server) admitPod(c *call, pod *corev1.Pod) error {
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = pod.Spec.DeprecatedServiceAccount
	}
	if name == "" {
		name = api.DefaultServiceAccount
	}
	pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount = name, name
	var account *corev1.ServiceAccount
	found, err := s.store.Get(api.ServiceAccounts, pod.Namespace, name)
	switch {
	case err == nil:
		account = found.(*corev1.ServiceAccount)
	case name != api.DefaultServiceAccount: // the default one may be on its way: a new namespace's first pod need not wait
		return forbidden(pod, `error looking up service account %s/%s: serviceaccount "%s" not found`, pod.Namespace, name, name)
	}
	api.UseServiceAccount(pod, account, s.cfg.MountTokens)
	api.TolerateLostNodes(pod, s.cfg.Toleration)
	if err := api.UsePriorityClass(pod, s.priorityClasses()); err != nil {
		return err
	}
	return s.applyLimits(c, pod)
}

func (s *Server) priorityClasses() []*schedulingv1.PriorityClass {
	return store.All[*schedulingv1.PriorityClass](s.everything(api.PriorityClasses, ""))
}

// admitPriorityClass refuses a second default.
func (s *Server) admitPriorityClass(obj api.Object) error {
	class, ok := obj.(*schedulingv1.PriorityClass)
	if !ok || !class.GlobalDefault {
		return nil
	}
	if other := api.DefaultPriorityClass(s.priorityClasses()); other != nil && other.Name != class.Name {
		return forbidden(obj, "PriorityClass %v is already marked as default. Only one default can exist", other.Name)
	}
	return nil
}

// immortal are the namespaces a cluster cannot be without.
var immortal = map[string]bool{
	metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true, corev1.NamespaceNodeLease: true,
}

// admitDelete refuses the end of what a cluster cannot be without.
func admitDelete(kind *api.Kind, name string) error {
	if kind == api.Namespaces && immortal[name] {
		return apierrors.NewForbidden(kind.GroupResource(), name, fmt.Errorf("this namespace may not be deleted"))
	}
	return nil
}
