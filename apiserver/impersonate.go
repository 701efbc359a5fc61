package apiserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const serviceAccountPrefix = "system:serviceaccount:"

// impersonate lets those who may act as somebody else do so, as kubectl's --as asks; everybody else is refused. Each thing that
// is claimed (user, groups, uid, extra) needs the verb impersonate on it.
func (s *Server) impersonate(r *http.Request, who caller) (caller, error) {
	as := caller{
		Name: r.Header.Get(authenticationv1.ImpersonateUserHeader), UID: r.Header.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(r.Header.Values(authenticationv1.ImpersonateGroupHeader)), Extra: impersonatedExtra(r.Header),
	}
	if as.Name == "" && as.UID == "" && len(as.Groups) == 0 && len(as.Extra) == 0 {
		return who, nil
	}
	if as.Name == "" {
		return who, apierrors.NewBadRequest("requested groups, uid or extra without impersonating a user")
	}
	for _, a := range impersonations(as) {
		if !s.allowed(who, a) {
			return who, errForbidden(who, a)
		}
	}
	if ns, name, ok := serviceAccountOf(as.Name); ok && len(as.Groups) == 0 {
		as.Groups = serviceAccountCaller(ns, name).Groups
	}
	switch {
	case as.Name == "system:anonymous":
		as.Groups = append(as.Groups, groupUnauthenticated)
	case !slices.Contains(as.Groups, groupAuthenticated):
		as.Groups = append(as.Groups, groupAuthenticated)
	}
	return as, nil
}

// impersonations are what a caller must be allowed to do to act as somebody.
func impersonations(as caller) []action {
	const group = "authentication.k8s.io"
	all := []action{{verb: "impersonate", resource: "users", name: as.Name}}
	if ns, name, ok := serviceAccountOf(as.Name); ok {
		all[0] = action{verb: "impersonate", resource: "serviceaccounts", namespace: ns, name: name}
	}
	for _, g := range as.Groups {
		all = append(all, action{verb: "impersonate", resource: "groups", name: g})
	}
	if as.UID != "" {
		all = append(all, action{verb: "impersonate", group: group, resource: "uids", name: as.UID})
	}
	for key, values := range as.Extra {
		for _, v := range values {
			all = append(all, action{verb: "impersonate", group: group, resource: "userextras/" + key, name: v})
		}
	}
	return all
}

// impersonatedExtra collects the headers Impersonate-Extra-KEY.
func impersonatedExtra(header http.Header) map[string][]string {
	extra := map[string][]string{}
	for name, values := range header {
		if key, ok := strings.CutPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix); ok {
			key = strings.ToLower(key)
			if plain, err := url.PathUnescape(key); err == nil {
				key = plain
			}
			extra[key] = append(extra[key], values...)
		}
	}
	return extra
}

// serviceAccountOf takes "system:serviceaccount:NAMESPACE:NAME" apart.
func serviceAccountOf(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

// serviceAccountCaller is who a ServiceAccount is to the API.
func serviceAccountCaller(namespace, name string) caller {
	return caller{Name: serviceAccountPrefix + namespace + ":" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, groupAuthenticated}}
}
