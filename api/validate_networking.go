package api

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// annotationIngressClass is how Ingresses named their class before they had a field for it.
const annotationIngressClass = "kubernetes.io/ingress.class"

func validateIngress(in *networkingv1.Ingress) field.ErrorList {
	spec, at := &in.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(at, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if spec.DefaultBackend != nil {
		errs = append(errs, validateBackend(spec.DefaultBackend, at.Child("defaultBackend"))...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateRule(&spec.Rules[i], at.Child("rules").Index(i))...)
	}
	for i, tls := range spec.TLS {
		at := at.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, hostName(at.Child("hosts").Index(j), host)...)
		}
		if tls.SecretName != "" {
			errs = append(errs, dnsSubdomain(at.Child("secretName"), tls.SecretName)...)
		}
	}
	class := spec.IngressClassName
	if class != nil {
		errs = append(errs, dnsSubdomain(at.Child("ingressClassName"), *class)...)
	}
	if noted, ok := in.Annotations[annotationIngressClass]; ok && class != nil && *class != noted {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(annotationIngressClass), noted,
			"must match `ingressClassName` when both are specified"))
	}
	return errs
}

// hostName takes a DNS name, or one whose first label is "*".
func hostName(at *field.Path, host string) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalid(at, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return dnsSubdomain(at, host)
}

