package ingress

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"kubarium.dev/api"
)

// Problem is what is wrong with an Ingress, told in an event.
type Problem struct {
	Ingress *networkingv1.Ingress
	Reason  string // "UnknownAnnotation"
	Message string

	host string // as the table files it, of a problem that a canary has there
}

// Sources finds the objects that annotations name. A function returns nil for what does not exist.
type Sources struct {
	Secret    func(namespace, name string) *corev1.Secret
	ConfigMap func(namespace, name string) *corev1.ConfigMap

	keys *keyPairs
}

func (s Sources) secret(namespace, name string) *corev1.Secret {
	if s.Secret == nil {
		return nil
	}
	return s.Secret(namespace, name)
}

// Compile turns Ingresses into Routes, the oldest first. What cannot be compiled is left out and told: one broken Ingress never
// stops the others.
func Compile(ingresses []*networkingv1.Ingress, from Sources) ([]Route, []Problem) {
	var mains, canaries []*compiled
	var problems []Problem
	for _, ing := range ingresses {
		c := compileOne(ing, from)
		problems = append(problems, c.problems...)
		if c.canary != nil {
			canaries = append(canaries, c)
		} else {
			mains = append(mains, c)
		}
	}
	routes := routesOf(mains)
	taken := map[pathKey]bool{}
	for _, c := range byAge(canaries) {
		problems = append(problems, join(routes, c, taken)...)
	}
	return routes, problems
}

