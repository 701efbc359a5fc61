package apiserver

import (
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// reviews are the questions that are answered and not kept.
var reviews = []schema.GroupVersionKind{
	authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"),
	authenticationv1.SchemeGroupVersion.WithKind("TokenReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"),
}

// serveReview answers POST on a review; answered is false when the path is none.
func (s *Server) serveReview(c *call, gv schema.GroupVersion, rest []string) (answered bool, err error) {
	if len(rest) != 1 || c.r.Method != http.MethodPost {
		return false, nil
	}
	i := slices.IndexFunc(reviews, func(k schema.GroupVersionKind) bool {
		return k.GroupVersion() == gv && strings.ToLower(k.Kind)+"s" == rest[0]
	})
	if i < 0 {
		return false, nil
	}
	if a := (action{verb: "create", group: gv.Group, resource: rest[0]}); !s.allowed(c.who, a) {
		return true, errForbidden(c.who, a)
	}
	if c.accept, err = parseAccept(c.r.Header.Get("Accept"), s.wire); err != nil {
		return true, err
	}
	c.accept.as = ""
	obj, err := s.wire.scheme.New(reviews[i])
	if err != nil {
		return true, err
	}
	if err := s.decodeBody(c, obj, reviews[i]); err != nil {
		return true, err
	}
	s.review(c.who, obj)
	obj.GetObjectKind().SetGroupVersionKind(reviews[i])
	s.wire.write(c.w, http.StatusCreated, c.accept, obj)
	return true, nil
}

// review fills a question's answer in.
func (s *Server) review(who caller, obj runtime.Object) {
	switch o := obj.(type) {
	case *authenticationv1.SelfSubjectReview:
		o.Status.UserInfo = authenticationv1.UserInfo{Username: who.Name, Groups: who.Groups}
	case *authenticationv1.TokenReview:
		o.Status.Authenticated = subtle.ConstantTimeCompare([]byte(o.Spec.Token), []byte(s.cfg.Authority.Token)) == 1
		if o.Status.Authenticated {
			o.Status.User = authenticationv1.UserInfo{Username: adminName, Groups: []string{adminGroup, "system:authenticated"}}
		}
		o.Spec.Token = "" // nobody needs to read it again
	case *authorizationv1.SelfSubjectAccessReview:
		o.Status.Allowed = s.allowed(who, reviewed(o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes))
	case *authorizationv1.SubjectAccessReview:
		subject := caller{Name: o.Spec.User, Groups: o.Spec.Groups}
		o.Status.Allowed = s.allowed(subject, reviewed(o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes))
	case *authorizationv1.SelfSubjectRulesReview:
		o.Status.ResourceRules, o.Status.NonResourceRules = rulesStatus(s.rulesOf(who, o.Spec.Namespace))
		if slices.Contains(who.Groups, adminGroup) {
			all := []string{"*"}
			o.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}
			o.Status.NonResourceRules = []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}}
		}
	}
}

// reviewed is the action that a review asks about.
func reviewed(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) action {
	if n != nil {
		return action{verb: n.Verb, path: n.Path}
	}
	if r == nil {
		return action{}
	}
	a := action{verb: r.Verb, group: r.Group, resource: r.Resource, namespace: r.Namespace, name: r.Name}
	if r.Subresource != "" {
		a.resource += "/" + r.Subresource
	}
	return a
}

func rulesStatus(rules []rbacv1.PolicyRule) ([]authorizationv1.ResourceRule, []authorizationv1.NonResourceRule) {
	own := []string{"create"}
	resources := []authorizationv1.ResourceRule{
		{Verbs: own, APIGroups: []string{authorizationv1.GroupName, authenticationv1.GroupName}, Resources: openReviews},
	}
	paths := []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: openPaths}}
	for _, r := range rules {
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, authorizationv1.NonResourceRule{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
			continue
		}
		resources = append(resources, authorizationv1.ResourceRule{
			Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
	}
	return resources, paths
}
