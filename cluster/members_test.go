package cluster_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// reaches waits long for what should answer; cut does not for what should not.
func reaches(t *testing.T, c *clustertest.Cluster, place, address string) bool {
	t.Helper()
	return connects(t, c, place, address, 10*time.Second)
}

func cut(t *testing.T, c *clustertest.Cluster, place, address string) bool {
	t.Helper()
	return !connects(t, c, place, address, 500*time.Millisecond)
}

func connects(t *testing.T, c *clustertest.Cluster, place, address string, patience time.Duration) bool {
	t.Helper()
	dial, err := c.Dialer(place, "default")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// on gives a pod per node, each the only one of its Deployment: web-n1, web-n2.
func on(nodes ...string) string {
	var all strings.Builder
	for _, n := range nodes {
		all.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: web-" + n + ", labels: {app: shop, on: " + n + "}}\nspec: {nodeName: " + n +
			", containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}\n---\n")
	}
	return all.String()
}

func addressOf(t *testing.T, c *clustertest.Cluster, pod string) string {
	t.Helper()
	obj, err := c.Store().Get(api.Pods, "default", pod)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(obj.(*corev1.Pod).Status.PodIP, "80")
}

// N-3: a node that is added runs pods and answers NodePorts, from outside and from the host, and is there after a restart; one that
// is removed is not, and neither are its Node object and its place in the API's Service.
func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(work func(*clustertest.Cluster)) {
		t.Run("", func(t *testing.T) { work(clustertest.Start(t, cluster.Options{StateDir: dir})) })
	}
	run(func(c *clustertest.Cluster) {
		added, err := c.AddNode(t.Context(), cluster.NodeConfig{Zone: "west"})
		if err != nil || added.Name != "n3" || !added.Ready {
			t.Fatalf("added %+v, %v", added, err)
		}
		if _, err := c.AddNode(t.Context(), cluster.NodeConfig{Name: "n3"}); err == nil {
			t.Error("the same node was added twice")
		}
		c.Apply(on("n3") + shop)
		c.Ready("default", 1)
		c.Programmed()
		for _, at := range []string{"172.30.0.13:30080", "172.30.0.11:30080"} {
			if !reaches(t, c, "outside", at) {
				t.Error("outside does not reach", at)
			}
		}
		conn, err := net.Dial("tcp", net.JoinHostPort(added.Loopback.String(), "30080"))
		if err != nil {
			t.Fatal("from the host: ", err)
		}
		conn.Close()
		if got, err := c.Lookup("node/n3", "shop.default.svc.cluster.local"); err != nil || len(got) != 1 {
			t.Error("a name asked on the new node:", got, err)
		}
		if err := c.RemoveNode(t.Context(), "n2"); err != nil {
			t.Fatal(err)
		}
		if !cut(t, c, "outside", "172.30.0.12:30080") {
			t.Error("a removed node answers")
		}
	})
	run(func(c *clustertest.Cluster) {
		if got := names(t, c, api.Nodes); got != "n1 n3" {
			t.Error("after the restart the nodes are", got)
		}
		slice, err := c.Client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err != nil || len(slice.Endpoints) != 2 || slice.Endpoints[1].Addresses[0] != "172.30.0.13" {
			t.Error("the API's endpoints are", slice.Endpoints, err)
		}
		c.Ready("default", 1)
		c.Programmed()
		if !reaches(t, c, "outside", "172.30.0.13:30080") {
			t.Error("the node that was added does not answer after the restart")
		}
		if err := c.RemoveNode(t.Context(), "n3"); err != nil {
			t.Error(err)
		}
		if err := c.RemoveNode(t.Context(), "n1"); err == nil {
			t.Error("the last node was removed")
		}
	})
}

