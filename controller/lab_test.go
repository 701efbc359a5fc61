package controller

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// inLab runs a test on the virtual time of a bubble, in a cluster whose nodes renew their leases every ten seconds.
func inLab(t *testing.T, o Config, test func(l *lab), nodes ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(path, store.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		o.Store = s
		ctx, stop := context.WithCancel(context.Background())
		k := &kubelet{store: s, hold: map[string]bool{}}
		l := &lab{testCluster: &testCluster{t: t, ctx: ctx, store: s, manager: New(o), kubelet: k}, silent: map[string]bool{}}
		var running sync.WaitGroup
		running.Go(func() {
			if err := l.manager.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for _, ns := range []string{"dev", metav1.NamespaceDefault, corev1.NamespaceNodeLease} {
			l.create(namespace(ns))
		}
		pods, err := s.Watch(ctx, s.Revision(), api.Pods)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { l.serve(ctx, pods) })
		for _, n := range nodes {
			l.create(node(n))
			running.Go(func() { l.live(ctx, n) })
		}
		synctest.Wait()
		test(l)
		stop()
		running.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// lab is a cluster on virtual time.
type lab struct {
	*testCluster
	mu     sync.Mutex // guards silent
	silent map[string]bool
}

// pass lets time pass, and all that happens in it.
func (l *lab) pass(d time.Duration) {
	<-time.After(d) // the bubble's clock, which does not wait
	synctest.Wait()
}

// hush makes a node silent, or heard again.
func (l *lab) hush(name string, silent bool) {
	l.mu.Lock()
	l.silent[name] = silent
	l.mu.Unlock()
}

func (l *lab) isSilent(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.silent[name]
}

func (l *lab) live(ctx context.Context, name string) {
	tick := time.NewTicker(defaultNodeGrace / 4)
	defer tick.Stop()
	for {
		if !l.isSilent(name) {
			l.beat(ctx, name)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *lab) beat(ctx context.Context, name string) {
	now := metav1.NewMicroTime(time.Now())
	_, _ = l.store.Update(ctx, func(tx *store.Tx) error {
		old, err := store.Get[*coordinationv1.Lease](tx, api.Leases, corev1.NamespaceNodeLease, name)
		if err != nil {
			return tx.Create(&coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &now},
			})
		}
		lease := api.Copy(old)
		lease.Spec.RenewTime = &now
		return tx.Update(lease)
	})
}

// serve is the kubelets of all nodes that are not silent.
func (l *lab) serve(ctx context.Context, w store.Watcher) {
	defer w.Close()
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return
		}
		for _, ev := range batch.Events {
			pod := ev.Object.(*corev1.Pod)
			old, _ := ev.Old.(*corev1.Pod)
			starts := old == nil || old.Spec.NodeName != pod.Spec.NodeName || pod.DeletionTimestamp != nil
			if ev.Type != store.Deleted && starts && !l.isSilent(pod.Spec.NodeName) {
				l.kubelet.see(ctx, pod)
			}
		}
	}
}

// node reads a node.
func (l *lab) node(name string) *corev1.Node {
	l.t.Helper()
	n, err := store.Get[*corev1.Node](l.store, api.Nodes, "", name)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// changeNode edits a node.
func (l *lab) changeNode(name string, edit func(*corev1.Node)) {
	l.t.Helper()
	l.write(func(tx *store.Tx) error {
		n, err := store.Get[*corev1.Node](tx, api.Nodes, "", name)
		if err != nil {
			return err
		}
		n = api.Copy(n)
		edit(n)
		return tx.Update(n)
	})
	synctest.Wait()
}

// podsOn lists the pods of namespace dev on a node: those that live, and those on their way out.
func (l *lab) podsOn(node string) (live, ending []*corev1.Pod) {
	for _, p := range list[*corev1.Pod](l.testCluster, api.Pods) {
		switch {
		case p.Spec.NodeName != node:
		case p.DeletionTimestamp != nil:
			ending = append(ending, p)
		default:
			live = append(live, p)
		}
	}
	return live, ending
}

// told lists the events as "Type Reason Message".
func (l *lab) told() map[string]int32 {
	all := map[string]int32{}
	list, err := l.store.List(l.ctx, api.Events, store.Query{})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, ev := range store.All[*corev1.Event](list.Items) {
		all[ev.Type+" "+ev.Reason+" "+ev.Message] += times(ev)
	}
	return all
}

// finish is a turn, and the disk's time for what it wrote; it returns the revision of its last write, or 0.
func (e *engine) finish(ctx context.Context, events []store.Event) (uint64, error) {
	done, err := e.turn(ctx, events)
	if err == nil && done.durable != nil {
		err = done.durable()
	}
	return done.last, err
}
