package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// loadBalancer is a Service in front of those pods of on that have a label.
func loadBalancer(name, label, more string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {type: LoadBalancer, selector: {" + label + "}, ports: [{port: 80}]" + more + "}\n---\n"
}

// given is the load-balancer address of a Service.
func given(t *testing.T, c *clustertest.Cluster, name string) string {
	t.Helper()
	svc, err := store.Get[*corev1.Service](c.Store(), api.Services, "default", name)
	if err != nil || len(svc.Status.LoadBalancer.Ingress) != 1 {
		t.Fatalf("status of %s: got %+v, %v, want one address", name, svc.Status, err)
	}
	return svc.Status.LoadBalancer.Ingress[0].IP
}

// spread asks from outside over 60 new connections, and returns the pods that answered and the clients that they saw.
func spread(t *testing.T, c *clustertest.Cluster, address string) (pods, clients string) {
	t.Helper()
	seen, from := map[string]bool{}, map[string]bool{}
	for range 60 {
		a := ask(t, c.HTTP("outside"), "http://"+address+"/")
		seen[strings.TrimPrefix(a.Pod, "web-")] = true
		if client, err := netip.ParseAddrPort(a.Client); err == nil {
			from[client.Addr().String()] = true
		}
	}
	list := func(m map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }
	return list(seen), list(from)
}

// P-60, P-24, P-25: outside's connections to a load balancer's address are spread over the Ready nodes, each of which hides the client;
// under Local over those whose health check answers, which show it. What changes is in effect with the barrier, and a connection
// over a node that stays lives on.
func TestTheLoadBalancerSpreadsOverNodesThatAreFit(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 3})
	c.Apply(on("n1", "n2") + loadBalancer("wide", "on: n2", "") + loadBalancer("local", "app: shop", ", externalTrafficPolicy: Local") +
		loadBalancer("sticky", "app: shop", ", sessionAffinity: ClientIP"))
	c.Ready("default", 2)
	c.Programmed()
	wide, local, sticky := given(t, c, "wide"), given(t, c, "local"), given(t, c, "sticky")
	expect := func(when, address, wantPods, wantClients string) {
		t.Helper()
		if pods, clients := spread(t, c, address); pods != wantPods || clients != wantClients {
			t.Errorf("%s, %s: got answers of %q to %q, want %q to %q", when, address, pods, clients, wantPods, wantClients)
		}
	}
	const outside = "172.30.0.1"
	expect("with all", wide, "n2", "172.30.0.11 172.30.0.12 172.30.0.13")
	expect("with all", local, "n1 n2", outside)
	if pods, clients := spread(t, c, sticky); len(pods) != len("n1") || len(clients) != len("172.30.0.11") {
		t.Errorf("with ClientIP affinity: got answers of %q to %q, want one of each", pods, clients)
	}

	c.Apply(on("n3"))
	c.Ready("default", 3)
	c.Programmed()
	c.Until("n3 has a share", func() bool {
		pods, _ := spread(t, c, local)
		return pods == "n1 n2 n3"
	})
	kept := keepAsking(t, c, local+":80")
	if err := c.StopNode(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	expect("without n3", wide, "n2", "172.30.0.11 172.30.0.12")
	expect("without n3", local, "n1 n2", outside)
	kept(t)

	if _, err := c.Client.CoreV1().Pods("default").Patch(t.Context(), "web-n1", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Programmed()
	expect("without n1's endpoint", local, "n2", outside)
	if _, err := c.Client.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, []byte(`{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Programmed()
	expect("with n1 excluded", wide, "n2", "172.30.0.12")
	if err := c.Client.CoreV1().Services("default").Delete(t.Context(), "local", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Programmed()
	if !cut(t, c, "outside", local+":80") {
		t.Error("the address of a deleted Service answers")
	}
}

// keepAsking opens connections from outside; what it returns ends them, and fails if one was lost that led to a pod on n1 or n2.
func keepAsking(t *testing.T, c *clustertest.Cluster, address string) (end func(t *testing.T)) {
	t.Helper()
	dial, err := c.Dialer("outside", "")
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		pod string
		err error
	}
	ctx, cancel := context.WithCancel(t.Context())
	ends := make(chan outcome, 30)
	var answered sync.WaitGroup
	for range cap(ends) {
		conn, err := dial(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		answered.Add(1)
		go func() {
			pod, err := askUntil(ctx, conn, sync.OnceFunc(answered.Done))
			ends <- outcome{pod, err}
		}()
	}
	answered.Wait()
	return func(t *testing.T) {
		t.Helper()
		cancel()
		lived := 0
		for range cap(ends) {
			switch o := <-ends; {
			case o.err == nil:
				lived++
			case o.pod != "web-n3":
				t.Errorf("a connection to %s: %v", o.pod, o.err)
			}
		}
		if lived == 0 {
			t.Error("no connection lived on")
		}
	}
}

// askUntil asks over one connection, ten times a second, until ctx ends, and returns the pod that answered. It calls answered after
// the first answer, or in the end.
func askUntil(ctx context.Context, conn net.Conn, answered func()) (pod string, err error) {
	defer conn.Close()
	defer answered()
	answers := bufio.NewReader(conn)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: shop\r\nAccept: application/json\r\n\r\n"); err != nil {
			return pod, err
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return pod, err
		}
		var a answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			return pod, err
		}
		io.Copy(io.Discard, resp.Body)
		pod = a.Pod
		answered()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return pod, nil
		}
	}
}
