package cluster_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// Issue D: a new pod is isolated before it is started: what it does first, a NetworkPolicy that was there before it denies already.
func TestANewPodIsIsolatedBeforeItStarts(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(on("n1") + `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-way-out}
spec: {podSelector: {matchLabels: {app: shut}}, policyTypes: [Egress]}
---
`)
	c.Ready("default", 1)
	c.Programmed()
	host, port, err := net.SplitHostPort(addressOf(t, c, "web-n1"))
	if err != nil {
		t.Fatal(err)
	}
	const n = 8
	run := func(app string) (reached int) {
		t.Helper()
		var all strings.Builder
		for i := range n {
			fmt.Fprintf(&all, `
apiVersion: v1
kind: Pod
metadata: {name: %s-%d, labels: {app: %[1]s}}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: tools, command: [timeout, "0.3", bash, -c, "exec 3<>/dev/tcp/%[3]s/%[4]s"]}
---
`, app, i, host, port)
		}
		c.Apply(all.String())
		c.Until("all have tried", func() bool {
			ended := 0
			reached = 0
			for _, p := range pods(t, c, "default") {
				if p.Labels["app"] != app {
					continue
				}
				switch p.Status.Phase {
				case corev1.PodSucceeded:
					ended++
					reached++
				case corev1.PodFailed:
					ended++
				}
			}
			return ended == n
		})
		return reached
	}
	if got := run("open"); got != n {
		t.Fatalf("%d of %d pods that no policy selects reached the other one", got, n)
	}
	if got := run("shut"); got != 0 {
		t.Errorf("%d of %d isolated pods reached the other one as they started", got, n)
	}
}
