package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"kubarium.dev/cluster"
)

// writers is how many clients write at a time: the store commits those that wait together.
const writers = 32

// restarts are how often the program is started with all Services held; the figure is the median.
const restarts = 3

// BenchmarkDaemon is what the program itself takes for 20,000 Services of 5 endpoints on 2 nodes: the time to write them over
// HTTPS, the memory of all its processes once they are in effect and after a restart, that restart, and the chains and rules of
// a node beside those at 20 Services. It is done once, however often the benchmark is to run; what is repeated is asking for the status.
func BenchmarkDaemon(b *testing.B) {
	p := newProgram(b)
	p.run(b, "up")
	b.Cleanup(func() { p.run(b, "down") })
	figures := map[string]float64{} // told at the end: the loop forgets what was told before
	client := p.client(b)
	p.load(b, client, 0, 20)
	fewChains, fewRules := p.shape(b)
	figures["MiB-at-20"] = float64(p.status(b).MemoryKiB) / 1024
	began := time.Now()
	p.load(b, client, 20, 20000)
	figures["s-written-and-in-effect"] = time.Since(began).Seconds()
	figures["MiB-written"] = float64(p.status(b).MemoryKiB) / 1024
	figures["MiB-written-and-quiet"] = p.quiet(b)
	chains, rules := p.shape(b)
	var up, cpu []time.Duration
	for range restarts {
		p.run(b, "down", "--keep-data")
		began = time.Now()
		p.run(b, "up")
		up = append(up, time.Since(began))
		cpu = append(cpu, p.cpu(b))
	}
	figures["MiB-started-and-quiet"] = p.quiet(b)
	figures["cpu-s-up-again"] = percentile(cpu, 50) / 1000
	figures["s-up-again"] = percentile(up, 50) / 1000
	var s cluster.Status
	for b.Loop() {
		s = p.status(b)
	}
	b.ReportMetric(float64(s.MemoryKiB)/1024, "MiB-started")
	b.ReportMetric(float64(chains), "chains")
	b.ReportMetric(float64(rules), "rules")
	for unit, value := range figures {
		b.ReportMetric(value, unit)
	}
	if chains != fewChains || rules != fewRules {
		b.Errorf("%d chains and %d rules at 20,000 Services, %d and %d at 20", chains, rules, fewChains, fewRules)
	}
}

// quiet is the daemon's memory, in MiB, some time after the last write: it gives back what a burst left behind.
func (p program) quiet(b *testing.B) float64 {
	b.Helper()
	<-time.After(12 * time.Second)
	return float64(p.status(b).MemoryKiB) / 1024
}

// cpu is the processor time that the daemon has taken so far. Unlike time on the clock it tells the same on a machine that others use.
func (p program) cpu(b *testing.B) time.Duration {
	b.Helper()
	var clusters []struct{ PID int }
	if err := json.Unmarshal([]byte(p.run(b, "list", "-o", "json")), &clusters); err != nil || len(clusters) != 1 {
		b.Fatalf("list: %v, %v", clusters, err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", clusters[0].PID))
	if err != nil || len(tasks) == 0 {
		b.Fatalf("the daemon's threads: %v, %v", tasks, err)
	}
	var sum time.Duration
	for _, task := range tasks {
		raw, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		if ns, err := strconv.ParseInt(strings.Fields(string(raw))[0], 10, 64); err == nil {
			sum += time.Duration(ns)
		}
	}
	return sum
}

// client speaks to the program's cluster.
func (p program) client(b *testing.B) kubernetes.Interface {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join(p.state, "kubarium", "bench", "kubeconfig"))
	if err != nil {
		b.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	return client
}

// load writes Services with their slices, many at a time, and returns when all are in effect.
func (p program) load(b *testing.B, client kubernetes.Interface, from, to int) {
	b.Helper()
	t := &town{b: b, endpoints: 5}
	var all errgroup.Group
	all.SetLimit(writers)
	for i := from; i < to; i++ {
		all.Go(func() error {
			name := fmt.Sprint("held-", i)
			_, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(b.Context(), t.slice(name, i), metav1.CreateOptions{})
			if err == nil {
				_, err = client.CoreV1().Services(metav1.NamespaceDefault).Create(b.Context(), townService(name, ""), metav1.CreateOptions{})
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		b.Fatal(err)
	}
	p.run(b, "wait", "--for=programmed", "--all", "--timeout=120s")
}

// shape counts the chains and rules of a node.
func (p program) shape(b *testing.B) (chains, rules int) {
	b.Helper()
	var listed struct {
		Nftables []map[string]json.RawMessage `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(p.run(b, "shell", "node/n1", "--", "nft", "-j", "-t", "list", "table", "ip", "kubarium")), &listed); err != nil {
		b.Fatal(err)
	}
	for _, o := range listed.Nftables {
		if _, ok := o["chain"]; ok {
			chains++
		}
		if _, ok := o["rule"]; ok {
			rules++
		}
	}
	return chains, rules
}
