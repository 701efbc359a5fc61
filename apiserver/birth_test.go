package apiserver_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/apiserver"
)

// stand writes what every cluster has from the API server.
func (c *cluster) stand(t *testing.T) {
	t.Helper()
	for _, obj := range apiserver.StandingObjects(netip.MustParsePrefix("10.96.0.0/16")) {
		c.put(t, obj)
	}
}

// the ServiceCIDR says where ClusterIPs come from, and each ClusterIP has an IPAddress object that comes and goes with
// its Service.
func TestEachClusterIPHasAnIPAddress(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.stand(t)
	client := c.client(t)
	contains(t, c.must(t, "get", "servicecidr", "kubernetes"), "10.96.0.0/16")
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	svc, err := client.CoreV1().Services("dev").Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ip, err := client.NetworkingV1().IPAddresses().Get(t.Context(), svc.Spec.ClusterIP, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := &networkingv1.ParentReference{Resource: "services", Namespace: "dev", Name: "web"}
	if d := cmp.Diff(want, ip.Spec.ParentRef); d != "" {
		t.Error(d)
	}
	svc.Spec.Type, svc.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	if svc, err = client.CoreV1().Services("dev").Update(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.NetworkingV1().IPAddresses().Get(t.Context(), ip.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the address of a Service that has none any more: %v", err)
	}
	svc.Spec.Type, svc.Spec.ExternalName, svc.Spec.ClusterIP = corev1.ServiceTypeClusterIP, "", "10.96.7.7"
	if _, err = client.CoreV1().Services("dev").Update(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	contains(t, c.must(t, "get", "ipaddress"), "10.96.7.7", "services/dev/web")
	if err := client.CoreV1().Services("dev").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if list, err := client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("left after the Service: %v (%v)", list.Items, err)
	}
}

// an address that somebody claims by an IPAddress of his own is not given to a Service.
func TestAClaimedAddressIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t)
	claim := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.96.0.50"}, Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Group: "example.com", Resource: "things", Name: "mine"}}}
	if _, err := c.client(t).NetworkingV1().IPAddresses().Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	svc.Spec.ClusterIP, svc.Spec.Ports = "10.96.0.50", []corev1.ServicePort{{Port: 80}}
	_, err := c.client(t).CoreV1().Services("dev").Create(t.Context(), svc, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Fatalf("got %v, want 422", err)
	}
	contains(t, err.Error(), "provided IP is already allocated")
}

// a pod gets the ServiceAccount default and what the account brings; an account that is not there is refused in
// Kubernetes' words.
func TestAPodGetsItsServiceAccount(t *testing.T) {
	t.Parallel()
	c := start(t, func(conf *apiserver.Config) { conf.MountTokens = true })
	client := c.client(t).CoreV1()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}}
	if _, err := client.ServiceAccounts("dev").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := client.Pods("dev").Create(t.Context(), pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mounts := p.Spec.Containers[0].VolumeMounts
	if p.Spec.ServiceAccountName != "default" || len(p.Spec.ImagePullSecrets) != 1 || len(mounts) != 1 ||
		mounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" || mounts[0].Name != p.Spec.Volumes[0].Name {
		t.Errorf("got %+v", p.Spec)
	}
	if all := p.Spec.Tolerations; len(all) != 2 || *all[0].TolerationSeconds != 300 || *all[1].TolerationSeconds != 300 {
		t.Errorf("lost nodes: got %+v", all) // N-3
	}
	silent, no := pod("b"), false
	silent.Spec.AutomountServiceAccountToken = &no
	if p, err = client.Pods("dev").Create(t.Context(), silent, metav1.CreateOptions{}); err != nil || len(p.Spec.Volumes) != 0 {
		t.Errorf("a pod that wants no token: %v (%v)", p.Spec.Volumes, err)
	}
	stranger := pod("c")
	stranger.Spec.ServiceAccountName = "nobody"
	_, err = client.Pods("dev").Create(t.Context(), stranger, metav1.CreateOptions{})
	const want = `pods "c" is forbidden: error looking up service account dev/nobody: serviceaccount "nobody" not found`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// the standing roles are Kubernetes': edit is more than view, admin more than edit, and a role labelled for it
// becomes a part of them at once; its end takes it out again.
func TestClusterRolesAreAggregated(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.stand(t)
	client := c.client(t).RbacV1().ClusterRoles()
	extra := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "monkeys",
		Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"zoo"}, Resources: []string{"monkeys"}}}}
	if _, err := client.Create(t.Context(), extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	holds := func(role string) bool {
		t.Helper()
		got, err := client.Get(t.Context(), role, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.Rules {
			if r.Resources[0] == "monkeys" {
				return true
			}
		}
		return false
	}
	for _, role := range []string{"view", "edit", "admin"} {
		if !holds(role) {
			t.Errorf("%s has not the new rule", role)
		}
	}
	if err := client.Delete(t.Context(), "monkeys", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"view", "edit", "admin"} {
		if holds(role) {
			t.Errorf("%s still has the rule of a role that is gone", role)
		}
	}
}
