package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/node/netns"
	"kubarium.dev/store"
)

const many = 1000 // pods

// BenchmarkAThousandPods is issue C's: from the apply of a Deployment of 1,000 built-in pods on 4 nodes until all of them are
// Ready and in effect as endpoints; and what each takes of the machine's memory beyond the idle cluster, beside what an empty
// namespace with a veth takes, made afterwards in the same run. Others' work on the machine is in the kernel's figures too.
func BenchmarkAThousandPods(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // as the daemon does (cli/memory.go)
	for b.Loop() {
		b.StopTimer()
		c := clustertest.Start(b, cluster.Options{Nodes: 4})
		scale(b, c, many) // what is learnt and remembered once, the history of changes above all, is not the pods'
		scale(b, c, 0)
		before := settled()
		b.StartTimer()
		began := time.Now()
		scale(b, c, many)
		took := time.Since(began)
		b.StopTimer()
		if n := endpoints(b, c); n != many {
			b.Fatalf("%d endpoints, want %d", n, many)
		}
		pods := settled().minus(before)
		empty := emptyNamespaces(b, many)
		b.ReportMetric(took.Seconds(), "s/all")
		b.ReportMetric(float64(pods.kernel)/many, "kernel-KiB/pod")
		b.ReportMetric(float64(pods.user)/many, "user-KiB/pod")
		b.ReportMetric(float64(empty)/many, "KiB/empty-ns")
		b.ReportMetric(float64(pods.kernel+pods.user)/float64(empty), "pod/empty-ns")
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// scale applies the Deployment, and returns when its pods are ready and in effect, and the others gone.
func scale(b *testing.B, c *clustertest.Cluster, n int) {
	b.Helper()
	c.Apply(fmt.Sprintf(deployment, n))
	c.Ready(metav1.NamespaceDefault, n)
	c.Until("the end of the others", func() bool {
		list, err := c.Store().List(b.Context(), api.Pods, store.Query{Namespace: metav1.NamespaceDefault})
		return err == nil && len(list.Items) == n
	})
}

func endpoints(b *testing.B, c *clustertest.Cluster) int {
	b.Helper()
	list, err := c.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(b.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				n++
			}
		}
	}
	return n
}

// memoryUse is in KiB.
type memoryUse struct{ user, kernel int }

func (m memoryUse) minus(o memoryUse) memoryUse {
	return memoryUse{m.user - o.user, m.kernel - o.kernel}
}

// usage is what this process keeps after a collection, and what the kernel has given out, caches of files left out as far as it
// tells them apart.
func usage() memoryUse {
	debug.FreeOSMemory()
	m := memoryUse{}
	for key, kib := range figures("/proc/self/smaps_rollup") {
		if key == "Pss_Anon" || key == "Pss_Shmem" {
			m.user += kib
		}
	}
	for key, kib := range figures("/proc/meminfo") {
		switch key {
		case "Slab", "Percpu", "KernelStack", "PageTables", "VmallocUsed":
			m.kernel += kib
		}
	}
	return m
}

// settled is usage once the kernel has done away with what was there before: it takes namespaces down after the last descriptor
// is closed, one after another.
func settled() memoryUse {
	least, same := usage(), 0
	for same < 20 {
		m := usage()
		same++
		if m.kernel < least.kernel-100 {
			same = 0
		}
		least.kernel, least.user = min(least.kernel, m.kernel), m.user
	}
	return least
}

func figures(path string) map[string]int {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	out := map[string]int{}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) > 1 {
			out[strings.TrimSuffix(words[0], ":")], _ = strconv.Atoi(words[1])
		}
	}
	return out
}

