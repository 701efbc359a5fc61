package cluster_test

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// Issue D: what namespaces leave open a NetworkPolicy closes, at once when it is programmed, and opens again when it goes.
func TestANetworkPolicyClosesWhatNamespacesLeaveOpen(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2) + shop + web("client", "v1", 1))
	c.Ready("default", 3)
	var client string
	for _, pod := range pods(t, c, "default") {
		if pod.Labels["app"] == "client" {
			client = "pod/default/" + pod.Name
		}
	}
	ask(t, c.HTTP(client), "http://10.96.0.88/")
	c.Apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: shop}}, policyTypes: [Ingress]}
`)
	c.Programmed()
	dial, err := c.Dialer(client, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if conn, err := dial(ctx, "tcp", "10.96.0.88:80"); err == nil {
		conn.Close()
		t.Error("a closed pod answers")
	}
	if err := c.Client.NetworkingV1().NetworkPolicies("default").Delete(t.Context(), "closed", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Programmed()
	ask(t, c.HTTP(client), "http://10.96.0.88/")
}
