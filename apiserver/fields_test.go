package apiserver_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyv1 "k8s.io/client-go/applyconfigurations/core/v1"
)

// fields is who owns what of an object, a line an owner.
func fields(entries []metav1.ManagedFieldsEntry) string {
	var lines []string
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%s %s %s %s %s", e.Manager, e.Operation, e.APIVersion, e.Subresource, e.FieldsV1.Raw))
	}
	return strings.Join(lines, "\n")
}

// whoever creates owns what he sent and its defaults, not what the server adds; both times the server meets the shape.
func TestTheCreatorOwnsWhatItSent(t *testing.T) {
	t.Parallel()
	c := start(t)
	services := c.client(t).CoreV1().Services("dev")
	for i, how := range []metav1.CreateOptions{{FieldManager: "one"}, {FieldManager: "two"}} {
		svc := service(fmt.Sprintf("s%d", i), "", 80)
		svc.Labels = map[string]string{"app": "web"}
		got, err := services.Create(t.Context(), svc, how)
		if err != nil {
			t.Fatal(err)
		}
		want := how.FieldManager + ` Update v1  {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:internalTrafficPolicy":{},` +
			`"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},` +
			`"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}`
		if have := fields(got.ManagedFields); have != want {
			t.Errorf("got\n%s\nwant\n%s", have, want)
		}
		if got.ManagedFields[0].Time.IsZero() || got.Spec.IPFamilyPolicy == nil {
			t.Errorf("got %v", got)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}}
	made, err := c.client(t).CoreV1().Pods("dev").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, added := range []string{"serviceAccount", "tolerations", "priority", "volumes", "f:status"} {
		if strings.Contains(fields(made.ManagedFields), added) {
			t.Errorf("the writer owns %s: %s", added, fields(made.ManagedFields))
		}
	}
}

// each writer through each subresource has an entry of its own; kubectl's are told apart.
func TestEveryWriterHasAnEntry(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.must(t, "create", "deployment", "web", "-n", "dev", "--image=i:1")
	c.must(t, "scale", "deployment/web", "-n", "dev", "--replicas=3")
	c.must(t, "label", "deployment/web", "-n", "dev", "tier=front")
	c.must(t, "patch", "deployment/web", "-n", "dev", "--subresource=status", "--type=merge", "-p", `{"status":{"replicas":1}}`)
	d, err := c.client(t).AppsV1().Deployments("dev").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := fields(d.ManagedFields)
	for _, want := range []string{
		"kubectl-create Update apps/v1  {", ` Update apps/v1 scale {"f:spec":{"f:replicas":{}}}`,
		`kubectl-label Update apps/v1  {"f:metadata":{"f:labels":{"f:tier":{}}}}`, `kubectl-patch Update apps/v1 status {"f:status":{"f:replicas":{}}}`,
	} {
		contains(t, got, want)
	}
	for _, line := range strings.Split(got, "\n") {
		if strings.HasPrefix(line, "kubectl-create ") && strings.Contains(line, "f:replicas") {
			t.Errorf("replicas still belong to who created it: %s", line)
		}
	}
}

// an apply conflicts with whoever wrote the field before, however that was, in Kubernetes' words; force takes it over.
func TestApplyConflictsWithOrdinaryWriters(t *testing.T) {
	t.Parallel()
	c := start(t)
	file := filepath.Join(t.TempDir(), "web.yaml")
	manifest := func(replicas int) {
		write(t, file, fmt.Sprintf("{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: dev}, spec: {replicas: %d, "+
			"selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}, spec: {containers: [{name: c, image: 'i:1'}]}}}}", replicas))
	}
	manifest(2)
	c.must(t, "create", "-f", file)
	manifest(3)
	_, out, err := c.kubectl(t, "apply", "--server-side", "--field-manager=ci", "-f", file)
	if err == nil || !strings.Contains(out, `conflict with "kubectl-create" using apps/v1: .spec.replicas`) {
		t.Errorf("got %s (%v)", out, err)
	}
	c.must(t, "scale", "deployment/web", "-n", "dev", "--replicas=5")
	_, out, err = c.kubectl(t, "apply", "--server-side", "--field-manager=ci", "-f", file)
	if err == nil || !strings.Contains(out, `" with subresource "scale" using apps/v1: .spec.replicas`) {
		t.Errorf("got %s (%v)", out, err)
	}
	contains(t, c.must(t, "apply", "--server-side", "--field-manager=ci", "--force-conflicts", "-f", file), "serverside-applied")
	if got := c.must(t, "get", "deployment/web", "-n", "dev", "-o", "jsonpath={.spec.replicas}"); got != "3" {
		t.Errorf("got %s replicas", got)
	}
	// kubectl's own two ways of applying know each other.
	manifest(4)
	c.must(t, "apply", "--force-conflicts", "--server-side", "-f", file)
	manifest(6)
	contains(t, c.must(t, "apply", "--server-side", "-f", file), "serverside-applied")
}

// what a client says of managedFields counts as in Kubernetes: an empty entry clears them, and an object whose fields nobody
// owns meets its first apply as before-first-apply.
func TestManagedFieldsCanBeCleared(t *testing.T) {
	t.Parallel()
	c := start(t)
	maps := c.client(t).CoreV1().ConfigMaps("dev")
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"a": "1"}},
		metav1.CreateOptions{FieldManager: "me"}); err != nil {
		t.Fatal(err)
	}
	got, err := maps.Patch(t.Context(), "m", "application/merge-patch+json", []byte(`{"metadata":{"managedFields":[{}]}}`), metav1.PatchOptions{})
	if err != nil || len(got.ManagedFields) > 0 {
		t.Fatalf("got %v (%v)", got.ManagedFields, err)
	}
	_, err = maps.Apply(t.Context(), applyv1.ConfigMap("m", "dev").WithData(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "ci"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "before-first-apply" using v1: .data.a`) {
		t.Errorf("got %v", err)
	}
}
