package apiserver

import (
	"crypto/subtle"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// caller is who makes a request.
type caller struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// info is the caller in Kubernetes' words.
func (who caller) info() authenticationv1.UserInfo {
	u := authenticationv1.UserInfo{Username: who.Name, UID: who.UID, Groups: who.Groups}
	for key, values := range who.Extra {
		if u.Extra == nil {
			u.Extra = map[string]authenticationv1.ExtraValue{}
		}
		u.Extra[key] = values
	}
	return u
}

// authenticate tells who is calling: the owner of a client certificate of the authority (common name is the user,
// organizations are groups), or whoever holds the bearer token or a ServiceAccount's. Everybody else is refused with 401.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		leaf := r.TLS.VerifiedChains[0][0]
		if leaf.Subject.CommonName != "" {
			return caller{Name: leaf.Subject.CommonName, Groups: append(leaf.Subject.Organization, groupAuthenticated)}, nil
		}
	}
	if token, ok := bearer(r); ok {
		if who, err := s.tokenOwner(token, nil); err == nil {
			return who, nil
		}
	}
	return caller{}, apierrors.NewUnauthorized("Unauthorized")
}

// tokenOwner tells whose a bearer token is: the administrator's, or a ServiceAccount's that is meant for one of the audiences
// (for the API server itself when there are none).
func (s *Server) tokenOwner(token string, audiences []string) (caller, error) {
	if subtle.ConstantTimeCompare([]byte(token), []byte(s.cfg.Authority.Token)) == 1 {
		return caller{Name: adminName, Groups: []string{adminGroup, groupAuthenticated}}, nil
	}
	return s.verifyToken(token, audiences)
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}
