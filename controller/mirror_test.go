package controller

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// E-7: what is no address and what is too much is not mirrored, and an event says so; annotations go along.
func TestEndpointsAreMirroredWithinBounds(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		many := corev1.EndpointSubset{
			Addresses: []corev1.EndpointAddress{{IP: "not-an-address"}},
			Ports:     []corev1.EndpointPort{{Name: "http", Port: 8080}},
		}
		for i := range 1100 {
			many.Addresses = append(many.Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("192.0.%d.%d", i/250, i%250)})
		}
		l.create(service("ext", nil))
		l.create(&corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "ext", Annotations: map[string]string{"team": "shop", corev1.LastAppliedConfigAnnotation: "{}"}},
			Subsets:    []corev1.EndpointSubset{many},
		})
		if n := len(l.endpointsOf("ext")); n != 1000 {
			t.Errorf("mirrored: got %d, want 1,000", n)
		}
		for _, s := range list[*discoveryv1.EndpointSlice](l.testCluster, api.EndpointSlices) {
			if _, applied := s.Annotations[corev1.LastAppliedConfigAnnotation]; s.Annotations["team"] != "shop" || applied || len(s.Endpoints) > maxEndpoints {
				t.Errorf("slice %s: got %d endpoints, annotations %v", s.Name, len(s.Endpoints), s.Annotations)
			}
		}
		for _, want := range []string{
			"Warning InvalidIPAddress Skipped 1 invalid IP addresses when mirroring to EndpointSlices",
			"Warning TooManyAddressesToMirror A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 101 addresses were skipped",
		} {
			if l.told()[want] == 0 {
				t.Errorf("events: got %v, want %q", l.told(), want)
			}
		}
	})
}

// E-7: Endpoints that are a lock of a leader election, or say so, are not mirrored.
func TestLocksAreNotMirrored(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.create(service("lock", nil))
	ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "lock", Annotations: map[string]string{leaderAnnotation: "{}"}}}
	ep.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}
	c.create(ep)
	if n := len(c.endpointsOf("lock")); n != 0 {
		t.Errorf("a lock: got %d endpoints, want none", n)
	}
	change(c, api.Endpoints, "lock", func(e *corev1.Endpoints) { e.Annotations = nil })
	if n := len(c.endpointsOf("lock")); n != 1 {
		t.Errorf("no lock any more: got %d endpoints, want 1", n)
	}
}

// E-11: hints follow the Service's wish, the pods' readiness and the nodes' zones.
func TestHintsFollowTheServiceThePodsAndTheNodes(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(service("web", map[string]string{"app": "web"}))
		l.create(deployment("web", 1))
		l.pass(time.Second)
		hints := func() string {
			text := ""
			for _, e := range l.endpointsOf("web") {
				if e.Hints != nil {
					text += fmt.Sprintf("zones %v nodes %v", e.Hints.ForZones, e.Hints.ForNodes)
				}
			}
			return text
		}
		prefer := func(d string) {
			change(l.testCluster, api.Services, "web", func(s *corev1.Service) {
				if s.Spec.TrafficDistribution = &d; d == "" {
					s.Spec.TrafficDistribution = nil
				}
			})
		}
		for d, want := range map[string]string{
			"": "", "PreferClose": "zones [{zone-n1}] nodes []", "PreferSameZone": "zones [{zone-n1}] nodes []", "PreferSameNode": "zones [{zone-n1}] nodes [{n1}]",
		} {
			if prefer(d); hints() != want {
				t.Errorf("%q: got hints %q, want %q", d, hints(), want)
			}
		}
		prefer("PreferSameZone")
		l.changeNode("n1", func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "east" })
		if got := hints(); got != "zones [{east}] nodes []" {
			t.Errorf("the node moved to another zone: got %q", got)
		}
		pods, _ := l.podsOn("n1")
		l.kubelet.set(l.testCluster, holdReady, true)
		change(l.testCluster, api.Pods, pods[0].Name, func(p *corev1.Pod) {
			setPodCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}, time.Now())
		})
		if got := hints(); got != "" {
			t.Errorf("the pod is not ready: got %q, want no hints", got)
		}
	}, "n1")
}

// E-6: a pod that has none of the ports that a Service names is in a slice without ports, and not in the Endpoints.
func TestAPodWithoutTheNamedPortIsNotInTheEndpoints(t *testing.T) {
	t.Parallel()
	svc := service("web", nil)
	svc.Spec.Ports[0].TargetPort.Type, svc.Spec.Ports[0].TargetPort.StrVal = 1, "other"
	if sets, _ := subsets(svc, []candidate{{pod: running("a", "10.0.0.1")}}); len(sets) != 0 {
		t.Errorf("got %v, want no subsets", sets)
	}
	svc.Spec.Ports = nil // a headless Service needs none
	if sets, _ := subsets(svc, []candidate{{pod: running("a", "10.0.0.1")}}); len(sets) != 1 {
		t.Errorf("without ports: got %v, want the pod", sets)
	}
}
