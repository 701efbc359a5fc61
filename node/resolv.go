package node

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The limits of glibc's resolver, which Kubernetes keeps to.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchPath  = 253 // some resolvers abort over longer ones
	maxSearchChars = 2048
)

// Resolver is what resolv.conf is made from, beside the pod.
type Resolver struct {
	DNS    netip.Addr // the cluster's
	Domain string     // "cluster.local"
	Host   string     // the host's own resolv.conf
}

// resolvConf is the content of a resolv.conf.
type resolvConf struct{ nameservers, searches, options []string }

// ResolvConf is the resolv.conf of a pod, by its dnsPolicy and dnsConfig, and what had to be left out of it, for people.
func ResolvConf(pod *corev1.Pod, r Resolver) (text string, cut []string) {
	var c resolvConf
	switch dnsPolicy(pod) {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		c = parseResolvConf(r.Host)
	default:
		host := parseResolvConf(r.Host)
		c.nameservers = []string{r.DNS.String()}
		c.searches = append([]string{pod.Namespace + ".svc." + r.Domain, "svc." + r.Domain, r.Domain}, host.searches...)
		c.options = []string{"ndots:5"}
	}
	if d := pod.Spec.DNSConfig; d != nil {
		c.nameservers = append(c.nameservers, d.Nameservers...)
		c.searches = append(c.searches, d.Searches...)
		c.options = mergeOptions(c.options, d.Options)
	}
	cut = c.limit()
	return c.String(), cut
}

// dnsPolicy is the policy that counts: on the host's network ClusterFirst means Default.
func dnsPolicy(pod *corev1.Pod) corev1.DNSPolicy {
	p := pod.Spec.DNSPolicy
	if (p == corev1.DNSClusterFirst || p == "") && pod.Spec.HostNetwork {
		return corev1.DNSDefault
	}
	return p
}

func parseResolvConf(text string) resolvConf {
	var c resolvConf
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			c.nameservers = append(c.nameservers, words[1])
		case "search", "domain":
			c.searches = nil
			for _, s := range words[1:] {
				if s = strings.TrimSuffix(s, "."); s != "" { // "search ." is systemd's word for none
					c.searches = append(c.searches, s)
				}
			}
		case "options":
			c.options = append(c.options, words[1:]...)
		}
	}
	return c
}

// mergeOptions lets the pod's own options replace those of the same name.
func mergeOptions(options []string, own []corev1.PodDNSConfigOption) []string {
	for _, o := range own {
		text := o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		i := slices.IndexFunc(options, func(have string) bool {
			name, _, _ := strings.Cut(have, ":")
			return name == o.Name
		})
		if i < 0 {
			options = append(options, text)
		} else {
			options[i] = text
		}
	}
	return options
}

// limit takes out duplicates and what resolvers would not read.
func (c *resolvConf) limit() (cut []string) {
	c.nameservers, c.searches = unique(c.nameservers), unique(c.searches)
	if len(c.nameservers) > maxNameservers {
		c.nameservers = c.nameservers[:maxNameservers]
		cut = append(cut, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+
			strings.Join(c.nameservers, " "))
	}
	all := len(c.searches)
	c.searches = c.searches[:min(all, maxSearches)]
	c.searches = slices.DeleteFunc(c.searches, func(path string) bool { return len(path) > maxSearchPath })
	for len(strings.Join(c.searches, " ")) > maxSearchChars {
		c.searches = c.searches[:len(c.searches)-1]
	}
	if len(c.searches) < all {
		cut = append(cut, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+
			strings.Join(c.searches, " "))
	}
	return cut
}

func unique(all []string) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// String writes the file.
func (c resolvConf) String() string {
	var b strings.Builder
	for _, n := range c.nameservers {
		b.WriteString("nameserver " + n + "\n")
	}
	if len(c.searches) > 0 {
		b.WriteString("search " + strings.Join(c.searches, " ") + "\n")
	}
	if len(c.options) > 0 {
		b.WriteString("options " + strings.Join(c.options, " ") + "\n")
	}
	return b.String()
}

// hostsFile is a pod's /etc/hosts, as kubelet writes it.
func hostsFile(pod *corev1.Pod, ip netip.Addr, domain string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	b.WriteString("fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	if host := hostname(pod); pod.Spec.Subdomain != "" {
		b.WriteString(ip.String() + "\t" + fqdn(pod, host, domain) + "\t" + host + "\n")
	} else {
		b.WriteString(ip.String() + "\t" + host + "\n")
	}
	for _, a := range pod.Spec.HostAliases {
		b.WriteString(a.IP + "\t" + strings.Join(a.Hostnames, "\t") + "\n")
	}
	return b.String()
}

// hostname is what a pod calls itself: on the machine's network, as the machine.
func (n *Node) hostname(pod *corev1.Pod) string {
	switch short := hostname(pod); {
	case pod.Spec.HostNetwork:
		return n.cfg.Name
	case optional(pod.Spec.SetHostnameAsFQDN) && pod.Spec.Subdomain != "":
		return fqdn(pod, short, n.cfg.ClusterDomain)
	default:
		return short
	}
}

func fqdn(pod *corev1.Pod, host, domain string) string {
	return host + "." + pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + domain
}

// hostname is the first label of a pod's name; the kernel takes 64 bytes, DNS 63.
func hostname(pod *corev1.Pod) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	return strings.TrimRight(name[:min(len(name), 63)], "-.")
}
