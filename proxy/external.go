package proxy

import (
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// externalAddresses are the addresses from outside that this node serves for a Service: spec.externalIPs and those of its load
// balancer.
func externalAddresses(svc *corev1.Service, f family) []netip.Addr {
	var out []netip.Addr
	for _, s := range svc.Spec.ExternalIPs {
		if ip, ok := f.parse(s); ok && !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	for _, ip := range loadBalancerAddresses(svc, f) {
		if !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

// loadBalancerAddresses are, for type LoadBalancer, the addresses in its status unless their ipMode is Proxy.
func loadBalancerAddresses(svc *corev1.Service, f family) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		if ip, ok := f.parse(in.IP); ok && !slices.Contains(out, ip) && !slices.Contains(svc.Spec.ExternalIPs, in.IP) {
			out = append(out, ip)
		}
	}
	return out
}

// sourceRanges are the family's sources that may use the load balancer's addresses; nil: all may. A range that holds the whole
// family lifts the filter.
func sourceRanges(svc *corev1.Service, f family) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		p, ok := f.prefix(s)
		switch {
		case ok && p.Bits() == 0:
			return nil
		case ok && !slices.Contains(out, p):
			out = append(out, p)
		}
	}
	return out
}

// withOwn adds a load-balancer address itself to the sources that may use it when the node may: a process of the node that calls
// the address may carry it as its source.
func withOwn(ranges []netip.Prefix, lb netip.Addr, node []netip.Addr) []netip.Prefix {
	for _, p := range ranges {
		if slices.ContainsFunc(node, p.Contains) {
			return append(slices.Clip(ranges), netip.PrefixFrom(lb, lb.BitLen()))
		}
	}
	return ranges
}

// takeNode enters a Node; only this node's zone matters.
func (m *model) takeNode(n *corev1.Node, deleted bool, dirty map[types.NamespacedName]struct{}) {
	zone := n.Labels[corev1.LabelTopologyZone]
	if n.Name != m.node || deleted || zone == m.zone {
		return
	}
	m.zone = zone
	for name, held := range m.slices {
		for _, s := range held {
			for i := range s.Endpoints {
				if s.Endpoints[i].Hints != nil {
					dirty[name] = struct{}{}
				}
			}
		}
	}
}

// hostPortName is what a pod's hostPorts are called among the Services, whose names cannot hold a space.
func hostPortName(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name + " hostPort"}
}

// takePod enters a pod; only the hostPorts of this node's running pods matter.
func (m *model) takePod(pod *corev1.Pod, deleted bool, dirty map[types.NamespacedName]struct{}) {
	name := hostPortName(pod)
	if !deleted && pod.Spec.NodeName == m.node && m.node != "" && living(pod) && hasHostPort(pod) {
		m.hostPods[name] = pod
		dirty[name] = struct{}{}
		return
	}
	if _, held := m.hostPods[name]; held {
		delete(m.hostPods, name)
		dirty[name] = struct{}{}
	}
}

// living tells whether a pod holds addresses of its own.
func living(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.PodIP != "" &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

func hasHostPort(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort != 0 })
	})
}

// podIPs are a pod's addresses of a family.
func podIPs(pod *corev1.Pod, f family) []netip.Addr {
	var out []netip.Addr
	if ip, ok := f.parse(pod.Status.PodIP); ok {
		out = append(out, ip)
	}
	for _, s := range pod.Status.PodIPs {
		if ip, ok := f.parse(s.IP); ok && !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

// hostPorts are NodePorts of one pod's own, on its node alone, that keep the client's address.
func hostPorts(name types.NamespacedName, pod *corev1.Pod, f family) *desired {
	ips := podIPs(pod, f)
	if len(ips) == 0 {
		return nil
	}
	d := &desired{Name: name}
	for _, c := range pod.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			p := desiredPort{
				Name: port.Name, Protocol: protocolNumber(port.Protocol), NodePort: uint16(port.HostPort), ExternalLocal: true,
			}
			if p.Name == "" {
				p.Name = strconv.Itoa(int(port.HostPort))
			}
			only, given := hostIP(port.HostIP, f)
			if !given {
				continue
			}
			p.HostIP = only
			e := endpoint{netip.AddrPortFrom(ips[0], uint16(port.ContainerPort)), pod.Namespace + "/" + pod.Name}
			p.Cluster, p.Local, p.Here = []endpoint{e}, []endpoint{e}, []endpoint{e}
			d.Ports = append(d.Ports, p)
		}
	}
	return d
}

// hostIP reads a hostPort's address: not valid for all addresses of the node, false for one of the other family.
func hostIP(s string, f family) (netip.Addr, bool) {
	if s == "" {
		return netip.Addr{}, true
	}
	ip, ok := f.parse(s)
	if ok && ip.IsUnspecified() {
		return netip.Addr{}, true
	}
	return ip, ok
}
