package ingress

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Ways to speak to a backend.
const (
	speakHTTP  = "http"
	speakHTTPS = "https"
	speakH2C   = "h2c"   // HTTP/2 without TLS: gRPC
	speakH2    = "grpcs" // HTTP/2 with TLS
)

// service is what runs behind a Backend. Rules of old and new tables share it; endpoints change under them.
type service struct {
	name   string // namespace/name:port, for logs
	places atomic.Pointer[places]
	next   atomic.Uint64

	key   Backend         // without its weight
	hosts map[string]bool // the table's, whose rules lead to it; Run's own
}

// serviceName is namespace/name.
func (s *service) serviceName() string { return s.key.Namespace + "/" + s.key.Service }

// places is where a service's requests go at one moment. It never changes.
type places struct {
	speak     string
	endpoints []*endpoint
	problem   string // why there are none
	wrong     bool   // the Ingress names what does not exist
}

// endpoint is one address. It keeps its idle connections.
type endpoint struct {
	address string
	pod     string // namespace/name, "" when unknown
	secure  bool   // connections of HTTP/1.1 begin with TLS
	pool    pool
}

// pick takes the next endpoint in turn, but for those that were tried before.
func (p *places) pick(next uint64, tried []*endpoint) *endpoint {
	n := uint64(len(p.endpoints))
	for i := range n {
		if e := p.endpoints[(next+i)%n]; !slices.Contains(tried, e) {
			return e
		}
	}
	return nil
}

// locate computes the places of a backend from its objects. Endpoints that stay are the same ones as before.
func locate(b *Backend, svc *corev1.Service, eps []*discoveryv1.EndpointSlice, old *places) *places {
	p := &places{speak: speakHTTP}
	if b.Resource != "" {
		p.problem = "a backend of this kind is not supported"
		return p
	}
	if svc == nil {
		p.problem, p.wrong = "the Service does not exist", true
		return p
	}
	port, ok := portOf(svc, b.Port)
	if !ok {
		p.problem, p.wrong = fmt.Sprintf("the Service has no TCP port %s", b.Port), true
		return p
	}
	p.speak = speaks(b.Protocol, port)
	known := map[string]*endpoint{}
	if old != nil && old.speak == p.speak {
		for _, e := range old.endpoints {
			known[e.address] = e
		}
	}
	for _, found := range addresses(b, svc, port, eps) {
		found.secure = p.speak == speakHTTPS
		if e := known[found.address]; e != nil && e.pod == found.pod {
			found = e // the same in all: known is of those that speak alike
		}
		p.endpoints = append(p.endpoints, found)
	}
	if len(p.endpoints) == 0 {
		p.problem = "the Service has no ready endpoint"
	}
	return p
}

// portOf finds a Service's port. The zero Port is the first.
func portOf(svc *corev1.Service, want Port) (corev1.ServicePort, bool) {
	for _, p := range svc.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if want == (Port{}) || (want.Name != "" && p.Name == want.Name) || (want.Name == "" && p.Port == want.Number) {
			return p, true
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName && want.Number != 0 {
		return corev1.ServicePort{Port: want.Number}, true
	}
	return corev1.ServicePort{}, false
}

func speaks(annotation string, port corev1.ServicePort) string {
	switch annotation {
	case "HTTPS":
		return speakHTTPS
	case "GRPC":
		return speakH2C
	case "GRPCS":
		return speakH2
	case "HTTP":
		return speakHTTP
	}
	if port.AppProtocol != nil {
		switch *port.AppProtocol {
		case "kubernetes.io/h2c", "grpc":
			return speakH2C
		case "https", "kubernetes.io/wss":
			return speakHTTPS
		}
	}
	return speakHTTP
}

func addresses(b *Backend, svc *corev1.Service, port corev1.ServicePort, eps []*discoveryv1.EndpointSlice) []*endpoint {
	number := strconv.Itoa(int(port.Port))
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return []*endpoint{{address: net.JoinHostPort(strings.TrimSuffix(svc.Spec.ExternalName, "."), number)}}
	case b.ByService && svc.Spec.ClusterIP != "" && svc.Spec.ClusterIP != corev1.ClusterIPNone:
		return []*endpoint{{address: net.JoinHostPort(svc.Spec.ClusterIP, number)}}
	}
	var all []*endpoint
	for _, slice := range eps {
		for _, p := range slice.Ports {
			if p.Port == nil || deref(p.Name) != port.Name || cmp.Or(deref(p.Protocol), corev1.ProtocolTCP) != corev1.ProtocolTCP {
				continue
			}
			all = append(all, ready(slice, strconv.Itoa(int(*p.Port)))...)
		}
	}
	slices.SortFunc(all, func(a, b *endpoint) int { return cmp.Compare(a.address, b.address) })
	return slices.CompactFunc(all, func(a, b *endpoint) bool { return a.address == b.address })
}

func ready(slice *discoveryv1.EndpointSlice, port string) []*endpoint {
	var all []*endpoint
	for _, e := range slice.Endpoints {
		if len(e.Addresses) == 0 || (e.Conditions.Ready != nil && !*e.Conditions.Ready) {
			continue
		}
		pod := ""
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			pod = slice.Namespace + "/" + e.TargetRef.Name
		}
		// The first address stands for the endpoint; others are the same one (Kubernetes has deprecated them).
		all = append(all, &endpoint{address: net.JoinHostPort(e.Addresses[0], port), pod: pod})
	}
	return all
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
