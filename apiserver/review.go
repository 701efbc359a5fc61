package apiserver

import (
	"net/http"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// reviews are the questions that are answered and not kept.
var reviews = []schema.GroupVersionKind{
	authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"),
	authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"),
}

// serveReview answers POST on a review; answered is false when the path is none. Whoever is let in at all may do everything.
func (s *Server) serveReview(c *call, gv schema.GroupVersion, rest []string) (answered bool, err error) {
	if gv != authorizationv1.SchemeGroupVersion || len(rest) != 1 || c.r.Method != http.MethodPost {
		return false, nil
	}
	if c.accept, err = parseAccept(c.r.Header.Get("Accept"), s.wire); err != nil {
		return true, err
	}
	c.accept.as = ""
	for _, kind := range reviews {
		if rest[0] != strings.ToLower(kind.Kind)+"s" {
			continue
		}
		obj, err := s.wire.scheme.New(kind)
		if err != nil {
			return true, err
		}
		if err := s.decodeBody(c, obj, kind); err != nil {
			return true, err
		}
		switch o := obj.(type) {
		case *authorizationv1.SelfSubjectAccessReview:
			o.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true}
		case *authorizationv1.SelfSubjectRulesReview:
			all := []string{"*"}
			o.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}
			o.Status.NonResourceRules = []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}}
		}
		obj.GetObjectKind().SetGroupVersionKind(kind)
		s.wire.write(c.w, http.StatusCreated, c.accept, obj)
		return true, nil
	}
	return false, nil
}
