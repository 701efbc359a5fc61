package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
)

const (
	// tokenIssuer signs the tokens and is the audience of those that name none; as in Kubernetes.
	tokenIssuer = "https://kubernetes.default.svc.cluster.local"
	// defaultTokenLife and leastTokenLife bound a token's life; Kubernetes' figures.
	defaultTokenLife = time.Hour
	leastTokenLife   = 10 * time.Minute
	// mostTokenLife is 2^32 seconds, as in Kubernetes.
	mostTokenLife = 1 << 32 * time.Second
	// tokenSlack forgives clocks that differ.
	tokenSlack = time.Minute
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// TokenRequest asks for a ServiceAccount's token that dies with Pod.
type TokenRequest struct {
	Pod      *corev1.Pod   // a stored pod
	Audience string        // "" for the API server itself
	Lifetime time.Duration // 0 for an hour
}

// Token issues what a pod's projected volume holds: a token of the pod's ServiceAccount, bound to the pod.
func (s *Server) Token(_ context.Context, r TokenRequest) (string, error) {
	req := &authenticationv1.TokenRequest{}
	req.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: r.Pod.Name, UID: r.Pod.UID}
	if r.Audience != "" {
		req.Spec.Audiences = []string{r.Audience}
	}
	if r.Lifetime > 0 {
		seconds := int64(r.Lifetime / time.Second)
		req.Spec.ExpirationSeconds = &seconds
	}
	if err := s.issueToken(types.NamespacedName{Namespace: r.Pod.Namespace, Name: r.Pod.Spec.ServiceAccountName}, req); err != nil {
		return "", err
	}
	return req.Status.Token, nil
}

// serveToken answers POST on a ServiceAccount's token.
func (s *Server) serveToken(c *call) error {
	if c.r.Method != http.MethodPost {
		return errNoMethod(c)
	}
	req := &authenticationv1.TokenRequest{}
	if err := s.decodeBody(c, req, tokenRequestKind); err != nil {
		return err
	}
	at := field.NewPath("metadata")
	if req.Name != "" && req.Name != c.name {
		return errTokenRequest(field.Invalid(at.Child("name"), req.Name, "must match the service account name if specified"))
	}
	if req.Namespace != "" && req.Namespace != c.namespace {
		return errTokenRequest(field.Invalid(at.Child("namespace"), req.Namespace, "must match the service account namespace if specified"))
	}
	if err := s.issueToken(types.NamespacedName{Namespace: c.namespace, Name: c.name}, req); err != nil {
		return err
	}
	c.accept.as = ""
	req.SetGroupVersionKind(tokenRequestKind)
	s.wire.write(c.w, http.StatusCreated, c.accept, req)
	return nil
}

func errTokenRequest(errs ...*field.Error) error {
	return apierrors.NewInvalid(tokenRequestKind.GroupKind(), "", errs)
}

