package api

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The kinds beside those that pods and Services are made of, a row each.
var (
	Secrets = row[corev1.Secret, corev1.SecretList](Kind{
		Version: "v1", Kind: "Secret", Plural: "secrets", Singular: "secret", Namespaced: true,
	})
	ServiceAccounts = row[corev1.ServiceAccount, corev1.ServiceAccountList](Kind{
		Version: "v1", Kind: "ServiceAccount", Plural: "serviceaccounts", Singular: "serviceaccount", Short: []string{"sa"},
		Namespaced: true,
	})
	ResourceQuotas = row[corev1.ResourceQuota, corev1.ResourceQuotaList](Kind{
		Version: "v1", Kind: "ResourceQuota", Plural: "resourcequotas", Singular: "resourcequota", Short: []string{"quota"},
		Namespaced: true, HasStatus: true,
	})
	LimitRanges = row[corev1.LimitRange, corev1.LimitRangeList](Kind{
		Version: "v1", Kind: "LimitRange", Plural: "limitranges", Singular: "limitrange", Short: []string{"limits"}, Namespaced: true,
	})
	DaemonSets = row[appsv1.DaemonSet, appsv1.DaemonSetList](Kind{
		Group: "apps", Version: "v1", Kind: "DaemonSet", Plural: "daemonsets", Singular: "daemonset", Short: []string{"ds"},
		Categories: []string{"all"}, Namespaced: true, HasStatus: true,
	})
	StatefulSets = row[appsv1.StatefulSet, appsv1.StatefulSetList](Kind{
		Group: "apps", Version: "v1", Kind: "StatefulSet", Plural: "statefulsets", Singular: "statefulset", Short: []string{"sts"},
		Categories: []string{"all"}, Namespaced: true, HasStatus: true, HasScale: true,
	})
	ControllerRevisions = row[appsv1.ControllerRevision, appsv1.ControllerRevisionList](Kind{
		Group: "apps", Version: "v1", Kind: "ControllerRevision", Plural: "controllerrevisions", Singular: "controllerrevision",
		Namespaced: true,
	})
	Jobs = row[batchv1.Job, batchv1.JobList](Kind{
		Group: "batch", Version: "v1", Kind: "Job", Plural: "jobs", Singular: "job", Categories: []string{"all"},
		Namespaced: true, HasStatus: true, Born: selectJob,
	})
	Ingresses = row[networkingv1.Ingress, networkingv1.IngressList](Kind{
		Group: "networking.k8s.io", Version: "v1", Kind: "Ingress", Plural: "ingresses", Singular: "ingress",
		Short: []string{"ing"}, Namespaced: true, HasStatus: true,
	})
	IngressClasses = row[networkingv1.IngressClass, networkingv1.IngressClassList](Kind{
		Group: "networking.k8s.io", Version: "v1", Kind: "IngressClass", Plural: "ingressclasses", Singular: "ingressclass",
	})
	NetworkPolicies = row[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList](Kind{
		Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy", Plural: "networkpolicies", Singular: "networkpolicy",
		Short: []string{"netpol"}, Namespaced: true,
	})
	ServiceCIDRs = row[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](Kind{
		Group: "networking.k8s.io", Version: "v1", Kind: "ServiceCIDR", Plural: "servicecidrs", Singular: "servicecidr", HasStatus: true,
	})
	IPAddresses = row[networkingv1.IPAddress, networkingv1.IPAddressList](Kind{
		Group: "networking.k8s.io", Version: "v1", Kind: "IPAddress", Plural: "ipaddresses", Singular: "ipaddress", Short: []string{"ip"},
	})
	PodDisruptionBudgets = row[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](Kind{
		Group: "policy", Version: "v1", Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets", Singular: "poddisruptionbudget",
		Short: []string{"pdb"}, Namespaced: true, HasStatus: true,
	})
	Roles = row[rbacv1.Role, rbacv1.RoleList](Kind{
		Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role", Plural: "roles", Singular: "role", Namespaced: true,
	})
	RoleBindings = row[rbacv1.RoleBinding, rbacv1.RoleBindingList](Kind{
		Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding", Plural: "rolebindings", Singular: "rolebinding",
		Namespaced: true,
	})
	ClusterRoles = row[rbacv1.ClusterRole, rbacv1.ClusterRoleList](Kind{
		Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole", Plural: "clusterroles", Singular: "clusterrole",
	})
	ClusterRoleBindings = row[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](Kind{
		Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding", Plural: "clusterrolebindings",
		Singular: "clusterrolebinding",
	})
	Leases = row[coordinationv1.Lease, coordinationv1.LeaseList](Kind{
		Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Plural: "leases", Singular: "lease", Namespaced: true,
	})
	PriorityClasses = row[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](Kind{
		Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass", Plural: "priorityclasses", Singular: "priorityclass",
		Short: []string{"pc"},
	})
)

// row completes a kind with its Go types and the index by owner, which all kinds have.
func row[T, L any, P interface {
	*T
	Object
}, Q interface {
	*L
	runtime.Object
}](k Kind) *Kind {
	k.New = func() Object { return P(new(T)) }
	k.NewList = func() runtime.Object { return Q(new(L)) }
	k.Indexes = map[string]func(Object) []string{IndexOwner: owners}
	return &k
}

// selectJob gives a Job that leaves its selector to the cluster one that no other Job has: its own uid, which its pods carry.
func selectJob(obj Object) {
	job := obj.(*batchv1.Job)
	if job.Spec.ManualSelector != nil && *job.Spec.ManualSelector {
		return
	}
	labels := job.Spec.Template.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	labels[batchv1.ControllerUidLabel], labels["controller-uid"] = string(job.UID), string(job.UID)
	labels[batchv1.JobNameLabel], labels["job-name"] = job.Name, job.Name
	job.Spec.Template.Labels = labels
	job.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: string(job.UID)}}
}

// keepJobSelector gives a Job back what the cluster chose for it and its writer left out.
func keepJobSelector(job, old *batchv1.Job) {
	if job.Spec.Selector == nil {
		job.Spec.Selector = old.Spec.Selector.DeepCopy()
	}
	for _, key := range []string{batchv1.ControllerUidLabel, "controller-uid", batchv1.JobNameLabel, "job-name"} {
		value, ok := old.Spec.Template.Labels[key]
		if _, has := job.Spec.Template.Labels[key]; !ok || has {
			continue
		}
		if job.Spec.Template.Labels == nil {
			job.Spec.Template.Labels = map[string]string{}
		}
		job.Spec.Template.Labels[key] = value
	}
}
