package dns

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// whyEmpty says why a name that exists, that of a step or where its CNAMEs lead to, has no record of its type. The caller holds mu.
func (x *index) whyEmpty(name string, step *Step) string {
	what := "the name"
	if len(step.Answers) > 0 {
		what = name
	}
	n := x.find(name)
	if n == nil || len(n.records) == 0 {
		return what + " only leads to others below it"
	}
	return fmt.Sprintf("%s has no %s record, only %s", what, step.Type, strings.Join(n.types(), ", "))
}

// whyMissing says why a name of our zones does not exist, and what is near. The caller holds mu.
func (x *index) whyMissing(name string) string {
	below, ours := strings.CutSuffix(name, x.zones.under)
	if !ours {
		return "no Service and no published endpoint has this address"
	}
	labels := dns.SplitDomainName(below)
	branch, labels := labels[len(labels)-1], labels[:len(labels)-1]
	switch {
	case branch == "pod":
		return x.whyNoPod(labels)
	case branch != "svc":
		return "names of Services have the form SERVICE.NAMESPACE.svc." + x.zones.domain + x.nearBranch(labels, branch)
	}
	namespace, labels := labels[len(labels)-1], labels[:len(labels)-1]
	if x.table.get(namespace+".svc."+x.zones.domain) == nil {
		return "there is no namespace " + namespace + cmp.Or(near(namespace, x.namespaces()), x.nearService(namespace, labels))
	}
	service, labels := labels[len(labels)-1], labels[:len(labels)-1]
	s := x.services[namespace+"/"+service]
	if s == nil || s.svc == nil {
		return fmt.Sprintf("namespace %s has no Service %s%s", namespace, service, x.nearService(namespace, []string{service}))
	}
	return x.whyNotBelow(s, strings.Join(labels, "."))
}

// whyNoPod says why there is no name of a pod, of these labels.
func (x *index) whyNoPod(labels []string) string {
	namespace := labels[len(labels)-1]
	_, isAddress := undashed(labels[0])
	switch {
	case x.pods == PodsOff:
		return "names of pods are not answered here"
	case x.table.get(namespace+".pod."+x.zones.domain) == nil:
		return "there is no namespace " + namespace + near(namespace, x.namespaces())
	case len(labels) != 2 || !isAddress:
		return fmt.Sprintf("names of pods spell their address: 10-244-1-7.%s.pod.%s", namespace, x.zones.domain)
	}
	return "no living pod of namespace " + namespace + " has this address"
}

// whyNotBelow says why a Service has no name, or none with these labels below it.
func (x *index) whyNotBelow(s *service, labels string) string {
	what := "Service " + s.svc.Namespace + "/" + s.svc.Name
	switch {
	case s.svc.Spec.Type == corev1.ServiceTypeExternalName && labels != "":
		return what + " is an ExternalName: nothing lies below it"
	case s.svc.Spec.Type == corev1.ServiceTypeExternalName:
		return fmt.Sprintf("%s leads to %q, which is no name", what, s.svc.Spec.ExternalName)
	case headless(s.svc):
		all, shown := s.endpoints()
		if all == 0 {
			return what + " is headless and has no endpoint"
		} else if shown == 0 {
			return fmt.Sprintf("%s is headless and none of its %d endpoints is ready", what, all)
		}
	case len(clusterIPs(s.svc)) == 0:
		return what + " has no address yet"
	}
	switch {
	case strings.HasPrefix(labels, "_"):
		return fmt.Sprintf("%s has no port named so: %s%s", what, labels, near(labels, x.namesBelow(s)))
	case s.unready(x.zones.domain, labels):
		return fmt.Sprintf("the endpoint %s of %s is not ready", labels, what)
	}
	return fmt.Sprintf("%s has no ready endpoint named %s%s", what, labels, near(labels, x.namesBelow(s)))
}

// endpoints counts all endpoints of a Service, and the addresses of those that are published.
func (s *service) endpoints() (all, shown int) {
	for _, slice := range s.slices {
		all += len(slice.Endpoints)
	}
	for range published(s.svc, s.slices) {
		shown++
	}
	return all, shown
}

// unready says that an endpoint would have the name label if it were ready.
func (s *service) unready(domain, label string) bool {
	all := *s.svc
	all.Spec.PublishNotReadyAddresses = true
	name := serviceName(s.svc.Namespace, s.svc.Name, domain)
	for e := range published(&all, s.slices) {
		if endpointName(e, name) == label+"."+name || dashed(e.addr) == label {
			return true
		}
	}
	return false
}

// namesBelow is what stands in front of a Service's name in the names that it has: "_http._tcp", "db-0".
func (x *index) namesBelow(s *service) []string {
	var all []string
	for _, st := range x.wanted["Service "+api.Name(s.svc)] {
		if below, ok := strings.CutSuffix(st.owner, "."+serviceName(s.svc.Namespace, s.svc.Name, x.zones.domain)); ok {
			all = append(all, below)
		}
	}
	return all
}

// nearBranch is "; did you mean X?" for a name with another word in the place of svc, or without it, or "".
func (x *index) nearBranch(labels []string, branch string) string {
	for _, service := range [][]string{labels, append(slices.Clip(labels), branch)} {
		name := strings.Join(service, ".") + ".svc." + x.zones.domain
		if n := x.find(name); n != nil && len(n.records) > 0 && n.records[0].typ != dns.TypeCNAME {
			return "; did you mean " + name + "?"
		}
	}
	return ""
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

// nearService names Services spelled nearly as the last label in the namespace, or exactly so elsewhere. Without labels the namespace
// itself may have been meant to be a Service.
func (x *index) nearService(namespace string, labels []string) string {
	service := namespace
	if len(labels) > 0 {
		service = labels[len(labels)-1]
	}
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
	return fmt.Sprintf("; namespace %s has a Service %s", slices.Min(elsewhere), service)
}

// near is "; did you mean X?" for the candidate most like a word, or "".
func near(word string, candidates []string) string {
	slices.Sort(candidates)
	if best := api.Nearest(word, candidates); best != "" {
		return "; did you mean " + best + "?"
	}
	return ""
}
