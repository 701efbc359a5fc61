package controller

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// patience is how long a test waits for what must come; it is reached only when the test fails.
const patience = 10 * time.Second

// testCluster is a real store with the controllers running, and a kubelet that makes pods ready at once.
type testCluster struct {
	t       *testing.T
	ctx     context.Context
	store   *store.Store
	manager *Manager
	kubelet *kubelet
}

// newCluster starts a cluster with namespaces default and dev and these nodes. At its end the invariants hold.
func newCluster(t *testing.T, nodes ...string) *testCluster {
	t.Helper()
	return newClusterOf(t, Config{}, nodes...)
}

// newClusterOf is newCluster with a Manager of one's own configuration.
func newClusterOf(t *testing.T, o Config, nodes ...string) *testCluster {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &testCluster{t: t, ctx: ctx, store: s, kubelet: &kubelet{store: s, hold: map[string]bool{}}}
	o.Store = s
	c.manager = New(o)
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.manager.Run(ctx); err != nil {
			t.Errorf("Run: got %v, want nil at the end", err)
		}
	})
	pods, err := s.Watch(ctx, s.Revision(), api.Pods)
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() { c.kubelet.run(ctx, pods) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b := BirthConfig{ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"), DNSAddress: netip.MustParseAddr("10.96.0.10"), APIPort: 6443}
	for i, n := range nodes {
		b.Nodes = append(b.Nodes, BirthNode{Name: n, Address: netip.AddrFrom4([4]byte{172, 30, 0, byte(11 + i)})})
	}
	if err := Birth(ctx, s, b); err != nil {
		t.Fatal(err)
	}
	c.write(func(tx *store.Tx) error { return tx.Create(namespace("dev")) })
	for _, n := range nodes {
		c.create(node(n))
	}
	return c
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
}

func node(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: "zone-" + name}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

// deployment is one as the API would have defaulted it; its pods carry app=name.
func deployment(name string, replicas int32) *appsv1.Deployment {
	quarter, history, limit := intstr.FromString("25%"), int32(10), int32(600)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: name + ":1", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter},
			},
			RevisionHistoryLimit: &history, ProgressDeadlineSeconds: &limit,
		},
	}
}

func service(name string, selector map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name},
		Spec: corev1.ServiceSpec{
			Selector: selector, ClusterIP: "10.96.1.1", ClusterIPs: []string{"10.96.1.1"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(80)}},
		},
	}
}

// write does fn in one Update and waits until the controllers have answered it.
func (c *testCluster) write(fn func(*store.Tx) error) {
	c.t.Helper()
	revision, err := c.store.Update(c.ctx, fn)
	if err != nil {
		c.t.Fatal(err)
	}
	c.settle(revision)
}

func (c *testCluster) settle(revision uint64) uint64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	reached, err := c.manager.Settle(ctx, revision)
	if err != nil {
		c.t.Fatalf("settle %d: %v", revision, err)
	}
	return reached
}

func (c *testCluster) create(obj api.Object) {
	c.t.Helper()
	c.write(func(tx *store.Tx) error { return tx.Create(obj) })
}

func (c *testCluster) delete(kind *api.Kind, name string, p metav1.DeletionPropagation) {
	c.t.Helper()
	c.write(func(tx *store.Tx) error { return tx.Delete(kind, "dev", name, store.DeleteOptions{Propagation: p}) })
}

// change edits an object of namespace dev.
func change[T api.Object](c *testCluster, kind *api.Kind, name string, edit func(T)) {
	c.t.Helper()
	c.write(func(tx *store.Tx) error {
		obj, err := store.Get[T](tx, kind, "dev", name)
		if err != nil {
			return err
		}
		obj = api.Copy(obj)
		edit(obj)
		return tx.Update(obj)
	})
}

// list is what namespace dev holds of a kind.
func list[T api.Object](c *testCluster, kind *api.Kind) []T {
	l, err := c.store.List(c.ctx, kind, store.Query{Namespace: "dev"})
	if err != nil {
		c.t.Fatal(err)
	}
	return store.All[T](l.Items)
}

// until waits for a state of the store in which ok holds. It looks at every state, so that a passing one is not missed.
func (c *testCluster) until(what string, ok func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	w, err := c.store.Watch(ctx, c.store.Revision())
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Close()
	for !ok() {
		if _, err := w.Next(ctx); err != nil {
			c.t.Fatalf("waiting until %s: %v\n%s", what, err, c.dump())
		}
	}
	c.settle(c.store.Revision())
}

