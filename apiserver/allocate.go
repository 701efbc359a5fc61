package apiserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// needsClusterIP tells whether a Service of this type has addresses of its own.
func needsClusterIP(svc *corev1.Service) bool { return svc.Spec.Type != corev1.ServiceTypeExternalName }

// needsNodePort tells whether a Service's ports have node ports.
func needsNodePort(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

func needsHealthPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// normalizeClusterIPs makes clusterIP and clusterIPs say the same when the client wrote only clusterIP, as clients do that
// were written before clusterIPs existed.
func normalizeClusterIPs(svc, old *corev1.Service) {
	spec := &svc.Spec
	if old == nil {
		if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
		return
	}
	if spec.ClusterIP == old.Spec.ClusterIP {
		return
	}
	unchanged := len(spec.ClusterIPs) == len(old.Spec.ClusterIPs) && firstOf(spec.ClusterIPs) == firstOf(old.Spec.ClusterIPs)
	switch {
	case spec.ClusterIP == "" && unchanged:
		spec.ClusterIPs = nil
	case spec.ClusterIP != "" && (len(spec.ClusterIPs) == 0 || unchanged):
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

func firstOf(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// keepAllocated carries addresses and ports that the client left out over from the Service's present state, and drops those
// that belong to the type the Service no longer has.
func keepAllocated(svc, old *corev1.Service) {
	if svc.Spec.Type == "" {
		svc.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if needsClusterIP(svc) && needsClusterIP(old) {
		if svc.Spec.ClusterIP == "" {
			svc.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(svc.Spec.ClusterIPs) == 0 && svc.Spec.ClusterIP == old.Spec.ClusterIP {
			svc.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
	}
	normalizeClusterIPs(svc, old)
	if needsNodePort(svc) && needsNodePort(old) {
		keepNodePorts(svc, old)
	}
	if needsHealthPort(svc) && needsHealthPort(old) && svc.Spec.HealthCheckNodePort == 0 {
		svc.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
	dropUnneeded(svc, old)
}

// portKey is what makes a port of a Service the same port after an update.
type portKey struct {
	protocol corev1.Protocol
	port     int32
}

func keyOf(p corev1.ServicePort) portKey {
	if p.Protocol == "" {
		p.Protocol = corev1.ProtocolTCP
	}
	return portKey{p.Protocol, p.Port}
}

func keepNodePorts(svc, old *corev1.Service) {
	held := map[portKey]int32{}
	for _, p := range old.Spec.Ports {
		held[keyOf(p)] = p.NodePort
	}
	used := map[int32]bool{}
	for _, p := range svc.Spec.Ports {
		used[p.NodePort] = true
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if port := held[keyOf(*p)]; p.NodePort == 0 && !used[port] {
			p.NodePort = port
		}
	}
}

// dropUnneeded clears what the old type had and the new one has not, when the client merely sent it along.
func dropUnneeded(svc, old *corev1.Service) {
	if needsClusterIP(old) && !needsClusterIP(svc) && svc.Spec.ClusterIP == old.Spec.ClusterIP {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
	}
	if needsNodePort(old) && !needsNodePort(svc) && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		held := map[int32]bool{}
		for _, p := range old.Spec.Ports {
			held[p.NodePort] = true
		}
		for i := range svc.Spec.Ports {
			if held[svc.Spec.Ports[i].NodePort] {
				svc.Spec.Ports[i].NodePort = 0
			}
		}
	}
	if needsHealthPort(old) && !needsHealthPort(svc) && svc.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		svc.Spec.HealthCheckNodePort = 0
	}
}

// allocate gives svc the addresses and node ports it needs and has not, and refuses those it asks for that others hold. It
// runs in the transaction that writes svc, so nothing is given twice. old is the Service's present state, or nil.
func (s *Server) allocate(tx *store.Tx, svc, old *corev1.Service) error {
	a := &allocator{tx: tx, svc: svc, old: old, services: s.cfg.Services, ports: s.cfg.NodePorts}
	if err := a.clusterIP(); err != nil {
		return err
	}
	return a.nodePorts()
}

type allocator struct {
	tx       *store.Tx
	svc, old *corev1.Service
	services netip.Prefix
	ports    [2]int32
}

// holder is the Service, other than the one being written, under which an index files value; nil for none.
func (a *allocator) holder(index, value string) api.Object {
	for _, obj := range a.tx.List(api.Services, store.Query{Index: index, Value: value}) {
		if obj.GetNamespace() != a.svc.Namespace || obj.GetName() != a.svc.Name {
			return obj
		}
	}
	return nil
}

func (a *allocator) refuse(path *field.Path, value any, message string) error {
	return api.Invalid(api.Services, a.svc.Name, field.ErrorList{field.Invalid(path, value, message)})
}

func (a *allocator) clusterIP() error {
	spec := &a.svc.Spec
	if !needsClusterIP(a.svc) || spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if spec.ClusterIP == "" {
		ip, err := a.freeIP()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		spec.ClusterIP, spec.ClusterIPs = ip, []string{ip}
		return nil
	}
	if a.old != nil && a.old.Spec.ClusterIP == spec.ClusterIP {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	ip, err := netip.ParseAddr(spec.ClusterIP)
	if err != nil || !a.services.Contains(ip) {
		return a.refuse(path, spec.ClusterIPs, fmt.Sprintf(
			"failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s",
			spec.ClusterIP, spec.ClusterIP, a.services))
	}
	if other := a.holder(api.IndexClusterIP, spec.ClusterIP); other != nil {
		return a.refuse(path, spec.ClusterIPs, fmt.Sprintf(
			"failed to allocate IP %s: provided IP is already allocated (Service %s holds it)", spec.ClusterIP, api.Name(other)))
	}
	if a.claimed(ip) {
		return a.refuse(path, spec.ClusterIPs, fmt.Sprintf(
			"failed to allocate IP %s: provided IP is already allocated (IPAddress %s is there)", spec.ClusterIP, ip))
	}
	return nil
}

// claimed tells whether somebody else than a Service claims an address, by an IPAddress object of that name.
func (a *allocator) claimed(ip netip.Addr) bool {
	_, err := a.tx.Get(api.IPAddresses, "", ip.String())
	return err == nil
}

var errFull = errors.New("range is full")

// Bands of a range: what is given out unasked comes from the upper band first, so that the lower stays free for those who
// choose for themselves; Kubernetes' sizes.
func addressBand(size int) int { return min(max(16, size/16), 256, size/2) }
func portBand(size int) int    { return min(max(16, size/32), 128, size/2) }

// freeIP finds an address nobody holds: a random start in the upper band, then every address in turn.
func (a *allocator) freeIP() (string, error) {
	hosts := 1<<min(a.services.Addr().BitLen()-a.services.Bits(), 20) - 2 // without the network's first and last address
	if hosts < 1 {
		return "", errFull
	}
	i, ok := probe(hosts, addressBand(hosts), func(i int) bool {
		ip := nth(a.services, i+1)
		return a.holder(api.IndexClusterIP, ip.String()) == nil && !a.claimed(ip)
	})
	if !ok {
		return "", errFull
	}
	return nth(a.services, i+1).String(), nil
}

// probe calls free for the numbers from band to size in a circle from a random one, then for those below band.
func probe(size, band int, free func(int) bool) (int, bool) {
	if upper := size - band; upper > 0 {
		start := rand.IntN(upper)
		for i := range upper {
			if n := band + (start+i)%upper; free(n) {
				return n, true
			}
		}
	}
	for n := range band {
		if free(n) {
			return n, true
		}
	}
	return 0, false
}

// nth is the prefix's address number i.
func nth(p netip.Prefix, i int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(i))
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// nodePorts checks the node ports that svc names, then finds some for the ports that name none.
func (a *allocator) nodePorts() error {
	given := map[int32]bool{} // node ports of this Service, whatever the protocol
	ports := a.svc.Spec.Ports
	path := field.NewPath("spec", "ports")
	for i, p := range ports {
		if p.NodePort == 0 || given[p.NodePort] {
			continue
		}
		if err := a.checkPort(path.Index(i).Child("nodePort"), p.NodePort); err != nil {
			return err
		}
		given[p.NodePort] = true
	}
	if needsNodePort(a.svc) {
		for i := range ports {
			if err := a.givePort(ports, i, given); err != nil {
				return err
			}
		}
	}
	if needsHealthPort(a.svc) {
		return a.healthPort(given)
	}
	return nil
}

// checkPort refuses a node port outside the range or held by another Service, unless svc has it already.
func (a *allocator) checkPort(path *field.Path, port int32) error {
	if a.old != nil {
		for _, p := range a.old.Spec.Ports {
			if p.NodePort == port {
				return nil
			}
		}
	}
	if port < a.ports[0] || port > a.ports[1] {
		return a.refuse(path, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d",
			a.ports[0], a.ports[1]))
	}
	if other := a.portHolder(port); other != nil {
		return a.refuse(path, port, fmt.Sprintf("provided port is already allocated (Service %s holds it)", api.Name(other)))
	}
	return nil
}

// portHolder is the Service that has a node port under any protocol; Kubernetes does not share one between Services.
func (a *allocator) portHolder(port int32) api.Object {
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		if other := a.holder(api.IndexNodePort, api.NodePortKey(protocol, port)); other != nil {
			return other
		}
	}
	return nil
}

// givePort finds a node port for ports[i]; the same port under another protocol gets the same one.
func (a *allocator) givePort(ports []corev1.ServicePort, i int, given map[int32]bool) error {
	if ports[i].NodePort != 0 {
		return nil
	}
	for _, p := range ports {
		if p.Port == ports[i].Port && p.Protocol != ports[i].Protocol && p.NodePort != 0 {
			ports[i].NodePort = p.NodePort
			return nil
		}
	}
	port, err := a.freePort(given)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
	}
	ports[i].NodePort = port
	return nil
}

func (a *allocator) freePort(given map[int32]bool) (int32, error) {
	size := int(a.ports[1]-a.ports[0]) + 1
	i, ok := probe(size, portBand(size), func(i int) bool {
		port := a.ports[0] + int32(i)
		return !given[port] && a.portHolder(port) == nil
	})
	if !ok {
		return 0, errFull
	}
	port := a.ports[0] + int32(i)
	given[port] = true
	return port, nil
}

func (a *allocator) healthPort(given map[int32]bool) error {
	port := a.svc.Spec.HealthCheckNodePort
	if port != 0 {
		if a.old != nil && a.old.Spec.HealthCheckNodePort == port {
			return nil
		}
		return a.checkPort(field.NewPath("spec", "healthCheckNodePort"), port)
	}
	port, err := a.freePort(given)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
	}
	a.svc.Spec.HealthCheckNodePort = port
	return nil
}