func validateRule(r *networkingv1.IngressRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, hostName(at.Child("host"), r.Host)...)
	}
	if r.HTTP == nil {
		return errs
	}
	at = at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validatePath(&r.HTTP.Paths[i], at.Index(i))...)
	}
	return errs
}

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	complain := func(format string, args ...any) {
		errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf(format, args...)))
	}
	rooted := strings.HasPrefix(p.Path, "/")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !rooted {
			complain("must be an absolute path")
		}
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				complain("must not contain '%s'", part)
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				complain("cannot end with '%s'", end)
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !rooted {
			complain("must be an absolute path")
		}
	default:
		errs = append(errs, supportedOr(at.Child("pathType"), *p.PathType, networkingv1.PathTypeExact,
			networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)...)
	}
	return append(errs, validateBackend(&p.Backend, at.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	service := at.Child("service")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	} else {
		errs = append(errs, dnsLabel(service.Child("name"), b.Service.Name)...)
	}
	port := b.Service.Port
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, invalid(service.Child("port", "name"), port.Name, validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, portNumber(service.Child("port", "number"), port.Number)...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

// validateReference checks a reference to an object of any kind.
func validateReference(group *string, kind, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if group != nil {
		errs = append(errs, dnsSubdomain(at.Child("apiGroup"), *group)...)
	}
	errs = append(errs, segment(at.Child("kind"), kind)...)
	return append(errs, segment(at.Child("name"), name)...)
}

// segment takes what may stand between two slashes of a URL.
func segment(at *field.Path, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return invalid(at, value, path.IsValidPathSegmentName(value))
}

// maxController is how long an IngressClass's controller may be, in bytes.
const maxController = 250

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if len(c.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(at.Child("controller"), "", maxController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at.Child("controller"), c.Spec.Controller)...)
	p := c.Spec.Parameters
	if p == nil {
		return errs
	}
	at = at.Child("parameters")
	errs = append(errs, validateReference(p.APIGroup, p.Kind, p.Name, at)...)
	const whole, one = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	switch {
	case p.Scope == nil:
		errs = append(errs, field.Required(at.Child("scope"), ""))
	case *p.Scope == one && p.Namespace == nil:
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *p.Scope == one:
		errs = append(errs, dnsLabel(at.Child("namespace"), *p.Namespace)...)
	case *p.Scope == whole && p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	case *p.Scope != whole:
		errs = append(errs, supportedOr(at.Child("scope"), *p.Scope, whole, one)...)
	}
	return errs
}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	spec, at := &p.Spec, field.NewPath("spec")
	errs := labelSelector(&spec.PodSelector, at.Child("podSelector"))
	for i, r := range spec.Ingress {
		errs = append(errs, validatePolicyRule(r.Ports, r.From, at.Child("ingress").Index(i), "from")...)
	}
	for i, r := range spec.Egress {
		errs = append(errs, validatePolicyRule(r.Ports, r.To, at.Child("egress").Index(i), "to")...)
	}
	if len(spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(at.Child("policyTypes"), spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range spec.PolicyTypes {
		errs = append(errs, supportedOr(at.Child("policyTypes").Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validatePolicyRule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, at *field.Path, side string) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], at.Child("ports").Index(i))...)
	}
	for i := range peers {
		errs = append(errs, validatePeer(&peers[i], at.Child(side).Index(i))...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, supportedOr(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	end := at.Child("endPort")
	switch {
	case p.Port == nil && p.EndPort != nil:
		errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
	case p.Port == nil:
	case p.Port.Type == intstr.String:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, invalid(at.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
	default:
		errs = append(errs, portNumber(at.Child("port"), p.Port.IntVal)...)
		if p.EndPort == nil {
			break
		}
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
		}
		errs = append(errs, portNumber(end, *p.EndPort)...)
	}
	return errs
}

func validatePeer(p *networkingv1.NetworkPolicyPeer, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, s := range []struct {
		name string
		sel  *metav1.LabelSelector
	}{{"podSelector", p.PodSelector}, {"namespaceSelector", p.NamespaceSelector}} {
		if s.sel != nil {
			errs = append(errs, labelSelector(s.sel, at.Child(s.name))...)
		}
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock == nil && !selects:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case p.IPBlock != nil:
		errs = append(errs, validateBlock(p.IPBlock, at.Child("ipBlock"))...)
		if selects {
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

func validateBlock(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, nil)
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs
	}
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, text, true, nil)...)
		if part, err := netip.ParsePrefix(text); err == nil && (!whole.Contains(part.Addr()) || part.Bits() <= whole.Bits()) {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func validateServiceCIDR(s *networkingv1.ServiceCIDR) field.ErrorList {
	at := field.NewPath("spec", "cidrs")
	if len(s.Spec.CIDRs) == 0 {
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	}
	if len(s.Spec.CIDRs) > 2 {
		shown := struct{ CIDRs []string }{s.Spec.CIDRs} // as Kubernetes prints it
		return field.ErrorList{field.Invalid(at, shown, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, c := range s.Spec.CIDRs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), c)...)
	}
	if c := s.Spec.CIDRs; len(c) == 2 && netutils.IPFamilyOfCIDRString(c[0]) == netutils.IPFamilyOfCIDRString(c[1]) &&
		netutils.IPFamilyOfCIDRString(c[0]) != netutils.IPFamilyUnknown {
		errs = append(errs, field.Invalid(at, s.Spec.CIDRs,
			"may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}

// validateServiceCIDRUpdate lets one range become two, and nothing else change.
func validateServiceCIDRUpdate(cidrs, old []string) field.ErrorList {
	at := field.NewPath("spec", "cidrs")
	if len(cidrs) != len(old) && (len(old) != 1 || len(cidrs) != 2) {
		return field.ErrorList{field.Invalid(at, cidrs, "field is immutable")}
	}
	var errs field.ErrorList
	for i := range old {
		if cidrs[i] != old[i] {
			errs = append(errs, field.Invalid(at.Index(i), cidrs[i], "field is immutable"))
		}
	}
	return errs
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	at := field.NewPath("spec", "parentRef")
	errs := validation.IsValidIP(field.NewPath("metadata", "name"), a.Name)
	if a.Spec.ParentRef == nil {
		return append(errs, field.Required(at, ""))
	}
	if g := a.Spec.ParentRef.Group; g != "" {
		errs = append(errs, dnsSubdomain(at.Child("group"), g)...)
	}
	errs = append(errs, segment(at.Child("resource"), a.Spec.ParentRef.Resource)...)
	return append(errs, segment(at.Child("name"), a.Spec.ParentRef.Name)...)
}
