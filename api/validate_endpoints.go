package api

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Limits of one EndpointSlice, Kubernetes' own.
const (
	maxEndpoints      = 1000
	maxEndpointPorts  = 20000
	maxSliceAddresses = 100 // of one endpoint
	maxHints          = 8
	maxTopologyLabels = 16
)

func validateSubsets(subsets []corev1.EndpointSubset) field.ErrorList {
	var errs field.ErrorList
	for i := range subsets {
		s, path := &subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], path.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], path.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			errs = append(errs, validateEndpointPort(&s.Ports[j], len(s.Ports) > 1, path.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, path *field.Path) field.ErrorList {
	errs := address(path.Child("ip"), a.IP, nil)
	if a.Hostname != "" {
		errs = append(errs, dnsLabel(path.Child("hostname"), a.Hostname)...)
	}
	if a.NodeName != nil {
		errs = append(errs, dnsSubdomain(path.Child("nodeName"), *a.NodeName)...)
	}
	return append(errs, endpointAddress(path.Child("ip"), a.IP)...)
}

func validateEndpointPort(p *corev1.EndpointPort, needsName bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Name != "" {
		errs = append(errs, dnsLabel(path.Child("name"), p.Name)...)
	} else if needsName {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, portNumber(path.Child("port"), p.Port)...)
	errs = append(errs, protocol(path.Child("protocol"), p.Protocol)...)
	if p.AppProtocol != nil {
		errs = append(errs, qualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
	}
	return errs
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := oneOf(field.NewPath("addressType"), s.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	errs = append(errs, validateSlicePorts(s.Ports, field.NewPath("ports"))...)
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return errs
}

func validateSlicePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxEndpointPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxEndpointPorts)}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i, port := range ports {
		p, name := path.Index(i), ""
		if port.Name != nil {
			name = *port.Name
		}
		if name != "" {
			errs = append(errs, dnsLabel(p.Child("name"), name)...)
		}
		if names[name] {
			errs = append(errs, field.Duplicate(p.Child("name"), name))
		}
		names[name] = true
		if port.Protocol == nil {
			errs = append(errs, field.Required(p.Child("protocol"), ""))
		} else {
			errs = append(errs, supportedOr(p.Child("protocol"), *port.Protocol,
				corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if port.AppProtocol != nil {
			errs = append(errs, qualifiedName(p.Child("appProtocol"), *port.AppProtocol)...)
		}
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, t discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("addresses")
	switch n := len(e.Addresses); {
	case n == 0:
		errs = append(errs, field.Required(at, "must contain at least 1 address"))
	case n > maxSliceAddresses:
		errs = append(errs, field.TooMany(at, n, maxSliceAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, sliceAddress(a, t, at, i)...)
	}
	if e.NodeName != nil {
		errs = append(errs, dnsSubdomain(path.Child("nodeName"), *e.NodeName)...)
	}
	if n := len(e.DeprecatedTopology); n > maxTopologyLabels {
		errs = append(errs, field.TooMany(path.Child("deprecatedTopology"), n, maxTopologyLabels))
	}
	errs = append(errs, metavalidation.ValidateLabels(e.DeprecatedTopology, path.Child("deprecatedTopology"))...)
	if e.Hostname != nil {
		errs = append(errs, dnsLabel(path.Child("hostname"), *e.Hostname)...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, path.Child("hints"))...)
	}
	return errs
}

// sliceAddress checks the i-th address of an endpoint against the type of its slice.
func sliceAddress(a string, t discoveryv1.AddressType, path *field.Path, i int) field.ErrorList {
	if t == discoveryv1.AddressTypeFQDN {
		return validation.IsFullyQualifiedDomainName(path.Index(i), a)
	}
	var errs field.ErrorList
	switch t {
	case discoveryv1.AddressTypeIPv4:
		errs = address(path.Index(i), a, nil)
	case discoveryv1.AddressTypeIPv6:
		errs = validation.IsValidIP(path.Index(i), a)
	default:
		return nil
	}
	if len(errs) > 0 {
		return errs
	}
	if t == discoveryv1.AddressTypeIPv4 && !netutils.IsIPv4String(a) {
		errs = append(errs, field.Invalid(path, a, "must be an IPv4 address"))
	}
	if t == discoveryv1.AddressTypeIPv6 && !netutils.IsIPv6String(a) {
		errs = append(errs, field.Invalid(path, a, "must be an IPv6 address"))
	}
	return append(errs, endpointAddress(path.Index(i), a)...)
}

func validateHints(h *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	at := path.Child("forZones")
	if len(h.ForZones) > maxHints {
		return field.ErrorList{field.TooMany(at, len(h.ForZones), maxHints)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, z := range h.ForZones {
		p := at.Index(i).Child("name")
		if seen[z.Name] {
			errs = append(errs, field.Duplicate(p, z.Name))
		}
		seen[z.Name] = true
		errs = append(errs, invalid(p, z.Name, validation.IsValidLabelValue(z.Name))...)
	}
	at = path.Child("forNodes")
	if len(h.ForNodes) > maxHints {
		return append(errs, field.TooMany(at, len(h.ForNodes), maxHints))
	}
	seen = map[string]bool{}
	for i, n := range h.ForNodes {
		p := at.Index(i).Child("name")
		if seen[n.Name] {
			errs = append(errs, field.Duplicate(p, n.Name))
		}
		seen[n.Name] = true
		errs = append(errs, dnsSubdomain(p, n.Name)...)
	}
	return errs
}
