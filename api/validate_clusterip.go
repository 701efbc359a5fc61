package api

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// validateClusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, each alone and one with the other.
func validateClusterIPs(svc, old *corev1.Service) field.ErrorList {
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil // none of them may be set: validateServiceType
	}
	errs := validateClusterIPSync(spec)
	seen := map[corev1.IPFamily]bool{}
	for i, family := range spec.IPFamilies {
		path := serviceSpec.Child("ipFamilies").Index(i)
		errs = append(errs, supportedOr(path, family, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen[family] {
			errs = append(errs, field.Duplicate(path, family))
		}
		seen[family] = true
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, supportedOr(serviceSpec.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	var had []string
	if old != nil {
		had = old.Spec.ClusterIPs
	}
	return append(errs, validateClusterIPList(svc, had)...)
}

func validateClusterIPSync(spec *corev1.ServiceSpec) field.ErrorList {
	path := serviceSpec.Child("clusterIPs")
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		return field.ErrorList{field.Invalid(path, spec.ClusterIPs, "must be empty when `clusterIP` is not specified")}
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		return field.ErrorList{field.Required(path, "")}
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		return field.ErrorList{field.Invalid(path, spec.ClusterIPs, "first value must match `clusterIP`")}
	}
	return nil
}

func validateClusterIPList(svc *corev1.Service, had []string) field.ErrorList {
	var errs field.ErrorList
	ips, path, bad := svc.Spec.ClusterIPs, serviceSpec.Child("clusterIPs"), false
	for i, ip := range ips {
		var e field.ErrorList
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				e = field.ErrorList{field.Invalid(path, ips, "'None' must be the first and only value")}
			}
		} else {
			e = address(path.Index(i), ip, had)
		}
		bad = bad || len(e) > 0
		errs = append(errs, e...)
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(path, ips, "may only hold up to 2 values"))
	}
	if bad || isHeadless(svc) {
		return errs
	}
	if len(ips) > 1 {
		dual, err := netutils.IsDualStackIPStrings(ips)
		if err != nil { // an old value, from laxer times
			errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		}
		if !dual {
			errs = append(errs, field.Invalid(path, ips, "may specify no more than one IP for each IP family"))
		}
	}
	return append(errs, validateClusterIPFamilies(ips, svc.Spec.IPFamilies)...)
}

// validateClusterIPFamilies: each address is of the family that stands in its place.
func validateClusterIPFamilies(ips []string, families []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	path := serviceSpec.Child("clusterIPs")
	for i := range min(len(ips), len(families)) {
		want, is := families[i], corev1.IPv4Protocol
		if netutils.IsIPv6String(ips[i]) {
			is = corev1.IPv6Protocol
		}
		if want != is && (want == corev1.IPv4Protocol || want == corev1.IPv6Protocol) {
			errs = append(errs, field.Invalid(path.Index(i), ips[i],
				fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", want, i)))
		}
	}
	return errs
}

// validateServiceUpdate: the addresses of a Service stay what they are, unless its type goes to or from ExternalName.
func validateServiceUpdate(svc, old *corev1.Service) field.ErrorList {
	errs := validateClusterIPUpdate(svc, old)
	errs = append(errs, validateFamilyUpdate(svc, old)...)
	balanced := svc.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer
	if balanced && !equality.Semantic.DeepEqual(svc.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(serviceSpec.Child("loadBalancerClass"), svc.Spec.LoadBalancerClass,
			"may not change once set"))
	}
	if needsHealthCheckPort(old) && needsHealthCheckPort(svc) &&
		svc.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(serviceSpec.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateService(svc, old)...)
}

func validateClusterIPUpdate(svc, old *corev1.Service) field.ErrorList {
	if !needsClusterIP(svc) || !needsClusterIP(old) || isHeadless(svc) && isHeadless(old) {
		return nil
	}
	var errs field.ErrorList
	is, was, path := svc.Spec.ClusterIPs, old.Spec.ClusterIPs, serviceSpec.Child("clusterIPs")
	if len(was) > 0 && len(is) == 0 {
		return field.ErrorList{field.Invalid(path.Index(0), is, "primary clusterIP can not be unset")}
	}
	for i := range min(len(is), len(was)) {
		if is[i] != was[i] {
			errs = append(errs, field.Invalid(path.Index(i), is, "may not change once set"))
		}
	}
	if len(was) > len(is) && len(is) == 1 && !singleStack(svc) {
		errs = append(errs, field.Invalid(serviceSpec.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

func validateFamilyUpdate(svc, old *corev1.Service) field.ErrorList {
	if !needsClusterIP(svc) || !needsClusterIP(old) || isHeadless(svc) || isHeadless(old) {
		return nil
	}
	var errs field.ErrorList
	is, was := svc.Spec.IPFamilies, old.Spec.IPFamilies
	if n := min(len(is), len(was)); !slices.Equal(is[:n], was[:n]) {
		errs = append(errs, field.Invalid(serviceSpec.Child("ipFamilies").Index(0), is, "may not change once set"))
	}
	if len(was) > len(is) && len(is) == 1 && !singleStack(svc) {
		errs = append(errs, field.Invalid(serviceSpec.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func singleStack(svc *corev1.Service) bool {
	return svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
}
