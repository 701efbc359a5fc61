package apiserver

import (
	"crypto/subtle"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// caller is who makes a request.
type caller struct {
	Name   string
	Groups []string
}

// authenticate tells who is calling: the owner of a client certificate of the authority (common name is the user,
// organizations are groups), or whoever holds the bearer token. Everybody else is refused with 401.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		leaf := r.TLS.VerifiedChains[0][0]
		return caller{Name: leaf.Subject.CommonName, Groups: append(leaf.Subject.Organization, "system:authenticated")}, nil
	}
	if token, ok := bearer(r); ok && subtle.ConstantTimeCompare([]byte(token), []byte(s.cfg.Authority.Token)) == 1 {
		return caller{Name: adminName, Groups: []string{adminGroup, "system:authenticated"}}, nil
	}
	return caller{}, apierrors.NewUnauthorized("Unauthorized")
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}
