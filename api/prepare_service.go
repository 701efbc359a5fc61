package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

func needsClusterIP(svc *corev1.Service) bool { return svc.Spec.Type != corev1.ServiceTypeExternalName }

func needsNodePort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthCheckPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// externallyAccessible: some address of the Service is reached from outside the cluster.
func externallyAccessible(svc *corev1.Service) bool {
	return needsNodePort(svc) || svc.Spec.Type == corev1.ServiceTypeClusterIP && len(svc.Spec.ExternalIPs) > 0
}

func sameClusterIPs(a, b *corev1.Service) bool {
	return a.Spec.ClusterIP == b.Spec.ClusterIP && slices.Equal(a.Spec.ClusterIPs, b.Spec.ClusterIPs)
}

// nodePortNumbers is the set of node ports a Service names.
func nodePortNumbers(svc *corev1.Service) map[int32]bool {
	ports := map[int32]bool{}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			ports[p.NodePort] = true
		}
	}
	return ports
}

// keepAllocated lets the manifest a Service was created from be applied again: values that were allocated then, and are
// left out now, stay.
func keepAllocated(new, old *corev1.Service) {
	if needsClusterIP(old) && needsClusterIP(new) {
		setEmpty(&new.Spec.ClusterIP, old.Spec.ClusterIP)
		if len(new.Spec.ClusterIPs) == 0 {
			new.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
	}
	if needsNodePort(old) && needsNodePort(new) {
		taken := nodePortNumbers(new)
		byName := map[string]int32{}
		for _, p := range old.Spec.Ports {
			byName[p.Name] = p.NodePort
		}
		for i := range new.Spec.Ports {
			p := &new.Spec.Ports[i]
			if was := byName[p.Name]; p.NodePort == 0 && !taken[was] {
				p.NodePort = was
			}
		}
	}
	if needsHealthCheckPort(old) && needsHealthCheckPort(new) {
		setEmpty(&new.Spec.HealthCheckNodePort, old.Spec.HealthCheckNodePort)
	}
}

// normalizeClusterIPs keeps clusterIP and clusterIPs in step for writers that know only the first.
func normalizeClusterIPs(new, old *corev1.Service) {
	was, is := old.Spec.ClusterIP, new.Spec.ClusterIP
	if was == is {
		if len(new.Spec.ClusterIPs) == 0 {
			new.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
		return
	}
	if !slices.Equal(new.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		return // both were changed: validation judges
	}
	new.Spec.ClusterIPs = nil
	if is != "" {
		new.Spec.ClusterIPs = []string{is}
	}
}

// dropOtherTypes wipes what belongs to the type the Service had and not to the one it gets, where the writer did not touch it.
func dropOtherTypes(new, old *corev1.Service) {
	same := equality.Semantic.DeepEqual
	n, o := &new.Spec, &old.Spec
	if needsClusterIP(old) && !needsClusterIP(new) {
		dropClusterIPs(new, old)
	}
	if needsNodePort(old) && !needsNodePort(new) {
		dropNodePorts(new, old)
	}
	if needsHealthCheckPort(old) && !needsHealthCheckPort(new) {
		dropSame(&n.HealthCheckNodePort, o.HealthCheckNodePort)
	}
	if n.Type != corev1.ServiceTypeLoadBalancer {
		new.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	if o.Type == corev1.ServiceTypeLoadBalancer && n.Type != corev1.ServiceTypeLoadBalancer {
		if same(n.AllocateLoadBalancerNodePorts, o.AllocateLoadBalancerNodePorts) {
			n.AllocateLoadBalancerNodePorts = nil
		}
		if same(n.LoadBalancerClass, o.LoadBalancerClass) {
			n.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(new) {
		dropSame(&n.ExternalTrafficPolicy, o.ExternalTrafficPolicy)
	}
}

// dropSame empties a field that is what it was.
func dropSame[T comparable](field *T, was T) {
	if *field == was {
		var none T
		*field = none
	}
}

// dropClusterIPs forgets the addresses of a type that has none, where the writer did not touch them.
func dropClusterIPs(new, old *corev1.Service) {
	same := equality.Semantic.DeepEqual
	if sameClusterIPs(new, old) {
		new.Spec.ClusterIP, new.Spec.ClusterIPs = "", nil
	}
	if same(new.Spec.IPFamilies, old.Spec.IPFamilies) {
		new.Spec.IPFamilies = nil
	}
	if same(new.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
		new.Spec.IPFamilyPolicy = nil
	}
}

// dropNodePorts forgets the node ports of a type that has none, unless the writer named a new one: that is an error of theirs.
func dropNodePorts(new, old *corev1.Service) {
	had := nodePortNumbers(old)
	for port := range nodePortNumbers(new) {
		if !had[port] {
			return
		}
	}
	for i := range new.Spec.Ports {
		new.Spec.Ports[i].NodePort = 0
	}
}
