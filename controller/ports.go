package controller

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
)

// resolvePorts finds the number of each of a Service's ports in one pod; a named port that the pod does not have is left out.
func resolvePorts(svc *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	ports := []discoveryv1.EndpointPort{}
	for _, p := range svc.Spec.Ports {
		number := targetNumber(p, pod)
		if number == 0 {
			continue
		}
		name, protocol := p.Name, cmp.Or(p.Protocol, corev1.ProtocolTCP)
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number, AppProtocol: p.AppProtocol})
	}
	return ports
}

// targetNumber is where a Service port leads in a pod; 0 for a name that the pod does not know.
func targetNumber(p corev1.ServicePort, pod *corev1.Pod) int32 {
	if p.TargetPort.Type == intstr.Int {
		return cmp.Or(p.TargetPort.IntVal, p.Port)
	}
	for _, c := range api.ServingContainers(pod) {
		for _, cp := range c.Ports {
			if cp.Name == p.TargetPort.StrVal && cmp.Or(cp.Protocol, corev1.ProtocolTCP) == cmp.Or(p.Protocol, corev1.ProtocolTCP) {
				return cp.ContainerPort
			}
		}
	}
	return 0
}

// portsKey is equal for equal sets of ports.
func portsKey(ports []discoveryv1.EndpointPort) string {
	lines := make([]string, 0, len(ports))
	for _, p := range ports {
		number := strconv.Itoa(int(*cmp.Or(p.Port, new(int32))))
		lines = append(lines, *cmp.Or(p.Name, new(string))+"/"+string(*cmp.Or(p.Protocol, new(corev1.Protocol)))+"/"+number+"/"+*cmp.Or(p.AppProtocol, new(string)))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// resolver finds a Service's ports in its pods. Where no port has a name in the pods, all pods have the same.
type resolver struct {
	svc   *corev1.Service
	ports []discoveryv1.EndpointPort
	key   string
	known bool // ports and key are those of all pods
}

func (r *resolver) of(pod *corev1.Pod) (ports []discoveryv1.EndpointPort, key string) {
	if !r.known {
		r.ports = resolvePorts(r.svc, pod)
		r.key = portsKey(r.ports)
		r.known = !slices.ContainsFunc(r.svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.TargetPort.Type == intstr.String })
	}
	return r.ports, r.key
}
