package apiserver

import (
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
)

// reviews are the questions that are answered and not kept.
var reviews = []schema.GroupVersionKind{
	authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"),
	authenticationv1.SchemeGroupVersion.WithKind("TokenReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"),
	localReview,
}

// localReview is the one review that is asked within a namespace.
var localReview = authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview")

// serveReview answers POST on a review; answered is false when the path is none.
func (s *Server) serveReview(c *call, gv schema.GroupVersion, rest []string) (answered bool, err error) {
	namespace := ""
	if len(rest) == 3 && rest[0] == "namespaces" {
		namespace, rest = rest[1], rest[2:]
	}
	if len(rest) != 1 {
		return false, nil
	}
	i := slices.IndexFunc(reviews, func(k schema.GroupVersionKind) bool {
		return k.GroupVersion() == gv && strings.ToLower(k.Kind)+"s" == rest[0] && (k == localReview) == (namespace != "")
	})
	if i < 0 {
		return false, nil
	}
	c.kind = &api.Kind{Group: gv.Group, Version: gv.Version, Kind: reviews[i].Kind, Plural: rest[0]}
	if c.r.Method != http.MethodPost {
		return true, errNoMethod(c)
	}
	a := action{verb: "create", group: gv.Group, resource: rest[0], namespace: namespace}
	if !s.allowed(c.who, a) {
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
	if err := checkReview(obj, namespace); err != nil {
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
		o.Status.UserInfo = who.info()
	case *authenticationv1.TokenReview:
		if owner, err := s.tokenOwner(o.Spec.Token, o.Spec.Audiences); err != nil {
			o.Status.Error = err.Error()
		} else {
			o.Status.Authenticated, o.Status.User, o.Status.Audiences = true, owner.info(), o.Spec.Audiences
			if len(o.Spec.Audiences) == 0 {
				o.Status.Audiences = []string{tokenIssuer}
			}
		}
	case *authorizationv1.SelfSubjectAccessReview:
		o.Status.Allowed = s.allowed(who, reviewed(o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes))
	case *authorizationv1.SubjectAccessReview:
		o.Status = s.subjectAccess(o.Spec)
	case *authorizationv1.LocalSubjectAccessReview:
		o.Status = s.subjectAccess(o.Spec)
	case *authorizationv1.SelfSubjectRulesReview:
		o.Status.ResourceRules, o.Status.NonResourceRules = rulesStatus(s.rulesOf(who, o.Spec.Namespace))
		if slices.Contains(who.Groups, adminGroup) {
			all := []string{"*"}
			o.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}
			o.Status.NonResourceRules = []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}}
		}
	}
}

func (s *Server) subjectAccess(spec authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
	subject := caller{Name: spec.User, Groups: spec.Groups}
	return authorizationv1.SubjectAccessReviewStatus{Allowed: s.allowed(subject, reviewed(spec.ResourceAttributes, spec.NonResourceAttributes))}
}

// checkReview refuses a question that cannot be answered; Kubernetes' words.
func checkReview(obj runtime.Object, namespace string) error {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	subject := func(o *authorizationv1.SubjectAccessReviewSpec) {
		errs = attributes(spec, o.ResourceAttributes, o.NonResourceAttributes)
		if o.User == "" && len(o.Groups) == 0 {
			errs = append(errs, field.Invalid(spec.Child("user"), o.User, "at least one of user or group must be specified"))
		}
	}
	var name string
	kind := obj.GetObjectKind().GroupVersionKind().GroupKind()
	switch o := obj.(type) {
	case *authenticationv1.TokenReview:
		if o.Spec.Token == "" {
			return apierrors.NewBadRequest("token is required for TokenReview in authentication")
		}
	case *authorizationv1.SelfSubjectRulesReview:
		if o.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on request")
		}
	case *authorizationv1.SelfSubjectAccessReview:
		errs, kind = attributes(spec, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes), authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind()
	case *authorizationv1.SubjectAccessReview:
		subject(&o.Spec)
		kind = authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind()
	case *authorizationv1.LocalSubjectAccessReview:
		subject(&o.Spec)
		kind = localReview.GroupKind()
		if r := o.Spec.ResourceAttributes; r != nil && r.Namespace != namespace {
			return apierrors.NewBadRequest("spec.resourceAttributes.namespace must match namespace: " + namespace)
		}
		if o.Spec.NonResourceAttributes != nil {
			errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), o.Spec.NonResourceAttributes, "disallowed on this kind of request"))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(kind, name, errs)
}

// attributes refuses a question about nothing, or about two things at once.
func attributes(spec *field.Path, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) field.ErrorList {
	if r != nil && n != nil {
		return field.ErrorList{field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes")}
	}
	if r == nil && n == nil {
		return field.ErrorList{field.Invalid(spec.Child("resourceAttributes"), r, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	return nil
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
