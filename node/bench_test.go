package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Issue 4: what a pod's network costs while nothing else happens; the kernel's part of it is about half a millisecond.
func BenchmarkAThousandNetworksAreMade(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		f := newWire(b)
		m, err := f.attach("n1", netip.MustParseAddr("172.30.0.11"), netip.MustParsePrefix("10.244.0.0/20"))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		var nets []*podNet
		for range 1000 {
			ip, err := m.takeIP(netip.Addr{})
			if err != nil {
				b.Fatal(err)
			}
			p, err := m.addPod(ip, nil)
			if err != nil {
				b.Fatal(err)
			}
			nets = append(nets, p)
		}
		b.StopTimer()
		for _, p := range nets {
			if err := p.close(); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
}

// N-19, issue 4: from the write of a thousand pods on one node to the last one that is ready.
func BenchmarkAThousandBuiltInPodsGetReady(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		x := newBench(b, func(c *NodeConfig) { c.PodCIDR = netip.MustParsePrefix("10.244.0.0/20") })
		if err := x.Registered(b.Context()); err != nil {
			b.Fatal(err)
		}
		w, err := x.store.Watch(b.Context(), x.store.Revision(), api.Pods)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		for i := range 1000 {
			x.create(webPod(fmt.Sprint("web-", i)))
		}
		ready := map[string]bool{}
		for len(ready) < 1000 {
			batch, err := w.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			for _, e := range batch.Events {
				if e.Type != store.Deleted && isReady(e.Object.(*corev1.Pod)) {
					ready[e.Object.GetName()] = true
				}
			}
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds())/1000, "ms/pod")
		b.StopTimer()
		w.Close()
		x.stop()
		b.StartTimer()
	}
}

// Issue 4: a pod with a command, from create to running. The kernel takes a namespace down long after the pod has gone, and
// lets nobody make one meanwhile: so no pod ends here.
func BenchmarkACommandPodRuns(b *testing.B) {
	x := newBench(b, func(c *NodeConfig) { c.PodCIDR = netip.MustParsePrefix("10.244.0.0/20") })
	var took []time.Duration
	for b.Loop() {
		pod := commandPod(fmt.Sprint("jump-", len(took)), "sleep", "1000")
		began := time.Now()
		x.create(pod)
		x.awaitReady(pod)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}

// Issue 4: after the daemon's end, 200 pods are ready again at the addresses they had.
func BenchmarkTwoHundredPodsComeBack(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		x := newBench(b, nil)
		var pods []*corev1.Pod
		for i := range 200 {
			pods = append(pods, webPod(fmt.Sprint("web-", i)))
			x.create(pods[i])
		}
		for _, pod := range pods {
			x.awaitReady(pod)
		}
		x.stop()
		b.StartTimer()
		x.boot()
		for _, pod := range pods {
			x.await(pod, "back", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
		}
		b.StopTimer()
		x.stop()
		b.StartTimer()
	}
}
