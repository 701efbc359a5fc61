package apiserver_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kubarium.dev/apiserver"
)

// account makes a ServiceAccount that may read pods in dev.
func (c *cluster) account(t *testing.T, name string) {
	t.Helper()
	client := c.client(t)
	if _, err := client.CoreV1().ServiceAccounts("dev").Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RbacV1().RoleBindings("dev").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: "dev"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// bearing is a client with nothing but a token.
func (c *cluster) bearing(t *testing.T, token string) *kubernetes.Clientset {
	t.Helper()
	config := *c.config
	config.CertData, config.KeyData, config.BearerToken = nil, nil, token
	client, err := kubernetes.NewForConfig(&config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (c *cluster) token(t *testing.T, account string, spec authenticationv1.TokenRequestSpec) *authenticationv1.TokenRequest {
	t.Helper()
	got, err := c.client(t).CoreV1().ServiceAccounts("dev").CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// a ServiceAccount's token opens what the account may do, and nothing else; kubectl create token makes one.
func TestAServiceAccountsTokenLetsItIn(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.account(t, "robot")
	token := strings.TrimSpace(c.must(t, "create", "token", "robot", "-n", "dev"))
	robot := c.bearing(t, token)
	if _, err := robot.CoreV1().Pods("dev").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("what its role allows: %v", err)
	}
	if _, err := robot.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another namespace: %v, want 403", err)
	}
	if _, err := robot.CoreV1().Secrets("dev").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets: %v, want 403", err)
	}
	me, err := robot.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if u := me.Status.UserInfo; u.Username != "system:serviceaccount:dev:robot" || u.UID == "" ||
		strings.Join(u.Groups, " ") != "system:serviceaccounts system:serviceaccounts:dev system:authenticated" {
		t.Errorf("it is %+v", u)
	}
	review, err := c.client(t).AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:dev:robot" {
		t.Errorf("a TokenReview says %+v (%v)", review.Status, err)
	}
}

// a token that is expired, forged, for somebody else, or bound to what is gone opens nothing.
func TestABadTokenOpensNothing(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	c := start(t, func(conf *apiserver.Config) {
		conf.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	c.account(t, "robot")
	c.account(t, "doomed")
	p := pod("a")
	p.Spec.ServiceAccountName = "robot"
	if _, err := c.client(t).CoreV1().Pods("dev").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	good := c.token(t, "robot", authenticationv1.TokenRequestSpec{}).Status.Token
	bound := c.token(t, "robot", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: "a"}}).Status.Token
	doomed := c.token(t, "doomed", authenticationv1.TokenRequestSpec{}).Status.Token
	foreign := c.token(t, "robot", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Status.Token
	code := func(token string) int {
		t.Helper()
		res, _ := c.ask(t, "GET", "/api/v1/namespaces/dev/pods", "", "Authorization", "Bearer "+token)
		return res.StatusCode
	}
	for _, token := range []string{good, bound, doomed} {
		if got := code(token); got != http.StatusOK {
			t.Fatalf("a good token got %d", got)
		}
	}
	parts := strings.Split(good, ".")
	other := strings.Split(doomed, ".")
	if err := c.client(t).CoreV1().Pods("dev").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.client(t).CoreV1().ServiceAccounts("dev").Delete(t.Context(), "doomed", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{
		"somebody else's claims":  parts[0] + "." + other[1] + "." + parts[2],
		"no signature":            parts[0] + "." + parts[1] + ".",
		"algorithm none":          "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"a torn signature":        parts[0] + "." + parts[1] + "." + parts[2][:40],
		"another audience":        foreign,
		"a pod that is gone":      bound,
		"an account that is gone": doomed,
		"dots alone":              "..",
	} {
		if got := code(token); got != http.StatusUnauthorized {
			t.Errorf("%s got %d, want 401", what, got)
		}
	}
	ahead.Store(int64(2 * time.Hour))
	if got := code(good); got != http.StatusUnauthorized {
		t.Errorf("an expired token got %d, want 401", got)
	}
}

// what is wrong with a request for a token is told in Kubernetes' words.
func TestTokenRequestsAreChecked(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.account(t, "robot")
	const path = "/api/v1/namespaces/dev/serviceaccounts/"
	for _, test := range []struct {
		account, body string
		code          int
		want          string
	}{
		{"robot", `{"spec": {"expirationSeconds": 599}}`, 422, "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"},
		{"robot", `{"spec": {"expirationSeconds": 4294967297}}`, 422, "may not specify a duration larger than 2^32 seconds"},
		{"robot", `{"metadata": {"name": "x"}}`, 422, "must match the service account name if specified"},
		{"robot", `{"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "x"}}}`, 404, `pods \"x\" not found`},
		{"robot", `{"spec": {"boundObjectRef": {"kind": "Job", "apiVersion": "batch/v1", "name": "x"}}}`, 400, "cannot bind token to object of type"},
		{"nobody", `{}`, 404, `serviceaccounts \"nobody\" not found`},
	} {
		res, body := c.ask(t, "POST", path+test.account+"/token", test.body)
		if res.StatusCode != test.code {
			t.Errorf("%s: got %d, want %d", test.body, res.StatusCode, test.code)
		}
		contains(t, body, test.want)
	}
}

// a LocalSubjectAccessReview answers for its namespace, and refuses to be asked about another.
func TestReviewsAreAnsweredAndChecked(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.account(t, "robot")
	ask := func(namespace string) (*authorizationv1.LocalSubjectAccessReview, error) {
		return c.client(t).AuthorizationV1().LocalSubjectAccessReviews("dev").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:serviceaccount:dev:robot",
				ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "list", Resource: "pods"}},
		}, metav1.CreateOptions{})
	}
	if got, err := ask("dev"); err != nil || !got.Status.Allowed {
		t.Errorf("its own namespace: %+v (%v)", got, err)
	}
	if _, err := ask("default"); !apierrors.IsBadRequest(err) {
		t.Errorf("another namespace: %v, want 400", err)
	}
	const base = "/apis/authorization.k8s.io/v1/"
	for _, test := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"POST", base + "subjectaccessreviews", `{}`, 422, "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"POST", base + "subjectaccessreviews", `{"spec": {"nonResourceAttributes": {"path": "/"}}}`, 422, "at least one of user or group must be specified"},
		{"POST", base + "selfsubjectaccessreviews", `{"spec": {"nonResourceAttributes": {}, "resourceAttributes": {}}}`, 422,
			"cannot be specified in combination with resourceAttributes"},
		{"GET", base + "subjectaccessreviews", ``, 405, "MethodNotAllowed"},
		{"POST", base + "localsubjectaccessreviews", `{}`, 404, "NotFound"},
	} {
		res, body := c.ask(t, test.method, test.path, test.body)
		if res.StatusCode != test.code {
			t.Errorf("%s %s %s: got %d, want %d", test.method, test.path, test.body, res.StatusCode, test.code)
		}
		contains(t, body, test.want)
	}
	rules, err := c.as(t, "jane").AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "dev"}}, metav1.CreateOptions{})
	if err != nil || len(rules.Status.ResourceRules) != 1 || len(rules.Status.NonResourceRules) != 1 {
		t.Errorf("the rules of somebody without a role: %+v (%v)", rules, err)
	}
}
