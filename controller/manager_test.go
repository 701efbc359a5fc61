package controller

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func TestADeploymentBecomesReadyPodsSpreadOverTheNodesAndEndpoints(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 4))
	c.until("web is rolled out", c.rolledOut("web"))

	on := map[string]int{}
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		on[p.Spec.NodeName]++
	}
	if want := map[string]int{"n1": 2, "n2": 2}; !cmp.Equal(on, want) {
		t.Errorf("pods on nodes: got %v, want %v", on, want)
	}
	sets := list[*appsv1.ReplicaSet](c, api.ReplicaSets)
	if len(sets) != 1 || sets[0].Annotations[revisionAnnotation] != "1" {
		t.Fatalf("ReplicaSets: got %v, want one of revision 1", sets)
	}
	hash := sets[0].Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		rest, ok := strings.CutPrefix(p.Name, "web-"+hash+"-")
		if !ok || len(rest) != 5 || p.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
			t.Errorf("pod %s: want web-%s-xxxxx with that label", p.Name, hash)
		}
	}
	if n := c.readyEndpoints("web"); n != 4 {
		t.Errorf("ready endpoints: got %d, want 4", n)
	}
	d, err := store.Get[*appsv1.Deployment](c.store, api.Deployments, "dev", "web")
	if err != nil {
		t.Fatal(err)
	}
	for kind, reason := range map[appsv1.DeploymentConditionType]string{
		appsv1.DeploymentAvailable: reasonAvailable, appsv1.DeploymentProgressing: reasonComplete,
	} {
		if got := condition(d.Status, kind); got == nil || got.Status != corev1.ConditionTrue || got.Reason != reason {
			t.Errorf("condition %s: got %+v, want True for %s", kind, got, reason)
		}
	}
}

// The barrier's first half: what follows from a write is there when Settle returns, without a kubelet's help.
func TestSettleReturnsWhenAllThatFollowsIsWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.kubelet.set(c, holdReady, true)
	c.create(deployment("web", 3))
	pods := list[*corev1.Pod](c, api.Pods)
	if len(pods) != 3 {
		t.Fatalf("pods: got %d, want 3", len(pods))
	}
	for _, p := range pods {
		if p.Spec.NodeName != "n1" {
			t.Errorf("pod %s is on %q, want n1", p.Name, p.Spec.NodeName)
		}
	}
	revision, err := c.store.Update(c.ctx, func(tx *store.Tx) error { return tx.Create(service("web", map[string]string{"app": "web"})) })
	if err != nil {
		t.Fatal(err)
	}
	if reached := c.settle(revision); reached <= revision {
		t.Errorf("reached %d, want beyond %d: the slice and the Endpoints were written", reached, revision)
	}
	if slices := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices); len(slices) != 1 {
		t.Errorf("slices: got %v, want one", slices)
	}
}

func TestSettleEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	if _, err := c.manager.Settle(ctx, c.store.Revision()+1000); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// A Deployment, its ReplicaSet, its pods on their nodes and the slices come in one transaction.
func TestConsequencesAreCommittedTogether(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.kubelet.set(c, holdReady, true)
	c.create(service("web", map[string]string{"app": "web"}))
	w, err := c.store.Watch(c.ctx, c.store.Revision(), api.Pods, api.ReplicaSets)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c.create(deployment("web", 2))
	batch, err := w.Next(c.ctx)
	for err == nil && len(batch.Events) == 0 {
		batch, err = w.Next(c.ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	placed := 0
	for _, ev := range batch.Events {
		if p, ok := ev.Object.(*corev1.Pod); ok && p.Spec.NodeName != "" {
			placed++
		}
	}
	if placed != 2 {
		t.Errorf("the first batch with a ReplicaSet places %d pods, want 2", placed)
	}
}

func TestABigDeploymentIsMadeInSeveralTransactions(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.kubelet.set(c, holdReady, true)
	c.create(deployment("big", 500))
	if n := len(list[*corev1.Pod](c, api.Pods)); n != 500 {
		t.Errorf("pods: got %d, want 500 when settled", n)
	}
}

func TestAnIdleManagerWritesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	before := c.store.Revision()
	c.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "unrelated"}})
	if after := c.store.Revision(); after != before+1 {
		t.Errorf("revision %d after one unrelated write at %d, want %d", after, before, before+1)
	}
}

// A start after a power cut: what the store holds is taken up, and nothing is made twice.
func TestANewManagerTakesUpWhatTheStoreHolds(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	before := c.store.Revision()

	ctx, stop := context.WithCancel(c.ctx)
	second := New(Config{Store: c.store})
	ended := make(chan error)
	go func() { ended <- second.Run(ctx) }()
	if reached, err := second.Settle(ctx, before); err != nil || reached != before {
		t.Errorf("settled at %d (%v), want %d: there is nothing to do", reached, err, before)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A store that cannot write for a while loses no work.
func TestAFailedTransactionIsMadeUpFor(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	full := errors.New("disk full")
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{NoSync: true, BeforeCommit: func() error {
		if broken.CompareAndSwap(true, false) {
			return full
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	var revision uint64
	for _, obj := range []api.Object{namespace("dev"), node("n1"), deployment("web", 3)} {
		if revision, err = s.Update(ctx, func(tx *store.Tx) error { return tx.Create(obj) }); err != nil {
			t.Fatal(err)
		}
	}
	broken.Store(true)
	m := New(Config{Store: s})
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	if _, err := m.Settle(ctx, revision); err != nil {
		t.Fatal(err)
	}
	if l, err := s.List(ctx, api.Pods, store.Query{}); err != nil || len(l.Items) != 3 {
		t.Errorf("got %d pods (%v), want 3 although the first transaction failed", len(l.Items), err)
	}
	stop()
	if err := errors.Join(<-ended, s.Close()); err != nil {
		t.Error(err)
	}
}

func TestAlarmsComeInOrderAndWhenDue(t *testing.T) {
	t.Parallel()
	var a alarms
	at := time.Unix(1000, 0)
	for _, n := range []int{3, 1, 2} {
		a.set(alarm{at: at.Add(time.Duration(n) * time.Second), name: string(rune('0' + n))})
	}
	var got []string
	for name := range a.due(at.Add(2 * time.Second)) {
		got = append(got, name)
	}
	if want := []string{"1", "2"}; !cmp.Equal(got, want) {
		t.Errorf("due: got %v, want %v", got, want)
	}
	if first, ok := a.first(); !ok || !first.Equal(at.Add(3*time.Second)) {
		t.Errorf("next: got %v (%v), want %v", first, ok, at.Add(3*time.Second))
	}
}
