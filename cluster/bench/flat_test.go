package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/node"
)

func report(b *testing.B, took []time.Duration) {
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 99), "p99-ms")
}

// written is the write of a Service, its slice first, to the first connection through it.
func (t *town) written(b *testing.B) {
	var took []time.Duration
	for b.Loop() {
		name := t.name()
		svc, began := t.create(name)
		took = append(took, t.reach(address80(svc)).Sub(began))
		b.StopTimer()
		t.delete(name)
		t.deleteSlice(name)
		b.StartTimer()
	}
	report(b, took)
}

// BenchmarkFlat is issue D's: what a change takes until it is seen in packets, at 1,000 and at 20,000 Services of 5 endpoints, over
// HTTPS with a durable store, the client on the other node.
func BenchmarkFlat(b *testing.B) {
	t := newTown(b, 5)
	for _, n := range []int{1000, 20000} {
		b.Logf("%d Services in effect %v after the first was written into the store", n, t.grow(n))
		at := strconv.Itoa(n)
		b.Run("write-to-first-connection/"+at, t.written)
		b.Run("delete-to-refused/"+at, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				b.StopTimer()
				name := t.name()
				svc, _ := t.create(name)
				t.reach(address80(svc))
				b.StartTimer()
				began := time.Now()
				t.delete(name)
				took = append(took, t.lose(address80(svc)).Sub(began))
				b.StopTimer()
				t.deleteSlice(name)
				b.StartTimer()
			}
			report(b, took)
		})
		b.Run("ready-to-first-connection/"+at, t.becomesReady)
	}
	b.Run("cold-start/"+strconv.Itoa(t.held), t.coldStart)
}

// coldStart is from the start of a cluster, whose store holds the Services, until each of them has answered on the second node. The
// cluster before it is still in this process's memory, which costs the collector time: BenchmarkDaemon's figure is the program's own. It
// is done once, however often the benchmark is to run; what is repeated is one connection.
func (t *town) coldStart(b *testing.B) {
	t.must(t.Close())
	began := time.Now()
	up := t.begin()
	t.reachAll()
	all := time.Since(began)
	for b.Loop() {
		t.reach(net.JoinHostPort(townIP(t.held-1), "80"))
	}
	b.ReportMetric(up.Seconds(), "s-until-usable")
	b.ReportMetric(all.Seconds(), "s-until-all-answered")
}

// reachAll connects through each of the Services held.
func (t *town) reachAll() {
	t.b.Helper()
	ctx, cancel := context.WithTimeout(t.b.Context(), time.Minute)
	defer cancel()
	var callers errgroup.Group
	const callersCount = 4
	for k := range callersCount {
		callers.Go(func() error {
			for i := k; i < t.held; i += callersCount {
				conn, err := t.dial(ctx, "tcp", net.JoinHostPort(townIP(i), "80"))
				if err != nil {
					return fmt.Errorf("Service %d: %w", i, err)
				}
				conn.Close()
			}
			return nil
		})
	}
	t.must(callers.Wait())
}

// BenchmarkConnect is the time to connect through a Service with 100 and with 20,000 held, and to its endpoint without any Service: a
// connection of each after the other, in one run.
func BenchmarkConnect(b *testing.B) {
	few, many := newTown(b, 5), newTown(b, 5)
	few.grow(100)
	many.grow(20000)
	ways := []struct {
		name    string
		dial    node.DialFunc
		address string
	}{
		{"direct", few.dial, netip.AddrPortFrom(few.endpoint(99, 0), endpointPort).String()},
		{"100", few.dial, net.JoinHostPort(townIP(99), "80")},
		{"direct-beside-20000", many.dial, netip.AddrPortFrom(many.endpoint(19999, 0), endpointPort).String()},
		{"20000", many.dial, net.JoinHostPort(townIP(19999), "80")},
	}
	took := make([][]time.Duration, len(ways))
	for b.Loop() {
		for i, w := range ways {
			began := time.Now()
			conn, err := w.dial(b.Context(), "tcp", w.address)
			took[i] = append(took[i], time.Since(began))
			if err != nil {
				b.Fatalf("%s: %v", w.name, err)
			}
			conn.Close()
		}
	}
	for i, w := range ways {
		b.ReportMetric(percentile(took[i], 50)*1000, w.name+"-p50-µs")
		b.ReportMetric(percentile(took[i], 99)*1000, w.name+"-p99-µs")
	}
}

