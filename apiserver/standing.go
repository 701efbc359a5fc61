package apiserver

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// Groups that Kubernetes puts callers into.
const (
	groupAuthenticated   = "system:authenticated"
	groupUnauthenticated = "system:unauthenticated"
)

// StandingObjects are what the API server itself brings into every cluster: Kubernetes' standing ClusterRoles and their
// bindings, its own PriorityClasses, and the ServiceCIDR that says where ClusterIPs come from.
func StandingObjects(services netip.Prefix) []api.Object {
	var all []api.Object
	for _, role := range standingRoles() {
		all = append(all, role)
	}
	for _, b := range []struct{ role, group string }{
		{"cluster-admin", adminGroup}, {"system:monitoring", "system:monitoring"}, {"system:discovery", groupAuthenticated},
		{"system:basic-user", groupAuthenticated},
	} {
		all = append(all, standingBinding(b.role, b.group))
	}
	all = append(all, standingBinding("system:public-info-viewer", groupAuthenticated, groupUnauthenticated))
	cidr := &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{services.String()}}}
	cidr.Name = api.ServiceCIDRName
	cidr.Status.Conditions = []metav1.Condition{{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Message: "Kubernetes default Service CIDR is ready",
	}}
	for _, class := range api.SystemPriorityClasses() {
		all = append(all, class)
	}
	return append(all, cidr)
}

func standingMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func standingBinding(role string, groups ...string) *rbacv1.ClusterRoleBinding {
	b := &rbacv1.ClusterRoleBinding{
		ObjectMeta: standingMeta(role), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
	for _, g := range groups {
		b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: g})
	}
	return b
}

// Verbs as roles group them.
var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "update", "patch", "delete", "deletecollection"}
)

func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

// standingRoles are Kubernetes' own ClusterRoles for people: their rules are those of Kubernetes 1.37 for the kinds served here.
func standingRoles() []*rbacv1.ClusterRole {
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: standingMeta(name), Rules: rules}
	}
	all, get := []string{"*"}, []string{"get"}
	part := func(name, to string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
		r := role(name, rules...)
		r.Labels[aggregateTo+to] = "true"
		return r
	}
	whole := func(name string, rules ...[]rbacv1.PolicyRule) *rbacv1.ClusterRole {
		r := role(name, slices.Concat(rules...)...)
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
			{MatchLabels: map[string]string{aggregateTo + name: "true"}}}}
		return r
	}
	edit, view := whole("edit", editRules(), viewRules()), whole("view", viewRules())
	edit.Labels[aggregateTo+"admin"], view.Labels[aggregateTo+"edit"] = "true", "true"
	return []*rbacv1.ClusterRole{
		role("cluster-admin", rule(all, "*", "*"), rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all}),
		whole("admin", adminRules(), editRules(), viewRules()), edit, view,
		part("system:aggregate-to-admin", "admin", adminRules()), part("system:aggregate-to-edit", "edit", editRules()),
		part("system:aggregate-to-view", "view", viewRules()),
		role("system:basic-user",
			rule([]string{"create"}, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule([]string{"create"}, "authentication.k8s.io", "selfsubjectreviews")),
		role("system:discovery", rbacv1.PolicyRule{Verbs: get, NonResourceURLs: openPaths}),
		role("system:monitoring", rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{
			"/metrics", "/metrics/slis", "/livez", "/readyz", "/healthz", "/livez/*", "/readyz/*", "/healthz/*"}},
			rule(get, "", "nodes/metrics")),
		role("system:public-info-viewer", rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{
			"/livez", "/readyz", "/healthz", "/version", "/version/"}}),
	}
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule([]string{"create"}, "authorization.k8s.io", "localsubjectaccessreviews"),
		rule(slices.Concat(readVerbs, writeVerbs), rbacv1.GroupName, "roles", "rolebindings"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(readVerbs, "", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"),
		rule([]string{"impersonate"}, "", "serviceaccounts"),
		rule(writeVerbs, "", "pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"),
		rule([]string{"create"}, "", "pods/eviction"),
		rule(writeVerbs, "", "serviceaccounts", "services", "services/proxy", "configmaps", "secrets"),
		rule([]string{"create"}, "", "serviceaccounts/token"),
		{Verbs: writeVerbs, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}},
		rule(writeVerbs, "apps", "statefulsets", "statefulsets/scale", "daemonsets", "deployments", "deployments/scale",
			"deployments/rollback", "replicasets", "replicasets/scale"),
		rule(writeVerbs, "batch", "jobs", "cronjobs"),
		rule(writeVerbs, "policy", "poddisruptionbudgets"),
		rule(writeVerbs, "networking.k8s.io", "networkpolicies", "ingresses"),
		rule(slices.Concat(readVerbs, writeVerbs), "coordination.k8s.io", "leases"),
	}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(readVerbs, "", "pods", "serviceaccounts", "services", "services/status", "endpoints", "configmaps"),
		rule(readVerbs, "", "limitranges", "resourcequotas", "bindings", "pods/status", "resourcequotas/status",
			"namespaces/status", "pods/log"),
		rule(readVerbs, "", "namespaces"),
		{Verbs: readVerbs, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}},
		rule(readVerbs, "discovery.k8s.io", "endpointslices"),
		rule(readVerbs, "apps", "controllerrevisions", "statefulsets", "statefulsets/status", "statefulsets/scale", "daemonsets",
			"daemonsets/status", "deployments", "deployments/status", "deployments/scale", "replicasets", "replicasets/status",
			"replicasets/scale"),
		rule(readVerbs, "batch", "jobs", "cronjobs", "cronjobs/status", "jobs/status"),
		rule(readVerbs, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
		rule(readVerbs, "networking.k8s.io", "networkpolicies", "ingresses", "ingresses/status"),
	}
}
