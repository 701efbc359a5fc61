package proxy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// P-1, P-2, P-3, P-8, P-10, P-11, P-47: a ClusterIP reaches every endpoint from pods, nodes and outside, over TCP and UDP.
func TestAClusterIPReachesItsEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20", ports(
		corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 80}, corev1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 80})),
		slice("web", ready(a), ready(b)))
	for _, network := range []string{"tcp", "udp"} {
		got := r.spread(client.ns, network, "10.96.0.20:80", 60)
		if got["pod-1-1:8080"] < 10 || got["pod-2-1:8080"] < 10 || len(got) != 2 {
			t.Errorf("60 %s connections went to %v, want about half to each pod", network, got)
		}
	}
	for range 8 {
		if _, from := r.ask(client.ns, "tcp", "10.96.0.20:80"); from != client.ip.String() {
			t.Errorf("the endpoint saw %s, want the client pod %s", from, client.ip)
		}
	}
	for _, n := range r.nodes {
		r.spread(n.ns, "tcp", "10.96.0.20:80", 8)
	}
	for range 8 {
		if _, from := r.ask(r.outside, "tcp", "10.96.0.20:80"); from == "172.30.0.1" {
			t.Error("a client outside was not masqueraded")
		}
	}
}
