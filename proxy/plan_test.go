package proxy

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

func sampleEndpoints(service, n int) []endpoint {
	var out []endpoint
	for i := range n {
		out = append(out, endpoint{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(service), byte(i + 1)}), 8080),
			Pod:     fmt.Sprintf("default/web-%d-%d", service, i),
		})
	}
	return out
}

// sampleServices are Services of all shapes.
func sampleServices() []*desired {
	one := &desired{
		Name: types.NamespacedName{Namespace: "default", Name: "web"}, ClusterIP: netip.MustParseAddr("10.96.0.20"),
		Ports: []desiredPort{
			{Name: "http", Protocol: protoTCP, Port: 80, NodePort: 30080, Cluster: sampleEndpoints(1, 3), Here: sampleEndpoints(1, 1)},
			{Name: "dns", Protocol: protoUDP, Port: 53, Cluster: sampleEndpoints(2, 1)},
		},
	}
	two := &desired{
		Name: types.NamespacedName{Namespace: "default", Name: "sticky"}, ClusterIP: netip.MustParseAddr("10.96.0.21"),
		External: []netip.Addr{netip.MustParseAddr("172.31.0.1")},
		Ports: []desiredPort{{
			Protocol: protoTCP, Port: 443, NodePort: 30443, Affinity: 10800, ExternalLocal: true,
			Cluster: sampleEndpoints(3, 6), Local: sampleEndpoints(3, 2), Here: sampleEndpoints(3, 2),
		}},
	}
	three := &desired{
		Name: types.NamespacedName{Namespace: "default", Name: "empty"}, ClusterIP: netip.MustParseAddr("10.96.0.22"),
		Ports: []desiredPort{{Protocol: protoSCTP, Port: 99, InternalLocal: true}},
	}
	return []*desired{one, two, three}
}