// dump tells what is there, for a test that failed.
func (c *testCluster) dump() string {
	out := ""
	for _, d := range list[*appsv1.Deployment](c, api.Deployments) {
		out += fmt.Sprintf("deployment %s: %+v\n", d.Name, d.Status)
	}
	for _, rs := range list[*appsv1.ReplicaSet](c, api.ReplicaSets) {
		out += fmt.Sprintf("replicaset %s: wants %d, %+v\n", rs.Name, *rs.Spec.Replicas, rs.Status)
	}
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		out += fmt.Sprintf("pod %s on %q: %+v deleted %v\n", p.Name, p.Spec.NodeName, p.Status, p.DeletionTimestamp)
	}
	return out
}

// rolledOut tells what kubectl rollout status would call successfully rolled out.
func (c *testCluster) rolledOut(name string) func() bool {
	return func() bool {
		d, err := store.Get[*appsv1.Deployment](c.store, api.Deployments, "dev", name)
		s := d.Status
		return err == nil && d.Generation <= s.ObservedGeneration && s.UpdatedReplicas == *d.Spec.Replicas &&
			s.Replicas == s.UpdatedReplicas && s.AvailableReplicas == s.UpdatedReplicas
	}
}

// endpointsOf lists the endpoints in a Service's slices.
func (c *testCluster) endpointsOf(service string) []discoveryv1.Endpoint {
	var all []discoveryv1.Endpoint
	for _, s := range list[*discoveryv1.EndpointSlice](c, api.EndpointSlices) {
		if s.Labels[discoveryv1.LabelServiceName] == service {
			all = append(all, s.Endpoints...)
		}
	}
	return all
}

func (c *testCluster) readyEndpoints(service string) int {
	n := 0
	for _, e := range c.endpointsOf(service) {
		if *e.Conditions.Ready {
			n++
		}
	}
	return n
}

// kubelet makes every placed pod ready, and removes those that terminate, except what it holds.
type kubelet struct {
	store *store.Store
	mu    sync.Mutex // guards hold
	hold  map[string]bool
	next  byte
}

// Things a kubelet can be told not to do.
const (
	holdReady = "ready" // pods stay unready
	holdEnds  = "ends"  // terminating pods stay
)

func (k *kubelet) held(what string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hold[what]
}

// set holds or frees, and looks at all pods again when it frees.
func (k *kubelet) set(c *testCluster, what string, hold bool) {
	c.t.Helper()
	k.mu.Lock()
	k.hold[what] = hold
	k.mu.Unlock()
	if hold {
		return
	}
	for _, pod := range list[*corev1.Pod](c, api.Pods) {
		k.see(c.ctx, pod)
	}
}

func (k *kubelet) run(ctx context.Context, w store.Watcher) {
	defer w.Close()
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return
		}
		for _, ev := range batch.Events {
			if ev.Type != store.Deleted {
				k.see(ctx, ev.Object.(*corev1.Pod))
			}
		}
	}
}

// see does a kubelet's work on one pod; what another has done meanwhile is no error.
func (k *kubelet) see(ctx context.Context, pod *corev1.Pod) {
	switch {
	case pod.Spec.NodeName == "" || podEnded(pod) && pod.DeletionTimestamp == nil:
	case pod.DeletionTimestamp != nil:
		if !k.held(holdEnds) {
			_, _ = k.store.Update(ctx, func(tx *store.Tx) error { return tx.Remove(pod) })
		}
	case !podReady(pod) && !k.held(holdReady):
		k.start(ctx, pod)
	}
}

func (k *kubelet) start(ctx context.Context, pod *corev1.Pod) {
	up := api.Copy(pod)
	if up.Status.PodIP == "" {
		k.mu.Lock()
		k.next++
		up.Status.PodIP = netip.AddrFrom4([4]byte{10, 244, 0, k.next}).String()
		k.mu.Unlock()
		up.Status.PodIPs = []corev1.PodIP{{IP: up.Status.PodIP}}
	}
	up.Status.Phase = corev1.PodRunning
	setPodCondition(up, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}, time.Now())
	_, _ = k.store.Update(ctx, func(tx *store.Tx) error { return tx.Update(up) })
}
