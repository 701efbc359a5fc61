package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// action is what a caller wants to do: to a resource, or to a path that is none.
type action struct {
	verb, group, resource, namespace, name string // resource is "pods" or "pods/log"
	path                                   string // of what is no resource
}

// everybody may ask these of themselves.
var openReviews = []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}

// openPaths may be seen by whoever is let in at all: clients learn there what is served.
var openPaths = []string{"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/healthz", "/livez", "/readyz"}

// allowed evaluates roles and bindings. The group of administrators may do everything.
func (s *Server) allowed(who caller, a action) bool {
	if slices.Contains(who.Groups, adminGroup) {
		return true
	}
	if a.path != "" && a.verb == "get" && matchesPath(openPaths, a.path) {
		return true
	}
	if a.verb == "create" && slices.Contains(openReviews, a.resource) {
		return true
	}
	return slices.ContainsFunc(s.rulesOf(who, a.namespace), func(r rbacv1.PolicyRule) bool { return grants(r, a) })
}

// rulesOf are all rules that hold for a caller, cluster-wide and in a namespace.
func (s *Server) rulesOf(who caller, namespace string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for _, obj := range s.everything(api.ClusterRoleBindings, "") {
		b := obj.(*rbacv1.ClusterRoleBinding)
		if who.isAmong(b.Subjects, "") {
			rules = append(rules, s.roleRules(b.RoleRef, "")...)
		}
	}
	if namespace == "" {
		return rules
	}
	for _, obj := range s.everything(api.RoleBindings, namespace) {
		b := obj.(*rbacv1.RoleBinding)
		if who.isAmong(b.Subjects, namespace) {
			rules = append(rules, s.roleRules(b.RoleRef, namespace)...)
		}
	}
	return rules
}

func (s *Server) everything(kind *api.Kind, namespace string) []api.Object {
	list, _ := s.store.List(context.Background(), kind, store.Query{Namespace: namespace}) // a store's List never fails
	return list.Items
}

// roleRules are the rules of a role; those of Kubernetes' standing roles hold even where nobody wrote them down.
func (s *Server) roleRules(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if ref.Kind == "Role" {
		if obj, err := s.store.Get(api.Roles, namespace, ref.Name); err == nil {
			return obj.(*rbacv1.Role).Rules
		}
		return nil
	}
	if obj, err := s.store.Get(api.ClusterRoles, "", ref.Name); err == nil {
		return obj.(*rbacv1.ClusterRole).Rules
	}
	for _, role := range standingRoles() {
		if role.Name == ref.Name {
			return role.Rules
		}
	}
	return nil
}

// isAmong tells whether a binding, in a namespace or cluster-wide, names the caller.
func (who caller) isAmong(subjects []rbacv1.Subject, namespace string) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		switch s.Kind {
		case rbacv1.UserKind:
			return s.Name == who.Name
		case rbacv1.GroupKind:
			return slices.Contains(who.Groups, s.Name)
		case rbacv1.ServiceAccountKind:
			if s.Namespace == "" {
				s.Namespace = namespace
			}
			return s.Namespace != "" && who.Name == "system:serviceaccount:"+s.Namespace+":"+s.Name
		}
		return false
	})
}

// grants tells whether one rule covers an action.
func grants(r rbacv1.PolicyRule, a action) bool {
	has := func(list []string, value string) bool {
		return slices.Contains(list, "*") || slices.Contains(list, value)
	}
	if !has(r.Verbs, a.verb) {
		return false
	}
	if a.path != "" {
		return matchesPath(r.NonResourceURLs, a.path)
	}
	if !has(r.APIGroups, a.group) {
		return false
	}
	_, sub, nested := strings.Cut(a.resource, "/")
	if !has(r.Resources, a.resource) && !(nested && slices.Contains(r.Resources, "*/"+sub)) {
		return false
	}
	return len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.name)
}

// matchesPath tells whether one of the patterns, which may end in "*", covers path.
func matchesPath(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return p == path || open && strings.HasPrefix(path, prefix)
	})
}

// authorize refuses a call that its caller may not make.
func (s *Server) authorize(c *call) error { return s.authorizeAs(c, c.verb()) }

// authorizeAs refuses a call that its caller may not make as this verb. A PUT or an apply may turn out to create.
func (s *Server) authorizeAs(c *call, verb string) error {
	a := action{verb: verb, group: c.form.Group, resource: c.kind.Plural, namespace: c.namespace, name: c.name}
	if c.kind == api.Namespaces {
		a.namespace = c.name // who may read a namespace's contents by a role may read the namespace by the same
	}
	if c.sub != "" {
		a.resource += "/" + c.sub
	}
	if !s.allowed(c.who, a) {
		return errForbidden(c.who, a)
	}
	return nil
}

// verb is what roles call the call's method.
func (c *call) verb() string {
	switch c.sub {
	case "exec", "attach", "portforward":
		return "create"
	}
	one := c.name != ""
	switch c.r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if one {
			return "delete"
		}
		return "deletecollection"
	}
	switch {
	case one:
		return "get"
	case isTrue(c.query.Get("watch")):
		return "watch"
	}
	return "list"
}

// errForbidden is Kubernetes' refusal, in its words.
func errForbidden(who caller, a action) error {
	if a.path != "" {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("User %q cannot %s path %q", who.Name, a.verb, a.path))
	}
	where := fmt.Sprintf("in the namespace %q", a.namespace)
	if a.namespace == "" {
		where = "at the cluster scope"
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.group, Resource: a.resource}, a.name, fmt.Errorf(
		"User %q cannot %s resource %q in API group %q %s", who.Name, a.verb, a.resource, a.group, where))
}
