package apiserver

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbac "k8s.io/component-helpers/auth/rbac/validation"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// admitGrant keeps callers from giving anybody more than they have themselves: who writes a role needs all that it grants, or
// the verb escalate on roles; who writes a binding needs all that the role grants, or the verb bind on the role. old is the
// object's present state, nil for a new one.
func (s *Server) admitGrant(c *call, obj, old api.Object) error {
	if c.kind.Group != rbacv1.GroupName || old != nil && onlyGarbageFields(obj, old) {
		return nil
	}
	a := action{group: rbacv1.GroupName, namespace: c.namespace, verb: "escalate", resource: c.kind.Plural, name: obj.GetName()}
	var rules []rbacv1.PolicyRule
	var ref rbacv1.RoleRef
	switch o := obj.(type) {
	case *rbacv1.Role:
		rules = o.Rules
	case *rbacv1.ClusterRole:
		rules = o.Rules
		if o.AggregationRule != nil && !s.allowed(c.who, action{verb: "*", group: "*", resource: "*"}) {
			return apierrors.NewForbidden(c.kind.GroupResource(), obj.GetName(), fmt.Errorf("must have cluster-admin privileges to use the aggregationRule"))
		}
	case *rbacv1.RoleBinding:
		ref = o.RoleRef
	case *rbacv1.ClusterRoleBinding:
		ref = o.RoleRef
	}
	if ref.Name != "" {
		a.verb, a.resource, a.name = "bind", api.ClusterRoles.Plural, ref.Name
		if ref.Kind == "Role" {
			a.resource = api.Roles.Plural
		}
		rules = s.roleRules(ref, c.namespace)
	}
	if s.allowed(c.who, a) {
		return nil
	}
	if !s.roleExists(ref, c.namespace) {
		return apierrors.NewNotFound(rbacv1.Resource(a.resource), ref.Name)
	}
	covered, missing := rbac.Covers(s.rulesOf(c.who, c.namespace), rules)
	if covered {
		return nil
	}
	return apierrors.NewForbidden(c.kind.GroupResource(), obj.GetName(), fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", c.who.Name, c.who.Groups, describeRules(missing)))
}

// onlyGarbageFields tells that an update touches only what the garbage collector needs to change.
func onlyGarbageFields(obj, old api.Object) bool {
	was := api.Copy(old)
	was.SetOwnerReferences(obj.GetOwnerReferences())
	was.SetFinalizers(obj.GetFinalizers())
	was.SetManagedFields(obj.GetManagedFields())
	return equality.Semantic.DeepEqual(obj, was)
}

// roleExists tells whether there is the role that ref names; one that names none lacks nothing.
func (s *Server) roleExists(ref rbacv1.RoleRef, namespace string) bool {
	if ref.Name == "" {
		return true
	}
	kind := api.ClusterRoles
	if ref.Kind == "Role" {
		kind = api.Roles
	} else {
		namespace = ""
	}
	_, err := s.store.Get(kind, namespace, ref.Name)
	return err == nil || kind == api.ClusterRoles && s.roleRules(ref, "") != nil
}

// describeRules names rules as Kubernetes does, those of one group and resource as one, sorted.
func describeRules(rules []rbacv1.PolicyRule) string {
	verbs := map[string][]string{}
	for _, r := range rules {
		var parts []string
		for _, p := range []struct {
			name   string
			values []string
		}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs}, {"ResourceNames", r.ResourceNames}} {
			if len(p.values) > 0 {
				parts = append(parts, fmt.Sprintf("%s:%s", p.name, quoted(p.values)))
			}
		}
		key := strings.Join(parts, ", ")
		verbs[key] = append(verbs[key], r.Verbs...)
	}
	var lines []string
	for key, v := range verbs {
		lines = append(lines, fmt.Sprintf("{%s, Verbs:%s}", key, quoted(v)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func quoted(values []string) string {
	return strings.ReplaceAll(fmt.Sprintf("%q", values), `" "`, `", "`)
}

// aggregate brings the rules of the ClusterRoles that are made of others up to date, inside the transaction that changed one.
// It goes on until nothing changes: one that is made of others may be a part of a third.
func aggregate(tx *store.Tx) error {
	for changed := true; changed; {
		changed = false
		all := tx.List(api.ClusterRoles, store.Query{})
		for _, obj := range all {
			role := obj.(*rbacv1.ClusterRole)
			if role.AggregationRule == nil {
				continue
			}
			rules, err := aggregatedRules(role, all)
			if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
				continue
			}
			next := api.Copy(role)
			next.Rules = rules
			if err := tx.Update(next); err != nil {
				return err
			}
			changed = true
			break // the list is older than this write
		}
	}
	return nil
}

// aggregatedRules are the rules of all roles that role's selectors choose, each once.
func aggregatedRules(role *rbacv1.ClusterRole, all []api.Object) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, obj := range all {
			if obj.GetName() == role.Name || !selector.Matches(labels.Set(obj.GetLabels())) {
				continue
			}
			for _, r := range obj.(*rbacv1.ClusterRole).Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, r) }) {
					rules = append(rules, r)
				}
			}
		}
	}
	return rules, nil
}
