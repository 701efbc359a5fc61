package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

const (
	flapping = 8                      // Services whose first pod becomes unready, again and again
	calling  = 50 * time.Millisecond  // for how long one is called once its pod has failed
	every    = 500 * time.Microsecond // a connection; without a pause the calls themselves would be what is measured
)

// BenchmarkProbeToLastConnection is the time from the answer of a readiness probe that crosses failureThreshold to the last new
// connection, begun at another node, that still reached the pod. Each Service has two pods; the first one's probe asks a server of
// this benchmark, which says no every second time; then the Service is called twice a millisecond.
func BenchmarkProbeToLastConnection(b *testing.B) {
	c := clustertest.Start(b, cluster.Options{})
	answers := make(chan failure)
	serveProbes(b, c, answers)
	apart := time.NewTicker(2 * time.Second / flapping) // so that their probes fail one after another
	defer apart.Stop()
	for i := range flapping {
		<-apart.C
		c.Apply(strings.ReplaceAll(flappingYAML, "NAME", fmt.Sprint("flap-", i)))
		c.Programmed()
	}
	dial, err := c.Dialer("node/n2", "")
	if err != nil {
		b.Fatal(err)
	}
	targets := map[string]string{}
	for i := range flapping {
		name := fmt.Sprint("flap-", i)
		c.Until("the Service "+name, func() bool {
			svc, err := c.Client.CoreV1().Services("default").Get(b.Context(), name, metav1.GetOptions{})
			if err == nil && svc.Spec.ClusterIP != "" {
				targets[name] = net.JoinHostPort(svc.Spec.ClusterIP, "80")
			}
			return targets[name] != ""
		})
	}
	var took []time.Duration
	tick := time.NewTicker(every)
	defer tick.Stop()
	for b.Loop() {
		f := <-answers
		var late time.Duration
		for now := range tick.C {
			if now.Sub(f.at) > calling {
				break
			}
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			conn, err := dial(ctx, "tcp", targets[f.name])
			at := time.Now()
			cancel()
			if err != nil {
				b.Fatalf("call %s: %v", f.name, err)
			}
			if whoAnswers(conn) == f.name {
				late = at.Sub(f.at)
			}
			conn.Close()
		}
		took = append(took, late)
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "p99-ms")
}

// failure is a probe that was answered with no.
type failure struct {
	name string
	at   time.Time
}

// serveProbes answers the probes of the flapping pods, each by its name in the path: yes, no, yes, no. The ends of those that nobody
// waits for are not told.
func serveProbes(b *testing.B, c *clustertest.Cluster, answers chan<- failure) {
	b.Helper()
	ln, err := c.Listen(b.Context(), "node/n1", "tcp", "172.30.0.11:9999")
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	asked := map[string]int{}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		n := asked[r.URL.Path]
		mu.Unlock()
		if n%2 == 1 {
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		http.NewResponseController(w).Flush()
		select {
		case answers <- failure{strings.TrimPrefix(r.URL.Path, "/"), time.Now()}:
		default:
		}
	})}
	b.Cleanup(func() { srv.Close() })
	go srv.Serve(ln)
}

const flappingYAML = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  nodeName: n1
  containers:
  - name: web
    image: web:1
    ports: [{containerPort: 80}]
    readinessProbe: {httpGet: {host: 172.30.0.11, port: 9999, path: /NAME}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: NAME-other, labels: {app: NAME}}
spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{port: 80}]}
`
