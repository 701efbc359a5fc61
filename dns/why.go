package dns

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// whyEmpty says why a name that exists has no record of a type. The caller holds mu.
func (x *index) whyEmpty(name, qtype string) string {
	n := x.find(name)
	if n == nil || len(n.records) == 0 {
		return "the name only leads to others below it"
	}
	return fmt.Sprintf("the name has no %s record, only %s", qtype, strings.Join(n.types(), ", "))
}

// whyMissing says why a name of our zones does not exist, and what is near. The caller holds mu.
func (x *index) whyMissing(name string) string {
	if name = strings.TrimSuffix(name, x.zones.under); strings.HasSuffix(name, ".arpa.") {
		return "no Service and no published endpoint has this address"
	}
	labels := strings.Split(name, ".")
	branch, labels := labels[len(labels)-1], labels[:len(labels)-1]
	switch {
	case branch == "pod":
		return "no such pod record"
	case branch != "svc" || len(labels) == 0:
		return "names of Services have the form SERVICE.NAMESPACE.svc." + x.zones.domain
	}
	namespace := labels[len(labels)-1]
	if x.table.get(namespace+".svc."+x.zones.domain) == nil {
		return "there is no namespace " + namespace + near(namespace, x.namespaces())
	}
	if labels = labels[:len(labels)-1]; len(labels) == 0 {
		return ""
	}
	service := labels[len(labels)-1]
	s := x.services[namespace+"/"+service]
	if s == nil || s.svc == nil {
		return fmt.Sprintf("namespace %s has no Service %s%s", namespace, service, x.nearService(namespace, service))
	}
	return s.whyMissing(labels[:len(labels)-1])
}

// whyMissing says why a Service has no name, or none with these labels below it.
func (s *service) whyMissing(labels []string) string {
	what := "Service " + s.svc.Namespace + "/" + s.svc.Name
	switch {
	case s.svc.Spec.Type == corev1.ServiceTypeExternalName && len(labels) > 0:
		return what + " is an ExternalName: nothing lies below it"
	case s.svc.Spec.Type == corev1.ServiceTypeExternalName:
		return fmt.Sprintf("%s leads to %q, and there is no such name", what, s.svc.Spec.ExternalName)
	case headless(s.svc):
		all, shown := 0, 0
		for _, slice := range s.slices {
			all += len(slice.Endpoints)
		}
		for range published(s.svc, s.slices) {
			shown++
		}
		if shown == 0 {
			return fmt.Sprintf("%s is headless and none of its %d endpoints is ready", what, all)
		}
	case len(clusterIPs(s.svc)) == 0:
		return what + " has no address yet"
	}
	if len(labels) > 0 && strings.HasPrefix(labels[0], "_") {
		return fmt.Sprintf("%s has no port named so: %s", what, strings.Join(labels, "."))
	}
	return fmt.Sprintf("%s has no ready endpoint named %s", what, strings.Join(labels, "."))
}

// nearDomain is "; did you mean ...?" for a name that ends nearly as the cluster's do, or "".
func (z *zones) nearDomain(name string) string {
	labels := dns.SplitDomainName(name)
	n := dns.CountLabel(z.domain)
	if len(labels) <= n {
		return ""
	}
	end := strings.ToLower(strings.Join(labels[len(labels)-n:], ".") + ".")
	if end == z.domain || api.Nearest(end, []string{z.domain}) == "" {
		return ""
	}
	return "; did you mean " + strings.Join(labels[:len(labels)-n], ".") + "." + z.domain + "?"
}

func (x *index) namespaces() []string {
	var all []string
	for source := range x.wanted {
		if ns, ok := strings.CutPrefix(source, "Namespace "); ok {
			all = append(all, ns)
		}
	}
	return all
}

// nearService names Services spelled nearly so in the namespace, or exactly so elsewhere.
func (x *index) nearService(namespace, service string) string {
	var here, elsewhere []string
	for _, s := range x.services {
		switch {
		case s.svc == nil:
		case s.svc.Namespace == namespace:
			here = append(here, s.svc.Name)
		case s.svc.Name == service:
			elsewhere = append(elsewhere, s.svc.Namespace)
		}
	}
	if hint := near(service, here); hint != "" || len(elsewhere) == 0 {
		return hint
	}
	slices.Sort(elsewhere)
	return fmt.Sprintf("; namespace %s has one", elsewhere[0])
}

// near is "; did you mean X?" for the candidate most like a word, or "".
func near(word string, candidates []string) string {
	slices.Sort(candidates)
	if best := api.Nearest(word, candidates); best != "" {
		return "; did you mean " + best + "?"
	}
	return ""
}
