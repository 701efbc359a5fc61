package api

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var serviceSpec = field.NewPath("spec")

// isHeadless is Headless as validation sees it: by clusterIPs, which normalizing has filled.
func isHeadless(svc *corev1.Service) bool {
	return len(svc.Spec.ClusterIPs) == 1 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// validateService checks a Service; old is what it is to replace, nil for a new one: old values may stay as they are.
func validateService(svc, old *corev1.Service) field.ErrorList {
	spec := &svc.Spec
	errs := validateServiceType(svc)
	errs = append(errs, validateServicePorts(svc)...)
	errs = append(errs, metavalidation.ValidateLabels(spec.Selector, serviceSpec.Child("selector"))...)
	errs = append(errs, validateAffinity(spec)...)
	errs = append(errs, validateClusterIPs(svc, old)...)
	var had []string
	if old != nil {
		had = old.Spec.ExternalIPs
	}
	for i, ip := range spec.ExternalIPs {
		path := serviceSpec.Child("externalIPs").Index(i)
		if e := address(path, ip, had); len(e) > 0 {
			errs = append(errs, e...)
			continue
		}
		errs = append(errs, endpointAddress(path, ip)...)
	}
	errs = append(errs, oneOf(serviceSpec.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, validateNodePorts(spec)...)
	errs = append(errs, validateLoadBalancer(svc, old)...)
	return append(errs, validateTrafficPolicies(svc)...)
}

func validateServiceType(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := &svc.Spec
	if len(spec.Ports) == 0 && !isHeadless(svc) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(serviceSpec.Child("ports"), ""))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if isHeadless(svc) {
			errs = append(errs, field.Invalid(serviceSpec.Child("clusterIPs").Index(0), spec.ClusterIPs[0],
				fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		const only = "may not be set for ExternalName services"
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(serviceSpec.Child("clusterIPs"), only))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(serviceSpec.Child("ipFamilies"), only))
		}
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(serviceSpec.Child("ipFamilyPolicy"), only))
		}
		path := serviceSpec.Child("externalName")
		if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
			return append(errs, dnsSubdomain(path, name)...)
		}
		errs = append(errs, field.Required(path, ""))
	}
	return errs
}

// portKey is how Kubernetes prints a port that another one repeats.
type portKey struct {
	Name        string
	Protocol    corev1.Protocol
	AppProtocol *string
	Port        int32
	TargetPort  intstr.IntOrString
	NodePort    int32
}

func validateServicePorts(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	ports, names := svc.Spec.Ports, map[string]bool{}
	for i := range ports {
		p, path := &ports[i], serviceSpec.Child("ports").Index(i)
		if p.Name == "" && len(ports) > 1 {
			errs = append(errs, field.Required(path.Child("name"), ""))
		} else if p.Name != "" {
			errs = append(errs, dnsLabel(path.Child("name"), p.Name)...)
			if names[p.Name] {
				errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		errs = append(errs, portNumber(path.Child("port"), p.Port)...)
		errs = append(errs, protocol(path.Child("protocol"), p.Protocol)...)
		errs = append(errs, portNumberOrName(path.Child("targetPort"), p.TargetPort)...)
		if p.AppProtocol != nil {
			errs = append(errs, qualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
		}
	}
	seen := map[portKey]bool{}
	for i, p := range ports {
		key := portKey{Protocol: p.Protocol, Port: p.Port}
		if seen[key] {
			errs = append(errs, field.Duplicate(serviceSpec.Child("ports").Index(i), key))
		}
		seen[key] = true
	}
	return errs
}

func validateNodePorts(spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, p := range spec.Ports {
		if p.NodePort == 0 {
			continue
		}
		path := serviceSpec.Child("ports").Index(i).Child("nodePort")
		if spec.Type == corev1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(path, "may not be used when `type` is 'ClusterIP'"))
		}
		key := NodePortKey(p.Protocol, p.NodePort)
		if seen[key] {
			errs = append(errs, field.Duplicate(path, p.NodePort))
		}
		seen[key] = true
	}
	return errs
}

func validateAffinity(spec *corev1.ServiceSpec) field.ErrorList {
	path := serviceSpec.Child("sessionAffinity")
	errs := oneOf(path, spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	path = serviceSpec.Child("sessionAffinityConfig")
	switch {
	case spec.SessionAffinity == corev1.ServiceAffinityNone && spec.SessionAffinityConfig != nil:
		errs = append(errs, field.Forbidden(path, "must not be set when session affinity is None"))
	case spec.SessionAffinity == corev1.ServiceAffinityClientIP:
		c := spec.SessionAffinityConfig
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			return append(errs, field.Required(path, "when session affinity type is ClientIP"))
		}
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > 86400 {
			errs = append(errs, field.Invalid(path.Child("clientIP", "timeoutSeconds"), t,
				"must be greater than 0 and less than 86400"))
		}
	}
	return errs
}

func validateLoadBalancer(svc, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	const only = "may only be used when `type` is 'LoadBalancer'"
	spec, balanced := &svc.Spec, svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	path := serviceSpec.Child("LoadBalancerSourceRanges") // so spelled by Kubernetes
	if len(spec.LoadBalancerSourceRanges) > 0 && !balanced {
		errs = append(errs, field.Forbidden(path, only))
	}
	var had []string
	if old != nil {
		had = old.Spec.LoadBalancerSourceRanges
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), strings.TrimSpace(cidr), true, had)...)
	}
	if spec.AllocateLoadBalancerNodePorts != nil && !balanced {
		errs = append(errs, field.Forbidden(serviceSpec.Child("allocateLoadBalancerNodePorts"), only))
	}
	if spec.LoadBalancerClass != nil {
		path := serviceSpec.Child("loadBalancerClass")
		if balanced {
			errs = append(errs, qualifiedName(path, *spec.LoadBalancerClass)...)
		} else {
			errs = append(errs, field.Forbidden(path, only))
		}
	}
	return errs
}

func validateTrafficPolicies(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec, path := &svc.Spec, serviceSpec.Child("externalTrafficPolicy")
	if externallyAccessible(svc) {
		errs = append(errs, oneOf(path, spec.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(path, spec.ExternalTrafficPolicy,
			"may only be set for externally-accessible services"))
	}
	path = serviceSpec.Child("healthCheckNodePort")
	switch {
	case spec.HealthCheckNodePort == 0: // allocated, or none
	case needsHealthCheckPort(svc):
		errs = append(errs, portNumber(path, spec.HealthCheckNodePort)...)
	default:
		errs = append(errs, field.Invalid(path, spec.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	path = serviceSpec.Child("internalTrafficPolicy")
	if p := spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, supportedOr(path, *p,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if needsNodePort(svc) || spec.Type == corev1.ServiceTypeClusterIP {
		errs = append(errs, field.Required(path, ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		supported := []string{corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode}
		if !slices.Contains(supported, *d) {
			errs = append(errs, field.NotSupported(serviceSpec.Child("trafficDistribution"), *d, supported))
		}
	}
	return errs
}
