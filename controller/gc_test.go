package controller

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func (c *testCluster) counts() (deployments, sets, pods int) {
	return len(list[*appsv1.Deployment](c, api.Deployments)), len(list[*appsv1.ReplicaSet](c, api.ReplicaSets)), len(list[*corev1.Pod](c, api.Pods))
}

// background, foreground and orphan deletion.
func TestDependentsGoWithTheirOwner(t *testing.T) {
	t.Parallel()
	for _, p := range []metav1.DeletionPropagation{"", metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		t.Run("propagation "+string(p), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, "n1")
			c.create(deployment("web", 2))
			c.until("web is rolled out", c.rolledOut("web"))
			c.kubelet.set(c, holdEnds, true)
			c.delete(api.Deployments, "web", p)
			d, rs, pods := c.counts()
			foreground := p == metav1.DeletePropagationForeground
			if waits := d == 1 && rs == 1 && pods == 2; waits != foreground {
				t.Errorf("while the pods end: %d Deployments, %d ReplicaSets, %d pods", d, rs, pods)
			}
			c.kubelet.set(c, holdEnds, false)
			c.until("all is gone", func() bool { d, rs, pods := c.counts(); return d+rs+pods == 0 })
		})
	}
}

//
func TestOrphansStayAndAreFreeOfTheirOwner(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	uid := list[*appsv1.ReplicaSet](c, api.ReplicaSets)[0].UID
	c.delete(api.Deployments, "web", metav1.DeletePropagationOrphan)
	if d, rs, pods := c.counts(); d != 0 || rs != 1 || pods != 2 {
		t.Fatalf("got %d Deployments, %d ReplicaSets, %d pods, want 0, 1, 2", d, rs, pods)
	}
	if rs := list[*appsv1.ReplicaSet](c, api.ReplicaSets)[0]; len(rs.OwnerReferences) != 0 {
		t.Errorf("orphan: got owners %v, want none", rs.OwnerReferences)
	}
	c.create(deployment("web", 2))
	c.until("a new Deployment takes the orphan over", c.rolledOut("web"))
	if sets := list[*appsv1.ReplicaSet](c, api.ReplicaSets); len(sets) != 1 || sets[0].UID != uid {
		t.Errorf("ReplicaSets: got %d, want the orphan alone", len(sets))
	}
}

// one living owner is enough to stay; the dead one is forgotten; an owner of a kind not served here is nobody's to judge.
func TestAnObjectStaysWithOneLivingOwner(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	config := func(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name, OwnerReferences: owners}}
	}
	for _, name := range []string{"a", "b"} {
		c.create(config(name))
	}
	owner := func(name string) metav1.OwnerReference {
		o, err := store.Get[*corev1.ConfigMap](c.store, api.ConfigMaps, "dev", name)
		if err != nil {
			t.Fatal(err)
		}
		return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: o.UID}
	}
	c.create(config("both", owner("a"), owner("b")))
	c.create(config("one", owner("a")))
	c.create(config("stale", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "b", UID: "another"}))
	c.create(config("foreign", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "y"}))
	c.delete(api.ConfigMaps, "a", "")
	got := map[string]int{}
	for _, o := range list[*corev1.ConfigMap](c, api.ConfigMaps) {
		got[o.Name] = len(o.OwnerReferences)
	}
	want := map[string]int{"b": 0, "both": 1, "foreign": 1}
	for _, name := range []string{"b", "both", "foreign", "one", "stale"} {
		n, ok := got[name]
		if w, kept := want[name]; ok != kept || n != w {
			t.Errorf("%s: got kept %v with %d owners, want %v with %d", name, ok, n, kept, w)
		}
	}
}

// a deleted namespace ends what is in it, takes nothing new, and then ends itself.
func TestANamespaceEndsAfterItsContents(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 3))
	c.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "held", Finalizers: []string{"example.com/hold"}}})
	c.until("web is rolled out", c.rolledOut("web"))
	c.kubelet.set(c, holdEnds, true)
	c.write(func(tx *store.Tx) error { return tx.Delete(api.Namespaces, "", "dev", store.DeleteOptions{}) })
	ns, err := store.Get[*corev1.Namespace](c.store, api.Namespaces, "", "dev")
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("got %+v (%v), want it Terminating", ns.Status, err)
	}
	if d, rs, pods := c.counts(); d != 0 || rs != 0 || pods != 3 {
		t.Errorf("while pods end: %d Deployments, %d ReplicaSets, %d pods; want 0, 0, 3", d, rs, pods)
	}
	c.kubelet.set(c, holdEnds, false)
	c.until("only the held object is left", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 0 })
	change(c, api.ConfigMaps, "held", func(m *corev1.ConfigMap) { m.Finalizers = nil })
	if _, err := c.store.Get(api.Namespaces, "", "dev"); err == nil {
		t.Error("the namespace is still there")
	}
	for _, k := range api.Kinds {
		l, _ := c.store.List(c.ctx, k, store.Query{Namespace: "dev"})
		if k.Namespaced && len(l.Items) > 0 {
			t.Errorf("left in it: %d %s", len(l.Items), k)
		}
	}
}

// N-12: an event that nobody repeats goes after an hour. minReadySeconds: a ready pod counts when it has been ready that long.
func TestTimeMakesPodsAvailableAndEventsGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(path, store.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		m := New(Config{Store: s})
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		d := deployment("web", 1)
		d.Spec.MinReadySeconds = 30
		for _, obj := range []api.Object{namespace("dev"), node("n1"), d} {
			if _, err := s.Update(ctx, func(tx *store.Tx) error { return tx.Create(obj) }); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		k := &kubelet{store: s, hold: map[string]bool{}}
		pods, _ := s.List(ctx, api.Pods, store.Query{})
		k.see(ctx, pods.Items[0].(*corev1.Pod))
		available := func() int32 {
			synctest.Wait()
			d, err := store.Get[*appsv1.Deployment](s, api.Deployments, "dev", "web")
			if err != nil {
				t.Fatal(err)
			}
			return d.Status.AvailableReplicas
		}
		<-time.After(29 * time.Second) // the bubble's clock, which does not wait
		if n := available(); n != 0 {
			t.Errorf("available after 29 s: got %d, want 0", n)
		}
		<-time.After(2 * time.Second) // the bubble's clock, which does not wait
		if n := available(); n != 1 {
			t.Errorf("available after 31 s: got %d, want 1", n)
		}
		<-time.After(eventTTL + defaultNodeGrace) // of the last event too: the node is silent. The bubble's clock, which does not wait
		synctest.Wait()
		if l, _ := s.List(ctx, api.Events, store.Query{}); len(l.Items) != 0 {
			t.Errorf("events after an hour: got %d, want none", len(l.Items))
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
