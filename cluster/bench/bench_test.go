// Package bench measures what kubarium promises: the figures of the README. `make bench` runs it; no test depends on time.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/node"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// built builds the program as `make build` does, once for a benchmark.
func built(b *testing.B) string {
	b.Helper()
	bin := filepath.Join(b.TempDir(), "kubarium")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "kubarium.dev/cmd/kubarium")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

type program struct {
	bin, state string
	env        []string
}

func (p program) run(b *testing.B, words ...string) string {
	b.Helper()
	cmd := exec.Command(p.bin, words...)
	cmd.Env = p.env
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("kubarium %s: %v\n%s", strings.Join(words, " "), err, errs.String())
	}
	return string(out)
}

func (p program) status(b *testing.B) (s cluster.Status) {
	b.Helper()
	if err := json.Unmarshal([]byte(p.run(b, "status", "-o", "json")), &s); err != nil {
		b.Fatal(err)
	}
	return s
}

func newProgram(b *testing.B) program {
	state := b.TempDir()
	return program{bin: built(b), state: state, env: append(os.Environ(), "CI=true", "XDG_STATE_HOME="+state, "KUBARIUM_NAME=bench")}
}

// BenchmarkUp is `kubarium up` of two nodes, as a user waits for it: from the process's start until a pod resolved and
// reached a Service. Beside the mean it reports the median.
func BenchmarkUp(b *testing.B) {
	p := newProgram(b)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		p.run(b, "up")
		took = append(took, time.Since(began))
		b.StopTimer()
		p.run(b, "down")
		b.StartTimer()
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "max-ms")
}

// BenchmarkIdleMemory is the proportional set size of every process of a fresh cluster of two nodes.
func BenchmarkIdleMemory(b *testing.B) {
	p := newProgram(b)
	p.run(b, "up")
	b.Cleanup(func() { p.run(b, "down") })
	var s cluster.Status
	for b.Loop() {
		s = p.status(b)
	}
	b.ReportMetric(float64(s.MemoryKiB)/1024, "MiB")
}

const held = 1000 // Services that exist while one more is written

// BenchmarkServiceToFirstConnection is the time from sending the write of a Service to the first TCP connection through its
// ClusterIP from the other node, with 1,000 Services held, over HTTPS with a durable store.
func BenchmarkServiceToFirstConnection(b *testing.B) {
	c := clustertest.Start(b, cluster.Options{})
	c.Apply(backend)
	for i := range held {
		create(b, c, fmt.Sprintf("held-%d", i))
	}
	c.Programmed()
	dial, err := c.Dialer("node/n2", "")
	if err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	n := 0
	for b.Loop() {
		n++
		began := time.Now()
		svc := create(b, c, fmt.Sprintf("new-%d", n))
		first(b, dial, net.JoinHostPort(svc.Spec.ClusterIP, "80"))
		took = append(took, time.Since(began))
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "p99-ms")
}

const backend = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]
`

func create(b *testing.B, c *clustertest.Cluster, name string) *corev1.Service {
	b.Helper()
	svc, err := c.Client.CoreV1().Services("default").Create(b.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return svc
}

// first connects as soon as the address answers: until then the kernel refuses or drops, and the next try follows at once.
func first(b *testing.B, dial node.DialFunc, address string) {
	b.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(b.Context(), 3*time.Millisecond)
		conn, err := dial(ctx, "tcp", address)
		cancel()
		if err == nil {
			conn.Close()
			return
		}
	}
	b.Fatalf("%s does not answer", address)
}

func percentile(d []time.Duration, p int) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[min(len(d)*p/100, len(d)-1)].Microseconds()) / 1000
}
