package controller

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// each namespace has its ServiceAccount default and the certificate to trust; deleted or changed, they are made again, but not in
// a namespace that ends.
func TestEachNamespaceHasItsAccountAndCertificate(t *testing.T) {
	inLab(t, Config{RootCA: "a certificate"}, func(l *lab) {
		whole := func(when, ns string) {
			t.Helper()
			if _, err := l.store.Get(api.ServiceAccounts, ns, "default"); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			ca, err := store.Get[*corev1.ConfigMap](l.store, api.ConfigMaps, ns, "kube-root-ca.crt")
			if err != nil || !cmp.Equal(ca.Data, map[string]string{"ca.crt": "a certificate"}) {
				t.Errorf("%s: %v (%v)", when, ca, err)
			}
		}
		whole("at birth", "default")
		l.create(namespace("late"))
		whole("made later", "late")
		l.delete(api.ServiceAccounts, "default", "")
		l.delete(api.ConfigMaps, "kube-root-ca.crt", "")
		whole("deleted", "dev")
		change(l.testCluster, api.ConfigMaps, "kube-root-ca.crt", func(cm *corev1.ConfigMap) { cm.Data["ca.crt"] = "another" })
		whole("changed", "dev")
		l.write(func(tx *store.Tx) error { return tx.Delete(api.Namespaces, "", "dev", store.DeleteOptions{}) })
		if _, err := l.store.Get(api.Namespaces, "", "dev"); err == nil {
			t.Error("the namespace does not end")
		}
	})
}

// A-2, N-20: a pod that a controller makes is the account default, with its token mounted where tokens are, as one that came through
// the API.
func TestAControllersPodsHaveTheirAccount(t *testing.T) {
	inLab(t, Config{RootCA: "a certificate", MountTokens: true}, func(l *lab) {
		l.create(deployment("web", 1))
		pod := list[*corev1.Pod](l.testCluster, api.Pods)[0]
		if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || !strings.HasPrefix(pod.Spec.Volumes[0].Name, "kube-api-access-") {
			t.Errorf("account %q, volumes %v", pod.Spec.ServiceAccountName, pod.Spec.Volumes)
		}
		if m := pod.Spec.Containers[0].VolumeMounts; len(m) != 1 || m[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
			t.Errorf("mounts: %v", m)
		}
	}, "n1")
}

// a pod that a controller makes has the priority of its class, and none is made for a class that is not there.
func TestAControllersPodsHaveTheirPriority(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		l.create(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 900})
		for _, name := range []string{"high", "absent"} {
			d := deployment(name, 1)
			d.Spec.Template.Spec.PriorityClassName = name
			l.create(d)
		}
		pods := list[*corev1.Pod](l.testCluster, api.Pods)
		if len(pods) != 1 || pods[0].Spec.Priority == nil || *pods[0].Spec.Priority != 900 {
			t.Errorf("got %v", pods)
		}
		if got := l.failures()["ReplicaSet"]; !strings.Contains(got, "is forbidden: no PriorityClass with name absent was found") {
			t.Errorf("got %q", got)
		}
	}, "n1")
}

// without a certificate there is no ConfigMap that would promise one.
func TestWithoutACertificateNoneIsPromised(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	if cms := list[*corev1.ConfigMap](c, api.ConfigMaps); len(cms) != 0 {
		t.Errorf("got %v", cms)
	}
}

// a quota's status counts what is there, also what controllers make, and what goes.
func TestAQuotaCountsWhatComesAndGoes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	hard := corev1.ResourceList{"pods": resource.MustParse("10"), "requests.cpu": resource.MustParse("4"), "services": resource.MustParse("5"),
		"count/deployments.apps": resource.MustParse("3")}
	c.create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}})
	check := func(when string, want map[string]string) {
		t.Helper()
		q, err := store.Get[*corev1.ResourceQuota](c.store, api.ResourceQuotas, "dev", "q")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for name, amount := range q.Status.Used {
			got[string(name)] = amount.String()
		}
		if d := cmp.Diff(want, got); d != "" || !cmp.Equal(len(q.Status.Hard), len(hard)) {
			t.Errorf("%s, of %v (-want +got):\n%s", when, q.Status.Hard, d)
		}
	}
	check("empty", map[string]string{"pods": "0", "requests.cpu": "0", "services": "0", "count/deployments.apps": "0"})
	d := deployment("web", 3)
	d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("500m")}
	c.create(d)
	c.create(service("web", map[string]string{"app": "web"}))
	check("three pods", map[string]string{"pods": "3", "requests.cpu": "1500m", "services": "1", "count/deployments.apps": "1"})
	c.delete(api.Services, "web", "")
	c.delete(api.Deployments, "web", metav1.DeletePropagationBackground)
	c.until("the pods are gone", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 0 })
	check("all gone", map[string]string{"pods": "0", "requests.cpu": "0", "services": "0", "count/deployments.apps": "0"})
	change(c, api.ResourceQuotas, "q", func(q *corev1.ResourceQuota) {
		q.Spec.Hard = corev1.ResourceList{"configmaps": resource.MustParse("1")}
	})
	hard = corev1.ResourceList{"configmaps": resource.MustParse("1")}
	c.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "one"}})
	check("another bound", map[string]string{"configmaps": "1"})
}

// A manager that starts over what another left writes nothing anew, whatever there is.
func TestAStartOverWritesNothingAnew(t *testing.T) {
	t.Parallel()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := s.Update(ctx, func(tx *store.Tx) error {
		for _, obj := range []api.Object{
			namespace("dev"), node("n1"), guest("a", "app=web"), guest("huge", "example.com/gpu:1"), deployment("web", 2),
			&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("9")}}},
		} {
			if err := tx.Create(obj); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	work := func() uint64 {
		t.Helper()
		e := newEngine(New(Config{Store: s, RootCA: "x", MountTokens: true}).o)
		events, err := e.everything(ctx)
		for err == nil && (len(events) > 0 || !e.idle()) {
			_, err = e.finish(ctx, events)
			events = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return s.Revision()
	}
	work()
	events, err := s.List(ctx, api.Events, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Revision()
	work()
	again, err := s.List(ctx, api.Events, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Items) != len(events.Items) || s.Revision() > before+1 {
		t.Errorf("%d writes, %d events after %d; want at most the count of FailedScheduling", s.Revision()-before, len(again.Items), len(events.Items))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
