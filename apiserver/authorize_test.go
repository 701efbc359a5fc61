package apiserver_test

import (
	"net/http"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyv1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"kubarium.dev/apiserver"
)

// as is a client whose certificate names user.
func (c *cluster) as(t *testing.T, user string) *kubernetes.Clientset {
	t.Helper()
	text, err := c.authority.KubeconfigFor("limited", c.url, "dev", user)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// bindEdit lets jane edit in dev.
func (c *cluster) bindEdit(t *testing.T) {
	t.Helper()
	_, err := c.client(t).RbacV1().RoleBindings("dev").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "jane"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// a certificate without a role opens nothing; with a role in one namespace, that namespace and nothing else.
func TestAUserOfOneNamespaceStaysInIt(t *testing.T) {
	t.Parallel()
	c := start(t)
	jane := c.as(t, "jane")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if _, err := jane.CoreV1().ConfigMaps("dev").Create(t.Context(), cm, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("without a role: %v, want 403", err)
	}
	c.bindEdit(t)
	if _, err := jane.CoreV1().ConfigMaps("dev").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatalf("with the role: %v", err)
	}
	for what, try := range map[string]func() error{
		"another namespace": func() error {
			_, err := jane.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"all namespaces": func() error { _, err := jane.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); return err },
		"a watch of all": func() error { _, err := jane.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{}); return err },
		"the nodes":      func() error { _, err := jane.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); return err },
		"the namespace": func() error {
			return jane.CoreV1().Namespaces().Delete(t.Context(), "dev", metav1.DeleteOptions{})
		},
		"a role of its own": func() error {
			_, err := jane.RbacV1().RoleBindings("dev").Create(t.Context(), &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "more"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
				Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}},
			}, metav1.CreateOptions{})
			return err
		},
		"quota": func() error {
			return jane.CoreV1().ResourceQuotas("dev").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want 403", what, err)
		}
	}
}

// nobody becomes an administrator by asking for it: neither by a header nor by the name of a group in a certificate's user.
func TestNobodyImpersonatesUninvited(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.bindEdit(t)
	jane := c.as(t, "jane").RESTClient()
	for _, test := range []struct {
		header map[string]string
		want   int
	}{
		{map[string]string{"Impersonate-User": "kubarium-admin"}, http.StatusForbidden},
		{map[string]string{"Impersonate-Group": "system:masters"}, http.StatusBadRequest},
		{map[string]string{"Impersonate-Uid": "0"}, http.StatusBadRequest},
		{map[string]string{"Impersonate-User": "jane", "Impersonate-Group": "system:masters"}, http.StatusForbidden},
		{map[string]string{"Impersonate-User": "jane", "Impersonate-Extra-Scopes": "all"}, http.StatusForbidden},
		{map[string]string{"Impersonate-User": "system:serviceaccount:kube-system:admin"}, http.StatusForbidden},
	} {
		code, ask := 0, jane.Get().AbsPath("/api/v1/nodes")
		for name, value := range test.header {
			ask.SetHeader(name, value)
		}
		if ask.Do(t.Context()).StatusCode(&code); code != test.want {
			t.Errorf("%v got %d, want %d", test.header, code, test.want)
		}
	}
	code := 0
	c.as(t, "system:masters").RESTClient().Get().AbsPath("/api/v1/nodes").Do(t.Context()).StatusCode(&code)
	if code != http.StatusForbidden {
		t.Errorf("a user named like the group got %d, want 403", code)
	}
}

// what is mounted beside the API is not open to whoever has a certificate.
func TestExtraPathsAreForAdministrators(t *testing.T) {
	t.Parallel()
	c := start(t, func(conf *apiserver.Config) {
		conf.Extra = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	})
	code := 0
	c.as(t, "jane").RESTClient().Get().AbsPath("/kubarium/traffic").Do(t.Context()).StatusCode(&code)
	if code != http.StatusForbidden {
		t.Errorf("jane got %d, want 403", code)
	}
	if res, _ := c.ask(t, "GET", "/kubarium/traffic", ""); res.StatusCode != http.StatusTeapot {
		t.Errorf("the administrator got %d", res.StatusCode)
	}
}

// kubectl auth can-i tells what roles say, for oneself and for somebody else.
func TestKubectlAuthTellsWhatRolesSay(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.bindEdit(t)
	contains(t, c.must(t, "auth", "can-i", "create", "pods"), "yes")
	contains(t, c.must(t, "auth", "can-i", "create", "pods", "-n", "dev", "--as", "jane"), "yes")
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "jane",
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "create", Resource: "pods"}}}
	got, err := c.client(t).AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil || got.Status.Allowed {
		t.Errorf("jane in default: %v (%v), want no", got, err)
	}
	contains(t, c.must(t, "auth", "whoami"), "kubarium-admin")
}

// who may patch or update but not create does not create by an apply or a PUT either.
func TestPatchAndUpdateDoNotMakeUpForCreate(t *testing.T) {
	t.Parallel()
	c := start(t)
	admin := c.client(t).RbacV1()
	rule := rbacv1.PolicyRule{Verbs: []string{"get", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"configmaps", "endpoints"}}
	if _, err := admin.Roles("dev").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "fix"}, Rules: []rbacv1.PolicyRule{rule}},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RoleBindings("dev").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "jane"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "fix"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	jane := c.as(t, "jane").CoreV1()
	_, err := jane.ConfigMaps("dev").Apply(t.Context(), applyv1.ConfigMap("m", "dev"), metav1.ApplyOptions{FieldManager: "jane"})
	want := `configmaps "m" is forbidden: User "jane" cannot create resource "configmaps" in API group "" in the namespace "dev"`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("apply: got %v, want %s", err, want)
	}
	if _, err := jane.Endpoints("dev").Update(t.Context(), &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "e"}},
		metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("update: got %v, want 403", err)
	}
}
