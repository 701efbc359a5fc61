package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "dev"}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	return p
}

// binding puts a pod on a node, once; A-8: then deletion gives it its grace, which only gets shorter.
func TestBindingAndGracefulDeletion(t *testing.T) {
	t.Parallel()
	c := start(t)
	pods := c.client(t).CoreV1().Pods("dev")
	if _, err := pods.Create(t.Context(), pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(t.Context(), binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a second binding got %v, want 409", err)
	}
	if err := pods.Delete(t.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: new(int64(20))}); err != nil {
		t.Fatal(err)
	}
	got, err := pods.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || got.Spec.NodeName != "n1" || got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 20 {
		t.Fatalf("got %v (%v), want it on n1 and terminating in 20 s", got, err)
	}
	contains(t, c.must(t, "get", "pods", "-n", "dev"), "Terminating")
	contains(t, c.must(t, "delete", "pod", "a", "-n", "dev", "--force", "--grace-period=0"), `"a" force deleted`)
	if _, err := pods.Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone", err)
	}
}

// an eviction deletes; a dry one does not.
func TestEvictionDeletes(t *testing.T) {
	t.Parallel()
	c := start(t)
	pods := c.client(t).CoreV1().Pods("dev")
	if _, err := pods.Create(t.Context(), pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "dev"}}
	eviction.DeleteOptions = &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	if err := pods.EvictV1(t.Context(), eviction); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
		t.Errorf("a dry eviction: %v", err)
	}
	eviction.DeleteOptions = nil
	if err := pods.EvictV1(t.Context(), eviction); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone", err)
	}
}