// issueToken fills in what was left out of a request for a ServiceAccount's token, and its answer.
func (s *Server) issueToken(account types.NamespacedName, req *authenticationv1.TokenRequest) error {
	found, err := s.store.Get(api.ServiceAccounts, account.Namespace, account.Name)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = []string{tokenIssuer}
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenLife / time.Second)
		req.Spec.ExpirationSeconds = &seconds
	}
	req.Name, req.Namespace, req.CreationTimestamp = account.Name, account.Namespace, metav1.NewTime(now)
	seconds, at := *req.Spec.ExpirationSeconds, field.NewPath("spec", "expirationSeconds")
	switch {
	case seconds < int64(leastTokenLife/time.Second):
		return errTokenRequest(field.Invalid(at, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > int64(mostTokenLife/time.Second):
		return errTokenRequest(field.Invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	said := claims{
		Audience: req.Spec.Audiences, IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: now.Unix() + seconds,
		Issuer: tokenIssuer, ID: string(uuid.NewUUID()), Subject: serviceAccountPrefix + account.Namespace + ":" + account.Name,
		Kubernetes: boundClaims{Namespace: account.Namespace, ServiceAccount: claimRef{account.Name, string(found.GetUID())}},
	}
	if req.Spec.BoundObjectRef != nil {
		if err := s.bindToken(&said.Kubernetes, req.Spec.BoundObjectRef); err != nil {
			return err
		}
	}
	token, err := s.cfg.Authority.signToken(said)
	if err != nil {
		return err
	}
	req.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(time.Unix(said.Expiry, 0))}
	return nil
}

// bindToken ties a token to the life of a pod, a Secret or a node.
func (s *Server) bindToken(said *boundClaims, ref *authenticationv1.BoundObjectReference) error {
	var uid types.UID
	switch {
	case ref.APIVersion == "v1" && ref.Kind == "Pod":
		found, err := s.store.Get(api.Pods, said.Namespace, ref.Name)
		if err != nil {
			return err
		}
		pod := found.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != said.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf(
				"cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", said.ServiceAccount.Name))
		}
		uid, said.Pod = pod.UID, &claimRef{pod.Name, string(pod.UID)}
		if node := pod.Spec.NodeName; node != "" {
			said.Node = &claimRef{Name: node}
			if found, err := s.store.Get(api.Nodes, "", node); err == nil {
				said.Node.UID = string(found.GetUID())
			}
		}
	case ref.APIVersion == "v1" && (ref.Kind == "Secret" || ref.Kind == "Node"):
		kind, namespace, to := api.Secrets, said.Namespace, &said.Secret
		if ref.Kind == "Node" {
			kind, namespace, to = api.Nodes, "", &said.Node
		}
		found, err := s.store.Get(kind, namespace, ref.Name)
		if err != nil {
			return err
		}
		uid, *to = found.GetUID(), &claimRef{ref.Name, string(found.GetUID())}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s, Kind=%s", ref.APIVersion, ref.Kind))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(corev1.Resource(ref.Kind), ref.Name, fmt.Errorf(
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// verifyToken tells whose a token is. Besides its signature and its times, the ServiceAccount and what the token is bound to
// must still be the ones it was issued for.
func (s *Server) verifyToken(token string, wanted []string) (caller, error) {
	said, err := s.cfg.Authority.readToken(token)
	if err != nil {
		return caller{}, err
	}
	now := s.cfg.Now()
	if len(wanted) == 0 {
		wanted = []string{tokenIssuer}
	}
	k := said.Kubernetes
	switch {
	case said.Issuer != tokenIssuer:
		return caller{}, errToken
	case said.Expiry != 0 && now.After(time.Unix(said.Expiry, 0).Add(tokenSlack)):
		return caller{}, errors.New("service account token has expired")
	case now.Before(time.Unix(said.NotBefore, 0).Add(-tokenSlack)):
		return caller{}, errors.New("service account token is not valid yet")
	case !slices.ContainsFunc(said.Audience, func(a string) bool { return slices.Contains(wanted, a) }):
		return caller{}, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(said.Audience), wanted)
	case said.Subject != serviceAccountPrefix+k.Namespace+":"+k.ServiceAccount.Name:
		return caller{}, errToken
	}
	for _, b := range []struct {
		kind *api.Kind
		ref  *claimRef
	}{{api.ServiceAccounts, &k.ServiceAccount}, {api.Pods, k.Pod}, {api.Secrets, k.Secret}} {
		if b.ref == nil {
			continue
		}
		if obj, err := s.store.Get(b.kind, k.Namespace, b.ref.Name); err != nil || string(obj.GetUID()) != b.ref.UID {
			return caller{}, fmt.Errorf("the token's %s %s is gone", b.kind.Singular, b.ref.Name)
		}
	}
	who := serviceAccountCaller(k.Namespace, k.ServiceAccount.Name)
	who.UID, who.Extra = k.ServiceAccount.UID, tokenExtra(said)
	return who, nil
}

// tokenExtra is what else a token says of its holder.
func tokenExtra(said claims) map[string][]string {
	const prefix = "authentication.kubernetes.io/"
	extra := map[string][]string{prefix + "credential-id": {"JTI=" + said.ID}}
	for what, ref := range map[string]*claimRef{"pod": said.Kubernetes.Pod, "node": said.Kubernetes.Node} {
		if ref != nil {
			extra[prefix+what+"-name"] = []string{ref.Name}
			if ref.UID != "" {
				extra[prefix+what+"-uid"] = []string{ref.UID}
			}
		}
	}
	return extra
}

// serveIssuer answers the two documents by which others check tokens.
func (s *Server) serveIssuer(w http.ResponseWriter, path string) bool {
	switch path {
	case "/.well-known/openid-configuration":
		writeJSON(w, mediaJSON, map[string]any{
			"issuer": tokenIssuer, "jwks_uri": tokenIssuer + "/openid/v1/jwks", "response_types_supported": []string{"id_token"},
			"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	case "/openid/v1/jwks":
		writeJSON(w, "application/jwk-set+json", s.cfg.Authority.keySet())
	default:
		return false
	}
	return true
}