// BenchmarkManyEndpoints is 5,000 Services of 50 endpoints each: loading all into a store and a cluster that runs, a write to the first
// connection, and one endpoint more to the ruleset of every node.
func BenchmarkManyEndpoints(b *testing.B) {
	t := newTown(b, 50)
	took := t.grow(5000)
	t.reachAll()
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			t.reach(net.JoinHostPort(townIP(t.held-1), "80"))
		}
		b.ReportMetric(took.Seconds(), "s-written-and-in-effect")
	})
	b.Run("write-to-first-connection", t.written)
	b.Run("scale-to-in-effect", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			t.endpoints = 99 - t.endpoints // 49, then 50, and so on
			s, err := t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(b.Context(), "held-7", metav1.GetOptions{})
			t.must(err)
			s.Endpoints = t.slice("held-7", 7).Endpoints
			began := time.Now()
			_, err = t.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Update(b.Context(), s, metav1.UpdateOptions{})
			t.must(err)
			t.Programmed()
			took = append(took, time.Since(began))
		}
		report(b, took)
	})
	t.endpoints = 50
	b.Run("cold-start", t.coldStart)
}

// gated is a pod whose readiness this benchmark decides, and its Service.
const gated = `
apiVersion: v1
kind: Pod
metadata: {name: gated, labels: {app: gated}}
spec:
  nodeName: n1
  readinessGates: [{conditionType: bench/open}]
  containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: gated}
spec: {selector: {app: gated}, ports: [{port: 80}]}
`

// becomesReady is a pod that becomes Ready, as the store has it, to the first connection to it through its Service.
func (t *town) becomesReady(b *testing.B) {
	t.Apply(gated)
	defer func() {
		t.must(t.Client.CoreV1().Pods(metav1.NamespaceDefault).Delete(b.Context(), "gated", metav1.DeleteOptions{}))
		t.must(t.Client.CoreV1().Services(metav1.NamespaceDefault).Delete(b.Context(), "gated", metav1.DeleteOptions{}))
	}()
	svc, err := t.Client.CoreV1().Services(metav1.NamespaceDefault).Get(b.Context(), "gated", metav1.GetOptions{})
	t.must(err)
	t.Until("the pod runs", func() bool {
		p := t.pod()
		return p.Status.PodIP != "" && p.Status.Phase == corev1.PodRunning
	})
	var took, fromGate []time.Duration
	for b.Loop() {
		ready := make(chan time.Time, 1)
		go func() { ready <- t.whenReady() }()
		began := time.Now()
		t.gate(corev1.ConditionTrue)
		stood := t.reach(address80(svc))
		fromGate, took = append(fromGate, stood.Sub(began)), append(took, stood.Sub(<-ready))
		b.StopTimer()
		t.gate(corev1.ConditionFalse)
		t.lose(address80(svc))
		t.Until("the pod is not ready", func() bool { return !api.Ready(t.pod()) })
		t.Programmed()
		b.StartTimer()
	}
	report(b, took)
	b.ReportMetric(percentile(fromGate, 50), "p50-ms-with-the-gate's-write")
}

func (t *town) pod() *corev1.Pod {
	obj, err := t.Store().Get(api.Pods, metav1.NamespaceDefault, "gated")
	t.must(err)
	return obj.(*corev1.Pod)
}

// whenReady returns when the store tells that the pod is Ready.
func (t *town) whenReady() time.Time {
	ctx, cancel := context.WithTimeout(t.b.Context(), 10*time.Second)
	defer cancel()
	w, err := t.Store().Watch(ctx, t.Store().Revision(), api.Pods)
	if err != nil {
		t.b.Error(err)
		return time.Now()
	}
	defer w.Close()
	for !api.Ready(t.pod()) {
		if _, err := w.Next(ctx); err != nil {
			t.b.Error(err)
			break
		}
	}
	return time.Now()
}

func (t *town) gate(status corev1.ConditionStatus) {
	t.b.Helper()
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"bench/open","status":%q}]}}`, status)
	_, err := t.Client.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.b.Context(), "gated", "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
	t.must(err)
}
