package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// desired is the records that one object wants: by owner name, lower case and fully qualified. A name without records is one
// that shall exist.
type desired map[string][]record

func (d desired) add(owner string, r record) {
	if ValidName(owner) && !slices.Contains(d[owner], r) {
		d[owner] = append(d[owner], r)
	}
}

// dnsService is the Service that stands for this server: SOA and NS name it.
const (
	dnsNamespace = "kube-system"
	dnsService   = "kube-dns"
)

// planService is the records of a Service and its slices.
func (z *zones) planService(svc *corev1.Service, eps []*discoveryv1.EndpointSlice) desired {
	d := desired{}
	name := serviceName(svc.Namespace, svc.Name, z.domain)
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		if target := dns.Fqdn(svc.Spec.ExternalName); validTarget(target) {
			d.add(name, record{typ: dns.TypeCNAME, text: target})
		}
		return d
	case headless(svc):
		z.planEndpoints(d, svc, eps)
	default:
		z.planVirtual(d, svc, eps)
	}
	for _, records := range d {
		shareWeights(records)
	}
	return d
}

func validTarget(target string) bool { return ValidName(target) && target != "." }

func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

func serviceName(namespace, name, domain string) string {
	return strings.ToLower(name + "." + namespace + ".svc." + domain)
}

// portName is the owner of a port's SRV record, "_http._tcp.ent.dev.svc.cluster.local.", or "" for a port without name.
func portName(port string, protocol corev1.Protocol, service string) string {
	if port == "" {
		return ""
	}
	return "_" + strings.ToLower(port) + "._" + strings.ToLower(string(cmp.Or(protocol, corev1.ProtocolTCP))) + "." + service
}

// planVirtual is a Service with addresses of its own.
func (z *zones) planVirtual(d desired, svc *corev1.Service, eps []*discoveryv1.EndpointSlice) {
	name := serviceName(svc.Namespace, svc.Name, z.domain)
	addresses := clusterIPs(svc)
	if len(addresses) == 0 {
		return // not allocated yet
	}
	for _, a := range addresses {
		d.add(name, addressRecord(a))
		d.add(reverseName(a), record{typ: dns.TypePTR, text: name})
		if svc.Namespace == dnsNamespace && svc.Name == dnsService {
			d.add(z.server(), addressRecord(a))
		}
	}
	for _, p := range svc.Spec.Ports {
		r := record{typ: dns.TypeSRV, port: uint16(p.Port), text: name}
		d.add(name, r)
		if owner := portName(p.Name, p.Protocol, name); owner != "" {
			d.add(owner, r)
		}
	}
	var below []netip.Addr
	for e := range published(svc, eps) {
		if e.hostname != "" {
			d.add(e.hostname+"."+name, addressRecord(e.addr))
		}
		below = append(below, e.addr)
	}
	for _, a := range below {
		d.addBelow(name, a)
	}
}

// addBelow gives an address a name below owner, spelled with dashes. Most have none but that, and are kept with owner.
func (d desired) addBelow(owner string, a netip.Addr) {
	name := dashed(a) + "." + owner
	if _, other := d[name]; other { // a hostname may look like an address
		d.add(name, addressRecord(a))
		return
	}
	if ValidName(name) {
		d[owner] = append(d[owner], record{typ: typeBelow, addr: a})
	}
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var all []netip.Addr
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// planEndpoints is a headless Service: its name holds the addresses of its endpoints, each endpoint has a name below it, and
// each address leads back to that name.
func (z *zones) planEndpoints(d desired, svc *corev1.Service, eps []*discoveryv1.EndpointSlice) {
	name := serviceName(svc.Namespace, svc.Name, z.domain)
	for e := range published(svc, eps) {
		a := addressRecord(e.addr)
		own := endpointName(e, name)
		d.add(name, a)
		d.add(own, a)
		d.add(dashed(e.addr)+"."+name, a)
		d.add(reverseName(e.addr), record{typ: dns.TypePTR, text: own})
		for _, p := range e.ports {
			if p.Port == nil {
				continue // every port: nothing that a SRV record could say
			}
			r := record{typ: dns.TypeSRV, port: uint16(*p.Port), text: own}
			d.add(name, r)
			owner := portName(deref(p.Name), deref(p.Protocol), name)
			if owner != "" {
				d.add(owner, r)
			}
		}
	}
}

// endpointName is an endpoint's first name: its hostname, else the pod's name, else its dashed address.
func endpointName(e endpoint, service string) string {
	for _, label := range []string{e.hostname, e.pod} {
		if label == "" {
			continue
		}
		// A pod's name may be longer than a label of DNS, or a whole name, may be.
		if ValidName(label + "." + service) {
			return label + "." + service
		}
	}
	return dashed(e.addr) + "." + service
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// endpoint is one address of one endpoint that may be published.
type endpoint struct {
	addr     netip.Addr
	hostname string
	pod      string
	ports    []discoveryv1.EndpointPort
}

// published walks the endpoints that DNS shows: the ready ones, or all when the Service says so.
func published(svc *corev1.Service, eps []*discoveryv1.EndpointSlice) func(yield func(endpoint) bool) {
	return func(yield func(endpoint) bool) {
		for _, slice := range eps {
			for i := range slice.Endpoints {
				e := &slice.Endpoints[i]
				if !ready(e) && !svc.Spec.PublishNotReadyAddresses {
					continue
				}
				if !walkAddresses(slice, e, yield) {
					return
				}
			}
		}
	}
}

func walkAddresses(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, yield func(endpoint) bool) bool {
	one := endpoint{hostname: strings.ToLower(deref(e.Hostname)), ports: slice.Ports}
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		one.pod = strings.ToLower(e.TargetRef.Name)
	}
	for _, text := range e.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue // addressType FQDN: deprecated, and nothing DNS could answer with
		}
		one.addr = a.Unmap()
		if !yield(one) {
			return false
		}
	}
	return true
}

// ready is Kubernetes' reading of the condition: not said is ready.
func ready(e *discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }

// shareWeights divides 100 among the SRV records of one name.
func shareWeights(records []record) {
	n := 0
	for _, r := range records {
		if r.typ == dns.TypeSRV {
			n++
		}
	}
	for i := range records {
		if records[i].typ == dns.TypeSRV {
			records[i].weight = uint16(max(1, 100/n))
		}
	}
}

// planNamespace makes the names of a namespace exist: its Services lie below one, its pods below the other.
func (z *zones) planNamespace(namespace string, pods PodRecords) desired {
	d := desired{namespace + ".svc." + z.domain: nil}
	if pods != PodsOff {
		d[namespace+".pod."+z.domain] = nil
	}
	return d
}

// planPod is the records of a living pod, for PodsVerified.
func (z *zones) planPod(pod *corev1.Pod) desired {
	d := desired{}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return d
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			d.add(dashed(a)+"."+pod.Namespace+".pod."+z.domain, addressRecord(a))
		}
	}
	return d
}
