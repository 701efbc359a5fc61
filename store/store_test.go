package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func TestAFailedUpdateLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	put(t, s, configMap("kept", "1"))
	put(t, s, pod("p", "n1"))
	before := s.Revision()
	boom := errors.New("boom")
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.Create(configMap("a", "1")); err != nil {
			return err
		}
		if err := tx.Update(pod("p", "n2")); err != nil {
			return err
		}
		if err := tx.Delete(api.ConfigMaps, "default", "kept", store.DeleteOptions{}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v, want the function's own error", err)
	}
	if diff := cmp.Diff([]string{"kept"}, names(t, s, api.ConfigMaps, store.Query{})); diff != "" {
		t.Errorf("configmaps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"p"}, names(t, s, api.Pods, store.Query{Index: api.IndexNode, Value: "n1"})); diff != "" {
		t.Errorf("pods of n1 (-want +got):\n%s", diff)
	}
	if s.Revision() != before {
		t.Errorf("the revision moved from %d to %d", before, s.Revision())
	}
}

func TestAnUpdateSeesItsOwnWritesAndNumbersEachOfThem(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	rev := update(t, s, func(tx *store.Tx) error {
		for _, name := range []string{"b", "a"} {
			if err := tx.Create(configMap(name, "1")); err != nil {
				return err
			}
		}
		if got := len(tx.List(api.ConfigMaps, store.Query{})); got != 2 {
			t.Errorf("the Update sees %d of its 2 objects", got)
		}
		if got := s.Revision(); got != 0 {
			t.Errorf("others see revision %d before the Update has ended", got)
		}
		return nil
	})
	l, err := s.List(t.Context(), api.ConfigMaps, store.Query{})
	if err != nil || rev != 2 || l.Revision != 2 {
		t.Fatalf("revision %d, list at %d, %v; want 2", rev, l.Revision, err)
	}
	for i, want := range []string{"2", "1"} {
		if got := l.Items[i].GetResourceVersion(); got != want {
			t.Errorf("%s has resourceVersion %s, want %s", l.Items[i].GetName(), got, want)
		}
	}
}

//
func TestTheServerDecidesUidTimeAndGeneration(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	s, _ := open(t, store.Options{Now: func() time.Time { return now }})
	obj := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d", UID: "mine", Generation: 7}}
	put(t, s, obj)
	if obj.UID == "mine" || obj.UID == "" || obj.Generation != 1 || !obj.CreationTimestamp.Time.Equal(now.Truncate(time.Second)) {
		t.Fatalf("got uid %q, generation %d, created %v", obj.UID, obj.Generation, obj.CreationTimestamp)
	}
	change := func(what string, generation int64, fn func(*appsv1.Deployment)) {
		next := api.Copy(obj)
		next.ResourceVersion, next.CreationTimestamp, next.Generation = "", metav1.Time{}, 99
		fn(next)
		put(t, s, next)
		if next.Generation != generation || next.UID != obj.UID || !next.CreationTimestamp.Equal(&obj.CreationTimestamp) {
			t.Errorf("after a change of %s: generation %d, want %d; uid and time %q %v", what, next.Generation, generation, next.UID, next.CreationTimestamp)
		}
	}
	change("the labels", 1, func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} })
	change("the status", 1, func(d *appsv1.Deployment) { d.Status.Replicas = 2 })
	change("the spec", 2, func(d *appsv1.Deployment) { d.Spec.Paused = true })

	svc := service(1)
	put(t, s, svc)
	if svc.Generation != 0 {
		t.Errorf("a Service has generation %d; in Kubernetes it has none", svc.Generation)
	}
}

