package cluster_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// hasty is a Deployment of four whose pods stay a second on a node that is lost.
const hasty = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: web, image: web, ports: [{containerPort: 80}]}]
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
---
`

// shortGrace is long enough for a node that lives on a busy machine.
func shortGrace() cluster.Options {
	return cluster.Options{Config: cluster.Config{NodeGrace: cluster.Duration(5 * time.Second)}}
}

func nodeOf(t *testing.T, c *clustertest.Cluster, name string) *corev1.Node {
	t.Helper()
	obj, err := c.Store().Get(api.Nodes, "", name)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.Node)
}

func readiness(t *testing.T, c *clustertest.Cluster, name string) corev1.ConditionStatus {
	t.Helper()
	for _, cond := range nodeOf(t, c, name).Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Status
		}
	}
	return ""
}

// serving lists the nodes with ready endpoints of the Service shop, one for each.
func serving(t *testing.T, c *clustertest.Cluster) []string {
	t.Helper()
	list, err := c.Store().List(t.Context(), api.EndpointSlices, store.Query{Index: api.IndexService, Value: "default/shop"})
	if err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for _, s := range store.All[*discoveryv1.EndpointSlice](list.Items) {
		for _, e := range s.Endpoints {
			if *e.Conditions.Ready {
				nodes = append(nodes, *e.NodeName)
			}
		}
	}
	slices.Sort(nodes)
	return nodes
}

// N-3: a node without power is NotReady after the grace: its endpoints leave, nobody is sent there, its pods are evicted, replaced on
// the other node and stay Terminating; with its power it is Ready without taints, they are gone, and it takes pods again.
func TestAStoppedNodesPodsMoveAndItComesBack(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, shortGrace())
	c.Apply(hasty + shop)
	c.Ready("default", 4)
	if got := serving(t, c); !slices.Equal(got, []string{"n1", "n1", "n2", "n2"}) {
		t.Fatalf("the pods serve on %v", got)
	}
	if err := c.StopNode(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	c.Until("the endpoints on n2 have left", func() bool { return !slices.Contains(serving(t, c), "n2") })
	if got := readiness(t, c, "n2"); got != corev1.ConditionUnknown {
		t.Errorf("n2 is Ready=%s, want Unknown", got)
	}
	c.Until("four pods serve on n1", func() bool { return slices.Equal(serving(t, c), []string{"n1", "n1", "n1", "n1"}) })
	c.Programmed()
	for range 20 {
		resp, err := c.HTTP("outside").Get("http://172.30.0.11:30080/")
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Error("a request was answered with", resp.Status)
		}
	}
	ending := func() (n int) {
		for _, p := range pods(t, c, "default") {
			if p.Spec.NodeName == "n2" && p.DeletionTimestamp != nil {
				n++
			}
		}
		return n
	}
	if n := ending(); n != 2 {
		t.Errorf("%d pods are Terminating on n2, want 2", n)
	}
	if err := c.StartNode(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	c.Until("n2 is Ready, without taints and without the old pods", func() bool {
		return readiness(t, c, "n2") == corev1.ConditionTrue && len(nodeOf(t, c, "n2").Spec.Taints) == 0 && ending() == 0
	})
	c.Apply(web("late", "v1", 1))
	c.Until("the new pod runs on n2, which is empty", func() bool {
		return slices.ContainsFunc(pods(t, c, "default"), func(p *corev1.Pod) bool {
			return p.Labels["app"] == "late" && p.Spec.NodeName == "n2" && api.Ready(p)
		})
	})
}

// N-3: a node that was cut off for less than its pods tolerate has them back as endpoints when it is healed: the same ones, which
// never stopped.
func TestAHealedNodeHasItsPodsBack(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, shortGrace())
	c.Apply(web("shop", "v1", 4) + shop)
	c.Ready("default", 4)
	before := serving(t, c)
	uids := map[string]bool{}
	for _, p := range pods(t, c, "default") {
		uids[string(p.UID)] = true
	}
	if err := c.Partition(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	c.Until("the endpoints on n2 have left", func() bool { return !slices.Contains(serving(t, c), "n2") })
	if err := c.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Until("the endpoints on n2 are back", func() bool { return slices.Equal(serving(t, c), before) })
	if got := readiness(t, c, "n2"); got != corev1.ConditionTrue {
		t.Errorf("n2 is Ready=%s", got)
	}
	for _, p := range pods(t, c, "default") {
		if !uids[string(p.UID)] || p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod %s is new or has restarted", p.Name)
		}
	}
}

// N-3: the pods of a node that is removed are replaced at once.
func TestARemovedNodesPodsAreReplaced(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 4) + shop)
	c.Ready("default", 4)
	if err := c.RemoveNode(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	c.Until("four pods serve on n1", func() bool { return slices.Equal(serving(t, c), []string{"n1", "n1", "n1", "n1"}) })
}

// N-3: drain asks the API to evict, and the budget's answer is its status: with none to spare it is refused, with one it is not.
func TestABudgetHoldsADrainBackUntilOneMayGo(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2) + `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: shop}}}
---
`)
	c.Ready("default", 2)
	allowed := func() int32 {
		b, err := c.Client.PolicyV1().PodDisruptionBudgets("default").Get(t.Context(), "shop", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return b.Status.DisruptionsAllowed
	}
	evict := func() error {
		victim := pods(t, c, "default")[0]
		return c.Client.PolicyV1().Evictions("default").Evict(t.Context(), &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: victim.Namespace, Name: victim.Name},
		})
	}
	if n, err := allowed(), evict(); n != 0 || !apierrors.IsTooManyRequests(err) {
		t.Errorf("%d may go, and an eviction is answered with %v", n, err)
	}
	_, err := c.Client.PolicyV1().PodDisruptionBudgets("default").Patch(
		t.Context(), "shop", types.MergePatchType, []byte(`{"spec":{"maxUnavailable":1}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Until("one may go", func() bool { return allowed() == 1 })
	if err := evict(); err != nil {
		t.Error(err)
	}
	c.Ready("default", 2)
	c.Until("one may go again", func() bool { return allowed() == 1 })
}

// each namespace trusts the certificate that the API shows.
func TestEachNamespaceHasTheCertificate(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 1})
	c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: late}\n---\n")
	for _, ns := range []string{"default", "kube-system", "late"} {
		c.Until("the certificate is in "+ns, func() bool {
			cm, err := store.Get[*corev1.ConfigMap](c.Store(), api.ConfigMaps, ns, api.RootCA)
			return err == nil && cm.Data["ca.crt"] == string(c.REST.CAData)
		})
	}
}
