package node

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// handlers are the four kinds of question, each well answered by the built-in application, and not.
func handlers(well bool) map[string]corev1.ProbeHandler {
	port, path, command := int32(80), "/healthz", "true"
	if !well {
		port, path, command = 81, "/status/503", "false"
	}
	return map[string]corev1.ProbeHandler{
		"http": {HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(80)}},
		"tcp":  {TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port)}},
		"exec": {Exec: &corev1.ExecAction{Command: []string{command}}},
		"grpc": {GRPC: &corev1.GRPCAction{Port: port}},
	}
}

// N-9: four kinds, three probes: a failing startup or liveness probe restarts, a failing readiness probe makes unready, and all
// that succeed make ready.
func TestEveryKindOfProbeDoesWhatEachProbeIsFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	probe := func(h corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 10}
	}
	good, bad := handlers(true), handlers(false)
	pods := map[string]*corev1.Pod{}
	for kind := range good {
		for _, which := range []string{"none", "startup", "readiness", "liveness"} {
			pod := webPod(kind + "-" + which)
			c := &pod.Spec.Containers[0]
			c.StartupProbe, c.ReadinessProbe, c.LivenessProbe = probe(good[kind]), probe(good[kind]), probe(good[kind])
			switch which {
			case "startup":
				c.StartupProbe = probe(bad[kind])
			case "readiness":
				c.ReadinessProbe = probe(bad[kind])
			case "liveness":
				c.LivenessProbe = probe(bad[kind])
			}
			b.create(pod)
			pods[pod.Name] = pod
		}
	}
	for name, pod := range pods {
		switch _, which, _ := strings.Cut(name, "-"); which {
		case "none":
			b.awaitReady(pod)
			if got := b.reasons(pod); got["Unhealthy"] != 0 {
				t.Errorf("%s: got %v", name, got)
			}
		case "readiness":
			b.awaitEvent(pod, "Unhealthy")
			got := b.await(pod, "started", func(p *corev1.Pod) bool { return *p.Status.ContainerStatuses[0].Started })
			if s := got.Status.ContainerStatuses[0]; s.Ready || s.RestartCount != 0 || s.State.Running == nil {
				t.Errorf("%s: got %+v", name, s)
			}
		default:
			b.await(pod, "restarted", func(p *corev1.Pod) bool {
				return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount >= 1
			})
			if m := b.message(pod, "Killing"); m != "Container web failed "+which+" probe, will be restarted" {
				t.Errorf("%s: got %q", name, m)
			}
		}
	}
}

// N-9: initialDelaySeconds, periodSeconds and failureThreshold, to the second, with Kubernetes' defaults for what is left out.
func TestProbesAskWhenTheirManifestSays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		probe corev1.Probe
		want  []string
	}{
		{corev1.Probe{}, []string{"0s false", "10s false", "20s true"}},
		{corev1.Probe{InitialDelaySeconds: 7, PeriodSeconds: 3, FailureThreshold: 2}, []string{"7s false", "10s true"}},
		{corev1.Probe{PeriodSeconds: 5, FailureThreshold: 1}, []string{"0s true"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &worker{inbox: make(chan any), left: make(chan struct{})}
			began := time.Now()
			a := asker{c: &container{w: w, spec: &corev1.Container{}}, r: &run{began: began}, kind: readiness, p: &tt.probe}
			a.p.TCPSocket = &corev1.TCPSocketAction{Port: intstr.FromInt32(80)} // of a pod without a network: it fails at once
			go a.run(t.Context())
			var got []string
			for range tt.want {
				m := (<-w.inbox).(probed)
				got = append(got, fmt.Sprint(time.Since(began), " ", m.verdict))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%+v: (-want +got)\n%s", tt.probe, diff)
			}
		})
	}
}

// N-9: an answer that comes too late is none: timeoutSeconds.
func TestAProbeDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("slow")
	pod.Spec.Containers[0].ReadinessProbe = httpProbe("/delay/60")
	b.create(pod)
	b.awaitEvent(pod, "Unhealthy")
	if m := b.message(pod, "Unhealthy"); !strings.Contains(m, "deadline exceeded") {
		t.Errorf("got %q", m)
	}
}

// N-9, N-21: a probe comes from the node, with the node's address.
func TestAProbeComesFromTheNode(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ln, err := b.NS().Listen(t.Context(), "tcp4", "172.30.0.11:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pod := webPod("web-1")
	probe := httpProbe("/")
	probe.HTTPGet.Host, probe.HTTPGet.Port = "172.30.0.11", intstr.FromInt32(8080)
	pod.Spec.Containers[0].LivenessProbe = probe
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80)}}}
	b.create(pod)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from, _, _ := strings.Cut(conn.RemoteAddr().String(), ":"); from != "172.30.0.11" {
		t.Errorf("a probe came from %s", from)
	}
}