//
func TestAStaleResourceVersionIsAConflictInKubernetesWords(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	first := service(1)
	first.Name = "x"
	put(t, s, first)
	second := api.Copy(first)
	second.Spec.Selector = map[string]string{"app": "other"}
	put(t, s, second)
	_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Update(first) })
	want := `Operation cannot be fulfilled on services "x": the object has been modified; please apply your changes to the latest version and try again`
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	other := api.Copy(second)
	other.UID = "other"
	_, err = s.Update(t.Context(), func(tx *store.Tx) error { return tx.Update(other) })
	want = fmt.Sprintf(`Operation cannot be fulfilled on services "x": Precondition failed: UID in precondition: other, UID in object meta: %s`, second.UID)
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestAnUpdateThatChangesNothingWritesNothing(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	put(t, s, configMap("a", "1"))
	before := s.Revision()
	again := configMap("a", "1")
	if rev := put(t, s, again); rev != before || s.Revision() != before || again.ResourceVersion != "1" {
		t.Errorf("revision %d and %d, resourceVersion %s; want %d", rev, s.Revision(), again.ResourceVersion, before)
	}
}

func TestNamesAreUniqueAndGenerated(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	put(t, s, configMap("a", "1"))
	create := func(obj api.Object) error {
		_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(obj) })
		return err
	}
	if err := create(configMap("a", "2")); !apierrors.IsAlreadyExists(err) || err.Error() != `configmaps "a" already exists` {
		t.Errorf("got %v", err)
	}
	if err := create(configMap("", "2")); !apierrors.IsInvalid(err) {
		t.Errorf("got %v, want it refused for want of a name", err)
	}
	long := configMap("", "")
	long.GenerateName = strings.Repeat("x", 80)
	if err := create(long); err != nil || len(long.Name) != 63 {
		t.Errorf("got %q %v, want 63 characters", long.Name, err)
	}
	for range 100 {
		cm := configMap("", "")
		cm.GenerateName = "web-"
		if err := create(cm); err != nil || len(cm.Name) != len("web-")+5 || cm.Name[:4] != "web-" {
			t.Fatalf("got %q %v", cm.Name, err)
		}
	}
}

func TestObjectsHandedInAreCopied(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	cm := configMap("a", "1")
	cm.APIVersion, cm.Kind = "v1", "ConfigMap"
	put(t, s, cm)
	cm.Data["v"] = "changed behind the store's back"
	got, err := store.Get[*corev1.ConfigMap](s, api.ConfigMaps, "default", "a")
	if err != nil || got.Data["v"] != "1" || got.Kind != "" {
		t.Errorf("got %v %v", got, err)
	}
}

//
func TestIndexesFollowTheObjects(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{})
	put(t, s, pod("a", "n1"))
	put(t, s, pod("b", "n1"))
	put(t, s, pod("c", "n10"))
	put(t, s, pod("d", ""))
	put(t, s, pod("e", "n1"))
	put(t, s, pod("b", "n2"))
	update(t, s, func(tx *store.Tx) error { return tx.Remove(pod("e", "")) })
	for node, want := range map[string][]string{"n1": {"a"}, "n2": {"b"}, "n10": {"c"}, "n3": {}, "": {}} {
		if diff := cmp.Diff(want, names(t, s, api.Pods, store.Query{Index: api.IndexNode, Value: node})); diff != "" {
			t.Errorf("pods on %q (-want +got):\n%s", node, diff)
		}
	}
}

func TestListSelectsByNamespaceLabelsAndIndexInOrder(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	for i, ns := range []string{"b", "a", "a-b", "a"} {
		p := pod(fmt.Sprintf("p%d", 9-i), "n1")
		p.Namespace = ns
		p.Labels = map[string]string{"odd": fmt.Sprint(i % 2)}
		put(t, s, p)
	}
	odd := labels.SelectorFromSet(labels.Set{"odd": "1"})
	for _, c := range []struct {
		q    store.Query
		want []string
	}{
		{store.Query{}, []string{"p7", "p6", "p8", "p9"}},
		{store.Query{Namespace: "a"}, []string{"p6", "p8"}},
		{store.Query{Namespace: "a-b"}, []string{"p7"}},
		{store.Query{Labels: odd}, []string{"p6", "p8"}},
		{store.Query{Namespace: "b", Labels: odd}, []string{}},
		{store.Query{Namespace: "a", Index: api.IndexNode, Value: "n1"}, []string{"p6", "p8"}},
		{store.Query{Namespace: "b", Index: api.IndexNode, Value: "n2"}, []string{}},
		{store.Query{Index: "no such index", Value: "n2"}, []string{}},
		{store.Query{Namespace: "a", Name: "p8"}, []string{"p8"}},
		{store.Query{Namespace: "b", Name: "p8"}, []string{}},
		{store.Query{Namespace: "b", Name: "p9", Labels: odd}, []string{}},
	} {
		if diff := cmp.Diff(c.want, names(t, s, api.Pods, c.q)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.q, diff)
		}
	}
}