// emptyNamespaces is how much memory, in KiB, so many namespaces take that hold nothing but one end of a veth each.
func emptyNamespaces(b *testing.B, n int) int {
	b.Helper()
	hub, err := netns.New()
	if err != nil {
		b.Fatal(err)
	}
	defer hub.Close()
	before := settled()
	var lines strings.Builder
	for i := range n {
		ns, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		defer ns.Close()
		fmt.Fprintf(&lines, "link add v%d type veth peer name eth0 netns /proc/%d/fd/%d\n", i, os.Getpid(), ns.FD())
	}
	cmd := exec.Command("ip", "-batch", "-")
	var errs strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(lines.String()), &errs
	if err := hub.Start(cmd); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("make veths: %v\n%s", err, errs.String())
	}
	used := settled().minus(before)
	return used.kernel + used.user
}

// BenchmarkCommandPod is the time from sending the write of a pod with a command until its status says that it runs, with the
// real program as its first process. No pod ends meanwhile: the kernel takes a namespace down long after the pod has gone, and
// lets nobody make one while it does.
func BenchmarkCommandPod(b *testing.B) {
	c := clustertest.Start(b, cluster.Options{Program: built(b)})
	pods := c.Client.CoreV1().Pods(metav1.NamespaceDefault)
	var took []time.Duration
	for b.Loop() {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("jump-", len(took))},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "jump", Command: []string{"sleep", "1000"}}}},
		}
		began := time.Now()
		if _, err := pods.Create(b.Context(), pod, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		c.Until(pod.Name+" runs", func() bool {
			got, err := store.Get[*corev1.Pod](c.Store(), api.Pods, metav1.NamespaceDefault, pod.Name)
			return err == nil && got.Status.Phase == corev1.PodRunning
		})
		took = append(took, time.Since(began))
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "p99-ms")
}

const comeback = 200 // pods, ten to a Service

// BenchmarkRestart is the time from starting the program again, after its daemon was killed with 200 pods, until every Service
// answers: with the same pods at the same addresses.
func BenchmarkRestart(b *testing.B) {
	p := newProgram(b)
	p.run(b, "up")
	b.Cleanup(func() { p.run(b, "down") })
	manifest := b.TempDir() + "/all.yaml"
	var ports []string
	var text strings.Builder
	for i := range comeback / 10 {
		fmt.Fprintf(&text, comebackYAML, i, i, i, i, 31000+i)
		ports = append(ports, strconv.Itoa(31000+i))
	}
	if err := os.WriteFile(manifest, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	p.run(b, "apply", "-f", manifest)
	p.run(b, "wait", "--for=condition=Available", "--timeout=60s", "deployments", "--all")
	pods := func() string {
		return p.run(b, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}`)
	}
	before := pods()
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		s := p.status(b)
		if err := exec.Command("kill", "-9", strconv.Itoa(s.PID)).Run(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		p.run(b, "up")
		for _, port := range ports {
			answer(b, net.JoinHostPort(s.Nodes[0].Loopback.String(), port))
		}
		took = append(took, time.Since(began))
		b.StopTimer()
		if after := pods(); after != before {
			b.Fatalf("got pods\n%swant\n%s", after, before)
		}
		b.StartTimer()
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "max-ms")
}

const comebackYAML = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-%d}
spec:
  replicas: 10
  selector: {matchLabels: {app: web-%d}}
  template:
    metadata: {labels: {app: web-%d}}
    spec:
      containers: [{name: web, image: "web:1", ports: [{containerPort: 80}], readinessProbe: {httpGet: {path: /readyz, port: 80}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web-%[1]d}
spec: {type: NodePort, selector: {app: web-%[1]d}, ports: [{port: 80, nodePort: %[5]d}]}
---
`

// answer asks for a page until there is one.
func answer(b *testing.B, address string) {
	b.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			continue
		}
		pod := whoAnswers(conn)
		conn.Close()
		if pod != "" {
			return
		}
	}
	b.Fatalf("%s does not answer", address)
}

// whoAnswers asks the built-in application who it is; "" when nobody answers.
func whoAnswers(conn net.Conn) string {
	conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "pod: "); ok {
			return name
		}
	}
	return ""
}
