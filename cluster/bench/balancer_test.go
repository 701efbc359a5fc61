package bench

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

const balancedYAML = `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-n1, labels: {app: shop}}
spec: {nodeName: n1, containers: [{name: web, image: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-n2, labels: {app: shop}}
spec: {nodeName: n2, containers: [{name: web, image: web}]}
`

// BenchmarkLoadBalancerMoves is P-60's time: from sending the write after which one node of two has a Service's endpoint no longer, or
// has it again, until outside's way to the Service's address has moved. The barrier that ends it waits for more, so the figure is
// an upper bound.
func BenchmarkLoadBalancerMoves(b *testing.B) {
	c := clustertest.Start(b, cluster.Options{})
	c.Apply(balancedYAML)
	c.Ready("default", 2)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"app":%q}}}`, []string{"other", "shop"}[n%2])
		began := time.Now()
		if _, err := c.Client.CoreV1().Pods("default").Patch(b.Context(), "web-n1", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
		c.Programmed()
		took = append(took, time.Since(began))
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "p99-ms")
}
