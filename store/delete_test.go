package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func seconds(n int64) *int64 { return &n }

//
func TestAFinalizerHoldsADeletedObjectUntilItIsTakenOff(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	cm := configMap("a", "1")
	cm.Finalizers = []string{"example.com/hold"}
	put(t, s, cm)
	remove(t, s, api.ConfigMaps, "a", store.DeleteOptions{})
	got, err := store.Get[*corev1.ConfigMap](s, api.ConfigMaps, "default", "a")
	if err != nil || got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 0 {
		t.Fatalf("got %v %v, want it marked with no grace", got, err)
	}
	marked := s.Revision()
	remove(t, s, api.ConfigMaps, "a", store.DeleteOptions{})
	if s.Revision() != marked {
		t.Errorf("deleting it again wrote revision %d", s.Revision())
	}
	revived := api.Copy(got)
	revived.DeletionTimestamp = nil
	revived.Data["v"] = "2"
	put(t, s, revived)
	if revived.DeletionTimestamp == nil {
		t.Error("an update took the deletion back")
	}
	freed := api.Copy(revived)
	freed.Finalizers = nil
	w, err := s.Watch(t.Context(), s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	rev := put(t, s, freed)
	if _, err := s.Get(api.ConfigMaps, "default", "a"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone with its last finalizer", err)
	}
	b, err := w.Next(t.Context())
	if err != nil || len(b.Events) != 1 || b.Events[0].Type != store.Deleted || b.Events[0].Revision != rev ||
		b.Events[0].Object.GetResourceVersion() != freed.ResourceVersion {
		t.Errorf("got %+v %v, want it deleted at %d", b, err, rev)
	}
}

//
func TestAPodOnANodeIsDeletedGracefully(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type deletion struct {
		grace *int64
		want  int64 // of the stored pod; -1 when it is gone
	}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		steps  []deletion
	}{
		"its own grace, once":        {nil, []deletion{{nil, 30}, {nil, 30}}},
		"its spec's":                 {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = seconds(5) }, []deletion{{nil, 5}}},
		"the caller's":               {nil, []deletion{{seconds(60), 60}, {nil, 60}}},
		"only ever shorter":          {nil, []deletion{{nil, 30}, {seconds(40), 30}, {seconds(10), 10}, {seconds(20), 10}, {seconds(0), -1}}},
		"negative reads as a second": {nil, []deletion{{seconds(-3), 1}}},
		"none at all":                {nil, []deletion{{seconds(0), -1}}},
		"not on a node yet":          {func(p *corev1.Pod) { p.Spec.NodeName = "" }, []deletion{{nil, -1}}},
		"already ended":              {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, []deletion{{nil, -1}}},
		"a finalizer outlasts grace": {func(p *corev1.Pod) { p.Finalizers = []string{"a/b"} }, []deletion{{nil, 30}, {seconds(0), 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, store.Options{NoSync: true, Now: func() time.Time { return now }})
			p := pod("p", "n1")
			if c.change != nil {
				c.change(p)
			}
			put(t, s, p)
			for i, step := range c.steps {
				remove(t, s, api.Pods, "p", store.DeleteOptions{GracePeriodSeconds: step.grace})
				got, err := store.Get[*corev1.Pod](s, api.Pods, "default", "p")
				switch {
				case step.want < 0 && !apierrors.IsNotFound(err):
					t.Errorf("step %d: got %v %v, want it gone", i, got, err)
				case step.want < 0:
				case err != nil:
					t.Fatalf("step %d: %v", i, err)
				case *got.DeletionGracePeriodSeconds != step.want || !got.DeletionTimestamp.Time.Equal(now.Add(time.Duration(step.want)*time.Second)):
					t.Errorf("step %d: got %d s until %v, want %d s", i, *got.DeletionGracePeriodSeconds, got.DeletionTimestamp, step.want)
				case got.Generation != 2:
					t.Errorf("step %d: generation %d, want 2", i, got.Generation)
				}
			}
		})
	}
}

//
func TestRemoveIsTheLastWordOnAPodButForItsFinalizers(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	held := pod("held", "n1")
	held.Finalizers = []string{"a/b"}
	for _, p := range []*corev1.Pod{pod("p", "n1"), held} {
		put(t, s, p)
		remove(t, s, api.Pods, p.Name, store.DeleteOptions{})
		update(t, s, func(tx *store.Tx) error { return tx.Remove(p) })
	}
	if diff := cmp.Diff([]string{"held"}, names(t, s, api.Pods, store.Query{})); diff != "" {
		t.Fatalf("pods (-want +got):\n%s", diff)
	}
	freed := api.Copy(held)
	freed.Finalizers, freed.ResourceVersion = nil, ""
	put(t, s, freed)
	if left := names(t, s, api.Pods, store.Query{}); len(left) > 0 {
		t.Errorf("%v outlived its last finalizer", left)
	}
	put(t, s, pod("p", "n1"))
	old := pod("p", "n1")
	old.UID = "of an earlier one"
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Remove(old) }); !apierrors.IsConflict(err) {
		t.Errorf("got %v, want a conflict for another pod of that name", err)
	}
}

//
func TestADeletedNamespaceIsTerminatingUntilItIsRemoved(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	put(t, s, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "dev"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	})
	remove(t, s, api.Namespaces, "dev", store.DeleteOptions{})
	ns, err := store.Get[*corev1.Namespace](s, api.Namespaces, "", "dev")
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil || ns.DeletionGracePeriodSeconds != nil {
		t.Fatalf("got %v %v", ns, err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.Remove(ns) })
	if _, err := s.Get(api.Namespaces, "", "dev"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone", err)
	}
}

//
func TestPropagationIsFiledAsAFinalizer(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	put(t, s, configMap("a", "1"))
	for _, c := range []struct {
		p    metav1.DeletionPropagation
		want []string
	}{
		{metav1.DeletePropagationForeground, []string{metav1.FinalizerDeleteDependents}},
		{"", []string{metav1.FinalizerDeleteDependents}},
		{metav1.DeletePropagationOrphan, []string{metav1.FinalizerOrphanDependents}},
	} {
		remove(t, s, api.ConfigMaps, "a", store.DeleteOptions{Propagation: c.p})
		got, err := s.Get(api.ConfigMaps, "default", "a")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got.GetFinalizers()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.p, diff)
		}
	}
	remove(t, s, api.ConfigMaps, "a", store.DeleteOptions{Propagation: metav1.DeletePropagationBackground})
	if left := names(t, s, api.ConfigMaps, store.Query{}); len(left) > 0 {
		t.Errorf("%v is still there", left)
	}
}

//
func TestDeletePreconditionsAreHeld(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	cm := configMap("a", "1")
	put(t, s, cm)
	del := func(name string, o store.DeleteOptions) error {
		_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Delete(api.ConfigMaps, "default", name, o) })
		return err
	}
	want := `Operation cannot be fulfilled on configmaps "a": the UID in the precondition (x) does not match the UID in record (` +
		string(cm.UID) + `). The object might have been deleted and then recreated`
	if err := del("a", store.DeleteOptions{UID: "x"}); !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if err := del("a", store.DeleteOptions{ResourceVersion: "77"}); !apierrors.IsConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
	if err := del("b", store.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	if err := del("a", store.DeleteOptions{UID: cm.UID, ResourceVersion: cm.ResourceVersion}); err != nil {
		t.Error(err)
	}
}