// whatever the selector and the history of the labels, the label index answers as a look at every object does.
func TestALabelIndexAnswersAsALookAtEveryObjectDoes(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	for range 400 {
		p := pod(fmt.Sprintf("p%d", rand.IntN(60)), "n1")
		p.Namespace = []string{"a", "b"}[rand.IntN(2)]
		p.Labels = map[string]string{}
		for _, key := range []string{"app", "tier", "app.x"} {
			if n := rand.IntN(4); n > 0 {
				p.Labels[key] = []string{"", "web", "we"}[n-1]
			}
		}
		put(t, s, p)
		if rand.IntN(8) == 0 {
			update(t, s, func(tx *store.Tx) error { return tx.Remove(p) })
		}
	}
	every, err := s.List(t.Context(), api.Pods, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"app=web", "app=", "app=we,tier=web", "app in (web),tier notin (web)", "app in (web,we)", "app",
		"!app", "app!=web", "app=web,tier=we,app.x=web", "app=web,app=we", "app=nobody,tier=web"} {
		selector, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range []string{"", "a", "b"} {
			want := []string{}
			for _, obj := range every.Items {
				if (ns == "" || obj.GetNamespace() == ns) && selector.Matches(labels.Set(obj.GetLabels())) {
					want = append(want, obj.GetName())
				}
			}
			if diff := cmp.Diff(want, names(t, s, api.Pods, store.Query{Namespace: ns, Labels: selector})); diff != "" {
				t.Errorf("%s in %q (-want +got):\n%s", text, ns, diff)
			}
		}
	}
}

func TestAListIsASnapshotThatLaterWritesDoNotTouch(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	put(t, s, configMap("left", "0"))
	put(t, s, configMap("right", "0"))
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 500 {
			update(t, s, func(tx *store.Tx) error {
				return errors.Join(tx.Update(configMap("left", fmt.Sprint(i))), tx.Update(configMap("right", fmt.Sprint(i))))
			})
		}
	})
	for range 500 {
		l, err := s.List(t.Context(), api.ConfigMaps, store.Query{})
		if err != nil {
			t.Fatal(err)
		}
		both := store.All[*corev1.ConfigMap](l.Items)
		if both[0].Data["v"] != both[1].Data["v"] {
			t.Fatalf("at revision %d left is %s, right %s", l.Revision, both[0].Data["v"], both[1].Data["v"])
		}
	}
	writer.Wait()
}

func TestASecondOpenerGetsAClearErrorAtOnce(t *testing.T) {
	t.Parallel()
	_, path := open(t, store.Options{})
	start := time.Now()
	_, err := store.Open(path, store.Options{})
	if !errors.Is(err, store.ErrInUse) || err.Error() != "open store "+path+": it is in use by another process" {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestWhatCannotBeOpenedIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no store\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		text: store.ErrDamaged, dir: nil, filepath.Join(dir, "none", "store"): os.ErrNotExist,
	} {
		_, err := store.Open(path, store.Options{})
		if err == nil || want != nil && !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "open store "+path+": ") {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
	raw, err := os.ReadFile(text)
	if err != nil || !strings.HasPrefix(string(raw), "this is no store") {
		t.Errorf("the foreign file was changed: %v", err)
	}
}

func TestAClosedStoreSaysSo(t *testing.T) {
	t.Parallel()
	s, err := store.Open(filepath.Join(t.TempDir(), "s.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	_, errNext := w.Next(t.Context())
	_, errWatch := s.Watch(t.Context(), 0)
	_, errUpdate := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(configMap("a", "1")) })
	for _, err := range []error{errNext, errWatch, errUpdate} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
}
