package apiserver_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const template = `"template": {"metadata": {"labels": {"app": "x"}}, "spec": {%s"containers": [{"name": "c", "image": "i:1"}]}}`

// more is one object of each kind beside those the other tests make, and what kubectl get shows of it.
var more = map[string]struct{ body, shown string }{
	"Secret":         {`"apiVersion": "v1", "stringData": {"k": "v"}`, "Opaque   1"},
	"ServiceAccount": {`"apiVersion": "v1"`, "NAME   AGE"},
	"ResourceQuota":  {`"apiVersion": "v1", "spec": {"hard": {"secrets": "99"}}`, "REQUEST"},
	"LimitRange":     {`"apiVersion": "v1", "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}`, "CREATED AT"},
	"DaemonSet": {`"apiVersion": "apps/v1", "spec": {"selector": {"matchLabels": {"app": "x"}}, ` +
		fmt.Sprintf(template, "") + `}`, "NODE SELECTOR"},
	"StatefulSet": {`"apiVersion": "apps/v1", "spec": {"serviceName": "x", "selector": {"matchLabels": {"app": "x"}}, ` +
		fmt.Sprintf(template, "") + `}`, "0/1"},
	"ControllerRevision": {`"apiVersion": "apps/v1", "revision": 7, "data": {"a": 1}`, "<none>       7"},
	"Job":                {`"apiVersion": "batch/v1", "spec": {` + fmt.Sprintf(template, `"restartPolicy": "Never", `) + `}`, "0/1"},
	"Ingress": {`"apiVersion": "networking.k8s.io/v1", "spec": {"ingressClassName": "k", "rules": [{"host": "a.b", "http": {"paths":
		[{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}`, "a.b"},
	"IngressClass":        {`"apiVersion": "networking.k8s.io/v1", "spec": {"controller": "kubarium.dev/ingress"}`, "kubarium.dev/ingress"},
	"NetworkPolicy":       {`"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {"matchLabels": {"app": "x"}}}`, "app=x"},
	"ServiceCIDR":         {`"apiVersion": "networking.k8s.io/v1", "spec": {"cidrs": ["10.96.0.0/16"]}`, "10.96.0.0/16"},
	"PodDisruptionBudget": {`"apiVersion": "policy/v1", "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}`, "N/A"},
	"Role": {`"apiVersion": "rbac.authorization.k8s.io/v1", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]`,
		"CREATED AT"},
	"RoleBinding": {`"apiVersion": "rbac.authorization.k8s.io/v1", "roleRef": {"kind": "Role", "name": "x", "apiGroup":
		"rbac.authorization.k8s.io"}, "subjects": [{"kind": "User", "name": "jane"}]`, "Role/x"},
	"ClusterRole": {`"apiVersion": "rbac.authorization.k8s.io/v1", "rules": []`, "CREATED AT"},
	"ClusterRoleBinding": {`"apiVersion": "rbac.authorization.k8s.io/v1", "roleRef": {"kind": "ClusterRole", "name": "x", "apiGroup":
		"rbac.authorization.k8s.io"}`, "ClusterRole/x"},
	"PriorityClass": {`"apiVersion": "scheduling.k8s.io/v1", "value": 7`, "7       false"},
	"Lease":         {`"apiVersion": "coordination.k8s.io/v1", "spec": {"holderIdentity": "me"}`, "me"},
}

// kubectl applies, shows, explains, changes and deletes every kind.
func TestKubectlHandlesEveryKind(t *testing.T) {
	t.Parallel()
	c := start(t)
	for kind, want := range more {
		file := filepath.Join(t.TempDir(), kind+".json")
		write(t, file, `{"kind": "`+kind+`", "metadata": {"name": "x"}, `+want.body+`}`)
		contains(t, c.must(t, "apply", "-n", "dev", "-f", file), "created")
		contains(t, c.must(t, "apply", "-n", "dev", "-f", file), "/x ")
		contains(t, c.must(t, "apply", "--server-side", "--force-conflicts", "-n", "dev", "-f", file), "serverside-applied")
		contains(t, c.must(t, "get", kind, "x", "-n", "dev"), want.shown)
		contains(t, c.must(t, "label", kind, "x", "-n", "dev", "a=b"), "labeled")
		contains(t, c.must(t, "explain", strings.ToLower(kind)), "KIND:")
		contains(t, c.must(t, "describe", kind, "x", "-n", "dev"), "x")
		contains(t, c.must(t, "delete", kind, "x", "-n", "dev"), "deleted")
	}
}

// what is wrong with an Ingress and a NetworkPolicy is told with its path, all of it at once.
func TestMoreKindsAreValidated(t *testing.T) {
	t.Parallel()
	c := start(t)
	_, body := c.ask(t, "POST", "/apis/networking.k8s.io/v1/namespaces/dev/ingresses", `{"metadata": {"name": "a"}, "spec": {"rules":
		[{"host": "1.2.3.4", "http": {"paths": [{"path": "a", "pathType": "Exact", "backend": {}}, {"path": "/"}]}}]}}`)
	contains(t, body, "spec.rules[0].host", "must be a DNS name, not an IP address", "spec.rules[0].http.paths[0].path",
		"must be an absolute path", "resource or service backend is required", "spec.rules[0].http.paths[1].pathType")
	_, body = c.ask(t, "POST", "/apis/networking.k8s.io/v1/namespaces/dev/networkpolicies", `{"metadata": {"name": "a"}, "spec":
		{"podSelector": {}, "ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}]}}`)
	contains(t, body, "must specify a peer", "must be a strict subset of `cidr`")
}

// an eviction that a PodDisruptionBudget cannot spare is refused with 429, until it can.
func TestABudgetHoldsEvictionsBack(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, name := range []string{"a", "b"} {
		p := pod(name)
		p.Labels = map[string]string{"app": "x"}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		c.put(t, p)
	}
	min := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: &min, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}
	if _, err := c.client(t).PolicyV1().PodDisruptionBudgets("dev").Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := func(name string) error {
		return c.client(t).CoreV1().Pods("dev").EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "dev"}})
	}
	if err := evict("a"); err != nil {
		t.Errorf("the first of two: %v", err)
	}
	if err := evict("b"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("the last one: %v, want 429", err)
	}
}
