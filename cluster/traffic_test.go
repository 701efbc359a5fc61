package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// load is traffic that runs beside a test until stop is called.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	last  cluster.Sample
	total map[string]uint64 // answers by group
	marks []string
	err   error
}

func startLoad(t *testing.T, c *clustertest.Cluster, o cluster.TrafficOptions) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, total: map[string]uint64{}}
	o.Service = types.NamespacedName{Namespace: "default", Name: "shop"}
	o.Rate = 200
	l.done.Go(func() {
		l.err = c.Traffic(ctx, o, func(s cluster.Sample) error {
			l.last = s
			l.marks = append(l.marks, s.Marks...)
			for _, g := range s.Shares {
				l.total[g.Group] += g.Requests
			}
			return nil
		})
	})
	t.Cleanup(cancel)
	return l
}

// stop ends the load and fails the test if a request was lost.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.done.Wait()
	if l.err != nil {
		t.Fatal(l.err)
	}
	if l.last.Failed > 0 || l.last.Sent == 0 {
		t.Errorf("%d of %d requests were lost: %s", l.last.Failed, l.last.Sent, l.last.Failure)
	}
}

func patch(t *testing.T, c *clustertest.Cluster, resource, body string) {
	t.Helper()
	client := c.Client.AppsV1().RESTClient()
	kind, name, _ := strings.Cut(resource, "/")
	switch kind {
	case "services", "pods":
		client = c.Client.CoreV1().RESTClient()
	case "ingresses":
		client = c.Client.NetworkingV1().RESTClient()
	}
	err := client.Patch(types.MergePatchType).Namespace("default").Resource(kind).Name(name).Body([]byte(body)).Do(t.Context()).Error()
	if err != nil {
		t.Fatalf("patch %s: %v", resource, err)
	}
}

// Chapter 3: no request through a Service fails while its pods are replaced and scaled; the client does not try again. (N-6)
func TestNoRequestIsLostWhilePodsAreReplacedAndScaled(t *testing.T) {
	t.Parallel()
	for _, keepAlive := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep-alive %t", keepAlive), func(t *testing.T) {
			t.Parallel()
			c := clustertest.Start(t, cluster.Options{})
			c.Apply(web("shop", "v1", 3) + shop)
			c.Ready("default", 3)
			before := pods(t, c, "default")
			l := startLoad(t, c, cluster.TrafficOptions{KeepAlive: keepAlive, From: "node/n1"})
			patch(t, c, "deployments/shop", `{"spec":{"template":{"metadata":{"labels":{"version":"v2"}}}}}`)
			settled(t, c, 3)
			patch(t, c, "deployments/shop", `{"spec":{"replicas":7}}`)
			settled(t, c, 7)
			patch(t, c, "deployments/shop", `{"spec":{"replicas":2}}`)
			settled(t, c, 2)
			l.stop(t)
			for _, pod := range pods(t, c, "default") {
				for _, old := range before {
					if pod.Name == old.Name || pod.Status.PodIP == old.Status.PodIP {
						t.Errorf("%s at %s was there before", pod.Name, pod.Status.PodIP)
					}
				}
			}
		})
	}
}

// settled waits until the Deployment shop has n pods, all of them new and ready, and no others are left.
func settled(t *testing.T, c *clustertest.Cluster, n int32) {
	t.Helper()
	c.Until(fmt.Sprintf("%d new pods", n), func() bool {
		d, err := c.Client.AppsV1().Deployments("default").Get(t.Context(), "shop", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n &&
			len(pods(t, c, "default")) == int(n)
	})
	c.Programmed()
}

// Chapter 7: the selector decides which version gets the traffic; the view shows expected beside observed and marks each change.
func TestACanaryMovesTheTraffic(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(strings.ReplaceAll(web("v1", "v1", 3), "version: v1}", "version: v1, track: stable}") + web("v2", "v2", 1) +
		strings.ReplaceAll(shop, "selector: {app: shop}", "selector: {track: stable}"))
	c.Ready("default", 4)
	all := startLoad(t, c, cluster.TrafficOptions{From: "pod/" + pods(t, c, "default")[0].Name})
	share := func(want float64) {
		t.Helper()
		c.Programmed()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got cluster.Sample
		o := cluster.TrafficOptions{Service: types.NamespacedName{Namespace: "default", Name: "shop"}, Rate: 400, Every: 500_000_000}
		err := c.Traffic(ctx, o, func(s cluster.Sample) error {
			if got.Sent == 0 { // the one after it is the end's
				got = s
			}
			cancel()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(got.Shares, func(s cluster.Share) bool { return s.Group == "v2" })
		if i < 0 {
			got.Shares, i = append(got.Shares, cluster.Share{}), len(got.Shares)
		}
		if s := got.Shares[i]; s.Expected != want || s.Observed < want-0.25 || s.Observed > want+0.25 || (want == 0 || want == 1) && s.Observed != want {
			t.Errorf("v2 is expected to get %v and got %v of %+v", want, s.Observed, got)
		}
	}
	var canary string
	for _, pod := range pods(t, c, "default") {
		if pod.Labels["version"] == "v2" {
			canary = pod.Name
		}
	}
	share(0)
	patch(t, c, "pods/"+canary, `{"metadata":{"labels":{"track":"stable"}}}`)
	share(0.25)
	patch(t, c, "services/shop", `{"spec":{"selector":{"track":null,"version":"v2"}}}`)
	share(1)
	patch(t, c, "services/shop", `{"spec":{"selector":{"track":null,"version":"v1"}}}`)
	share(0)
	all.stop(t)
	marks := strings.Join(all.marks, "\n")
	for _, want := range []string{"pod " + canary + ": track=stable", "selector: track=stable -> version=v2", "selector: version=v2 -> version=v1"} {
		if !strings.Contains(marks, want) {
			t.Errorf("no mark %q in %s", want, marks)
		}
	}
}