// byAge sorts in place: the oldest first, then by name.
func byAge(all []*compiled) []*compiled {
	slices.SortFunc(all, func(x, y *compiled) int {
		a, b := x.ingress, y.ingress
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// compiled is one Ingress by itself.
type compiled struct {
	ingress  *networkingv1.Ingress
	routes   []Route
	canary   *canary // not nil: its routes join those of others
	certs    []hostsCert
	problems []Problem
	uses     map[string]bool // "Secret/dev/auth": the objects that went into it
}

func (c *compiled) problem(reason, format string, args ...any) {
	c.problems = append(c.problems, Problem{Ingress: c.ingress, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func compileOne(ing *networkingv1.Ingress, from Sources) *compiled {
	c := &compiled{ingress: ing, uses: map[string]bool{}}
	a := c.annotations(from)
	c.canary = a.canary
	byHost := map[string]int{}
	for i := range ing.Spec.Rules {
		rule := &ing.Spec.Rules[i]
		if rule.HTTP == nil {
			continue
		}
		at, ok := byHost[rule.Host]
		if !ok {
			at = len(c.routes)
			byHost[rule.Host] = at
			c.routes = append(c.routes, Route{Hosts: a.hosts(rule.Host)})
		}
		for j := range rule.HTTP.Paths {
			field := fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j)
			if r, ok := c.rule(field, &rule.HTTP.Paths[j], a, c.filtersOf(rule.Host, a)); ok {
				c.routes[at].Rules = append(c.routes[at].Rules, r)
			}
		}
	}
	c.defaultBackend(a, byHost)
	c.certificates(from)
	return c
}

// defaultBackend takes what no rule of any Ingress does: for the Ingress's own hosts, and for every host.
func (c *compiled) defaultBackend(a *annotated, hosts map[string]int) {
	spec := c.ingress.Spec.DefaultBackend
	if spec == nil {
		return
	}
	r := Rule{
		Ingress: api.Name(c.ingress), Field: "spec.defaultBackend", Match: Match{Kind: PathPrefix, Path: "/"},
		Filters: c.filtersOf("", a), Backends: []Backend{c.backend("spec.defaultBackend", spec, a)}, Fallback: a.fallback(c.ingress.Namespace),
	}
	names := append(slices.Sorted(maps.Keys(hosts)), "")
	c.routes = append(c.routes, Route{Hosts: slices.Compact(slices.Sorted(slices.Values(names))), Rules: []Rule{r}, Default: true})
}

func (c *compiled) rule(field string, p *networkingv1.HTTPIngressPath, a *annotated, f *Filters) (Rule, bool) {
	r := Rule{
		Ingress: api.Name(c.ingress), Field: field, Match: Match{Kind: PathPrefix, Path: cmp.Or(p.Path, "/")}, Filters: f,
		Backends: []Backend{c.backend(field, &p.Backend, a)}, Fallback: a.fallback(c.ingress.Namespace),
	}
	kind := networkingv1.PathTypeImplementationSpecific
	if p.PathType != nil {
		kind = *p.PathType
	}
	switch {
	case kind == networkingv1.PathTypeExact:
		r.Match.Kind = PathExact
	case kind == networkingv1.PathTypeImplementationSpecific && (a.regex || a.groups()):
		r.Match.Kind = PathRegex
	}
	if r.Match.Kind != PathRegex && a.rewrite == "" {
		return r, true
	}
	expression, err := regexp.Compile("(?i)^" + r.Match.Path)
	if err != nil {
		if r.Match.Kind != PathRegex {
			expression = regexp.MustCompile("(?i)^" + regexp.QuoteMeta(r.Match.Path))
		} else {
			c.problem("InvalidPath", "%s: %q is no regular expression: %v", field, r.Match.Path, err)
			return r, false
		}
	}
	r.Match.Regex = expression
	if a.rewrite != "" {
		withRewrite := *f
		withRewrite.Rewrite = &Rewrite{Pattern: expression, Target: a.rewrite}
		r.Filters = &withRewrite
	}
	return r, true
}

func (c *compiled) backend(field string, b *networkingv1.IngressBackend, a *annotated) Backend {
	out := Backend{Namespace: c.ingress.Namespace, Protocol: a.protocol, ByService: a.byService, Weight: 1}
	switch {
	case b.Service != nil:
		out.Service = b.Service.Name
		out.Port = Port{Name: b.Service.Port.Name, Number: b.Service.Port.Number}
	case b.Resource != nil:
		out.Resource = b.Resource.Kind + "/" + b.Resource.Name
		c.problem("UnsupportedBackend", "%s: a backend of kind %s is not supported; such requests are answered 503", field, b.Resource.Kind)
	}
	return out
}

// routesOf is the routes of Ingresses that are no canaries, the oldest first.
func routesOf(mains []*compiled) []Route {
	var routes []Route
	for _, c := range byAge(mains) {
		for _, r := range c.routes {
			r.Rules = slices.Clone(r.Rules)
			routes = append(routes, r)
		}
	}
	return routes
}

// pathKey names a path of a host: a canary joins the rules of its own.
type pathKey struct {
	host, path string
	kind       PathKind
}

// join adds the rules of a canary in front of those it is a canary of. Each path has one canary, the oldest.
func join(routes []Route, c *compiled, taken map[pathKey]bool) []Problem {
	var problems []Problem
	for _, cr := range c.routes {
		if cr.Default {
			continue
		}
		for _, rule := range cr.Rules {
			key := pathKey{strings.ToLower(cr.Hosts[0]), rule.Match.Path, rule.Match.Kind}
			found := false
			for i := range routes {
				if !slices.Contains(routes[i].Hosts, cr.Hosts[0]) || routes[i].Default || taken[key] {
					continue
				}
				var split []Rule
				for _, main := range routes[i].Rules {
					if main.Match.Path == rule.Match.Path && main.Match.Kind == rule.Match.Kind && len(main.Match.Fields) == 0 {
						split = append(split, c.canary.split(main, rule)...)
						found = true
						continue
					}
					split = append(split, main)
				}
				routes[i].Rules = split
			}
			if taken[key] || !found {
				problems = append(problems, Problem{Ingress: c.ingress, host: hostKey(key.host), Reason: "CanaryWithoutMain", Message: fmt.Sprintf(
					"%s: no other Ingress has host %q and path %s, or it has a canary already: this one takes no request", rule.Field, key.host, key.path)})
			}
			taken[key] = taken[key] || found
		}
	}
	return problems
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
