//go:build soak

package cluster_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

var soakFor = flag.Duration("soak", 10*time.Minute, "how long TestSoak goes on")

// TestSoak changes everything at random under load for a long time: no request may be lost, and in the end nothing may have grown.
func TestSoak(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Nodes: 3})
	c.Apply(web("shop", "v1", 3) + shop)
	c.Ready("default", 3)
	spaces, files := len(c.Namespaces()), openFiles(t)
	fresh := startLoad(t, c, cluster.TrafficOptions{From: "node/n1"})
	kept := startLoad(t, c, cluster.TrafficOptions{From: "node/n2", KeepAlive: true})
	began, n := time.Now(), int32(3)
	changes := map[string]int{}
	for round := 0; time.Since(began) < *soakFor; round++ {
		var what string
		switch rand.IntN(4) {
		case 0:
			what, n = "scale", 1+rand.Int32N(12)
			patch(t, c, "deployments/shop", fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
		case 1:
			what = "replace"
			patch(t, c, "deployments/shop", fmt.Sprintf(`{"spec":{"template":{"metadata":{"labels":{"version":"v%d"}}}}}`, round))
		case 2:
			what = "canary"
			canary := pods(t, c, "default")[0]
			patch(t, c, "pods/"+canary.Name, fmt.Sprintf(`{"metadata":{"labels":{"round":"%d"}}}`, round))
			patch(t, c, "services/shop", fmt.Sprintf(`{"spec":{"selector":{"round":"%d"}}}`, round))
			c.Programmed()
			patch(t, c, "services/shop", `{"spec":{"selector":{"round":null}}}`)
		case 3:
			what = "services"
			churnServices(t, c, round)
		}
		settled(t, c, n)
		changes[what]++
	}
	patch(t, c, "deployments/shop", `{"spec":{"replicas":3}}`)
	settled(t, c, 3)
	fresh.stop(t)
	kept.stop(t)
	if got := len(c.Namespaces()); got != spaces {
		t.Errorf("%d network namespaces, %d at the beginning", got, spaces)
	}
	if got := openFiles(t); got > files+20 { // connections of the last moments may still be closing
		t.Errorf("%d open files, %d at the beginning", got, files)
	}
	t.Logf("%v: %v changes; %d requests on connections of their own, %d on kept-alive ones, none lost; open files %d, then %d",
		soakFor, changes, fresh.last.Sent, kept.last.Sent, files, openFiles(t))
}

// churnServices makes Services, and takes them away again.
func churnServices(t *testing.T, c *clustertest.Cluster, round int) {
	t.Helper()
	services := c.Client.CoreV1().Services("default")
	for i := range 20 {
		_, err := services.Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("churn-%d-%d", round, i)},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Programmed()
	for i := range 20 {
		if err := services.Delete(t.Context(), fmt.Sprintf("churn-%d-%d", round, i), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestSoakManyPodsComeAndGo is issue C's churn at its full size.
func TestSoakManyPodsComeAndGo(t *testing.T) { t.Log(churn(t, 2000, 12)) }