func names(t *testing.T, c *clustertest.Cluster, kind *api.Kind) string {
	t.Helper()
	list, err := c.Store().List(t.Context(), kind, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, obj := range list.Items {
		all = append(all, obj.GetName())
	}
	return strings.Join(all, " ")
}

// N-3: a node without power answers nothing and is no place of the API; the barrier does not wait for it. With its power its
// pods come back to their addresses.
func TestANodeLosesItsPowerAndGetsItBack(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(on("n1", "n2") + shop)
	c.Ready("default", 2)
	c.Programmed()
	before := addressOf(t, c, "web-n1")
	if err := c.StopNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{before, "172.30.0.11:30080", "172.30.0.11:6443"} {
		if !cut(t, c, "node/n2", at) {
			t.Error("without power it still answers at", at)
		}
	}
	c.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {ports: [{port: 80}]}\n---\n")
	c.Programmed()
	for range 20 { // the API's Service does not lead to it any more
		if !reaches(t, c, "node/n2", "10.96.0.1:443") {
			t.Error("the API is not reached")
		}
	}
	if err := c.StartNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	c.Until("its pod answers again", func() bool { return !cut(t, c, "node/n2", before) })
	c.Programmed()
	if !reaches(t, c, "outside", "172.30.0.11:30080") {
		t.Error("with power its NodePort does not answer")
	}
}

// N-3: two nodes that lost each other still reach everybody else; a node that is cut off runs its pods on, and hears of what was
// written when it is healed.
func TestNodesLoseEachOther(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 3})
	c.Apply(on("n1", "n2", "n3") + shop)
	c.Ready("default", 3)
	c.Programmed()
	at := map[string]string{}
	for _, n := range []string{"n1", "n2", "n3"} {
		at[n] = addressOf(t, c, "web-"+n)
	}
	check := func(from, to string, want bool) {
		t.Helper()
		ok := cut
		if want {
			ok = reaches
		}
		if !ok(t, c, "pod/web-"+from, at[to]) {
			t.Errorf("a pod on %s reaches one on %s: %t, want %t", from, to, !want, want)
		}
	}
	if err := c.Partition(t.Context(), "n1", "n2"); err != nil {
		t.Fatal(err)
	}
	check("n1", "n2", false)
	check("n2", "n1", false)
	check("n1", "n3", true)
	check("n3", "n2", true)
	if err := c.Heal(t.Context(), "n1", "n2"); err != nil {
		t.Fatal(err)
	}
	check("n1", "n2", true)

	if err := c.Partition(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	check("n3", "n3", true)
	check("n3", "n1", false)
	if !cut(t, c, "outside", "172.30.0.13:30080") {
		t.Error("outside reaches a node that is cut off")
	}
	c.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {clusterIP: 10.96.0.99, selector: {on: n1}, ports: [{port: 80}]}\n---\n")
	c.Programmed()
	if !reaches(t, c, "node/n1", "10.96.0.99:80") {
		t.Error("a connected node does not know the new Service")
	}
	if !cut(t, c, "node/n3", "10.96.0.99:80") {
		t.Error("a node that is cut off has heard of a new Service")
	}
	if err := c.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Programmed()
	if !reaches(t, c, "node/n3", "10.96.0.99:80") {
		t.Error("a healed node does not know what was written")
	}
	check("n3", "n1", true)
	for _, err := range []error{ // what was cut off stays so through a loss of power, and nobody waits for it
		c.Partition(t.Context(), "n3"), c.StopNode(t.Context(), "n3"), c.StartNode(t.Context(), "n3"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {ports: [{port: 80}]}\n---\n")
	c.Programmed()
	for _, err := range []error{c.StopNode(t.Context(), "n3"), c.RemoveNode(t.Context(), "n3")} {
		if err != nil {
			t.Fatal("a node without power is removed: ", err)
		}
	}
	if err := c.Partition(t.Context(), "n1", "n9"); err == nil || !strings.Contains(err.Error(), `nodes "n9" not found`) {
		t.Error("a partition from a node that is not there:", err)
	}
}
