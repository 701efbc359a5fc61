package ingress

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// I-42: service-upstream sends to the Service's own address; without it requests go to the endpoints, I-35.
func TestServiceUpstreamSendsToTheServicesAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	own := netip.MustParseAddrPort(named(t, "service"))
	r.apply(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: own.Addr().String(), Ports: []corev1.ServicePort{{Name: "http", Port: int32(own.Port()), Protocol: corev1.ProtocolTCP}},
	}})
	for _, s := range slicesFor("web", named(t, "endpoint")) {
		r.apply(s)
	}
	ofService, ofEndpoint := ingress("by-service", 0, "a Prefix / web:http"), ingress("direct", 0, "b Prefix / web:http")
	r.apply(annotate(ofService, "service-upstream", "true"), annotate(ofEndpoint, "service-upstream", "false"))
	for host, want := range map[string]string{"a": "service", "b": "endpoint"} {
		if got := r.get(host, "/"); got.StatusCode != 200 || got.body != want {
			t.Errorf("%s: got %d %q, want %s", host, got.StatusCode, got.body, want)
		}
	}
}
