package ingress

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Description is what the ingress makes of one Ingress.
type Description struct {
	Ingress     string      `json:"ingress"` // namespace/name
	Class       string      `json:"class"`   // which one, and where it was found
	Served      bool        `json:"served"`
	Addresses   []string    `json:"addresses"` // that its status shows
	Rules       []Path      `json:"rules"`     // by host, and of each host in the order in which they are compared
	TLS         []HostCert  `json:"tls"`
	Annotations [][2]string `json:"annotations"` // in force: name and value
	Wrong       []Advice    `json:"wrong"`
}

// Path is one rule for one host.
type Path struct {
	Host      string   `json:"host"` // "*" for every host
	Path      string   `json:"path"`
	Kind      string   `json:"pathType"`
	Field     string   `json:"field"`
	Condition string   `json:"condition,omitempty"` // on headers and cookies
	To        []Target `json:"to"`
	Answer    string   `json:"answer,omitempty"` // instead of a backend's: a redirect, a 503
}

// Target is a backend and where its requests go now.
type Target struct {
	Backend   string   `json:"backend"` // dev/web:80
	Share     float64  `json:"share"`   // 0..1
	Endpoints []string `json:"endpoints"`
	Problem   string   `json:"problem,omitempty"`
}

// HostCert is the certificate that a host gets.
type HostCert struct {
	Host   string `json:"host"`
	Secret string `json:"secret"`
	State  string `json:"state"`
}

// Advice is something that is wrong, and what to do about it.
type Advice struct {
	What string `json:"what"`
	Next string `json:"next"`
}

// Describe tells what the ingress makes of an Ingress, from what it serves with. It is false for one that it does not know.
func (c *Controller) Describe(name types.NamespacedName) (Description, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.model.ingresses[name.String()] == nil {
		return Description{}, false
	}
	ing := c.model.ingresses[name.String()]
	d := &description{m: c.model, ing: ing}
	d.Description = Description{
		Ingress: name.String(), Addresses: []string{}, Rules: []Path{}, TLS: []HostCert{}, Annotations: [][2]string{}, Wrong: []Advice{},
	}
	for _, a := range ing.Status.LoadBalancer.Ingress {
		d.Addresses = append(d.Addresses, cmp.Or(a.IP, a.Hostname))
	}
	if d.class(); d.Served {
		t := c.table.Load()
		d.rules(t)
		d.certificates(t, c.cfg.Now())
		d.annotations()
	}
	return d.Description, true
}

type description struct {
	Description
	m   *model
	ing *networkingv1.Ingress
}

func (d *description) wrong(next, format string, words ...any) {
	a := Advice{What: fmt.Sprintf(format, words...), Next: next}
	if !slices.Contains(d.Wrong, a) {
		d.Wrong = append(d.Wrong, a)
	}
}

// class tells why the Ingress is served here, or by nobody.
func (d *description) class() {
	d.Served = d.ing.DeletionTimestamp == nil && d.m.ours(d.ing)
	name, where := "", "none, and no IngressClass is the default one"
	if old, ok := d.ing.Annotations[classAnnotation]; ok {
		name, where = old, "of the annotation "+classAnnotation
	}
	if field := d.ing.Spec.IngressClassName; field != nil {
		name, where = *field, "of spec.ingressClassName"
	}
	if name == "" {
		if class := d.m.defaultClass(); class != nil {
			name, where = class.Name, "the default one"
		}
	}
	d.Class = where
	if name != "" {
		d.Class = name + " (" + where + ")"
	}
	if d.Served {
		return
	}
	class := d.m.classes[name]
	switch {
	case d.ing.DeletionTimestamp != nil:
		d.wrong("wait until its finalizers are done", "it is being deleted and takes no request any more")
	case class == nil && name != "":
		d.wrong("make that IngressClass with spec.controller "+d.m.c.cfg.ControllerName+", or take one that exists: "+listed(sortedKeys(d.m.classes)),
			"there is no IngressClass %s: no request reaches it", name)
	case class != nil:
		d.wrong("set spec.ingressClassName to a class of controller "+d.m.c.cfg.ControllerName,
			"IngressClass %s belongs to controller %s, which is not this one", name, class.Spec.Controller)
	default:
		d.wrong("set spec.ingressClassName", "it names no class, and those without one are not served")
	}
}

func listed(all []string) string {
	if len(all) == 0 {
		return "none does"
	}
	return strings.Join(all, ", ")
}

// rules walks the table for the Ingress's hosts: what stands there is what routes.
func (d *description) rules(t *Table) {
	c := d.m.compiled[d.Ingress]
	for _, defaults := range []bool{false, true} {
		for _, host := range c.keys() {
			v := t.get(host)
			p := v.rules
			if defaults {
				p = v.defaults
			}
			for _, r := range p.inOrder() {
				if r.Ingress == d.Ingress || c.canary != nil && r.leadsTo(c) {
					d.rule(hostOf(host), p, r)
				}
			}
		}
	}
	for _, p := range d.m.problems(d.Ingress) {
		if next, ok := steps[p.Reason]; ok { // the others are told of with their rules and certificates
			d.wrong(next, "%s", p.Message)
		}
	}
	if len(d.Rules) == 0 && len(d.Wrong) == 0 {
		d.wrong("give it spec.rules or spec.defaultBackend", "it has no rule and no default backend")
	}
}

// steps is what to do about the problems that compiling finds.
var steps = map[string]string{
	"UnknownAnnotation":    "correct its name, or take it away: it does nothing",
	"InvalidAnnotation":    "correct its value: it is left out meanwhile",
	"InvalidPath":          "correct the expression: the path is left out meanwhile",
	"UnsupportedBackend":   "name a Service instead of a resource",
	"CanaryWithoutMain":    "give it the host, path and pathType of the Ingress that it is a canary of",
	"AuthSecretNotFound":   "make the Secret: kubectl create secret generic NAME --from-file=auth",
	"AuthSecretUnreadable": "write the file with htpasswd -B",
	"ConfigMapNotFound":    "make the ConfigMap",
}

func (d *description) rule(host string, p *paths, r *Rule) {
	out := Path{Host: host, Path: r.Match.Path, Kind: r.Match.Kind.String(), Field: r.Field, Condition: r.Match.condition(), To: []Target{}}
	if r.Ingress != d.Ingress {
		out.Field += " of " + r.Ingress
	}
	for i := range r.Backends {
		b := &r.Backends[i]
		to := Target{Backend: b.String(), Share: float64(b.Weight) / float64(max(r.total, 1)), Endpoints: []string{}}
		at := b.live.places.Load()
		for _, e := range at.endpoints {
			to.Endpoints = append(to.Endpoints, strings.TrimSpace(e.address+" "+e.pod))
		}
		if to.Problem = at.problem; to.Problem != "" {
			d.backend(r, b, to.Problem)
		}
		out.To = append(out.To, to)
	}
	if f := r.Filters; f != nil && f.Redirect != nil {
		out.To, out.Answer = []Target{}, fmt.Sprintf("%d to %s", f.Redirect.Status, f.Redirect.Location)
	}
	if first := p.before(r); first != nil {
		d.wrong("give one of them another path, or delete one", "%s %s of host %s takes no request: %s of Ingress %s has the same path and goes first",
			out.Kind, out.Path, host, first.Field, first.Ingress)
	}
	d.Rules = append(d.Rules, out)
}

// backend says what is wrong with where a rule leads.
func (d *description) backend(r *Rule, b *Backend, problem string) {
	name := b.Namespace + "/" + b.Service
	svc := d.m.services[name]
	next := "see why: kubarium why svc/" + b.Service + " -n " + b.Namespace
	switch {
	case b.Resource != "":
		return // compiling tells it
	case svc == nil:
		var there []string
		for _, other := range sortedKeys(d.m.services) {
			if in, short, _ := strings.Cut(other, "/"); in == b.Namespace {
				there = append(there, short)
			}
		}
		next = "create it, or name one that exists in namespace " + b.Namespace + ": " + listed(there)
	case !hasPort(svc, b.Port):
		var ports []string
		for _, p := range svc.Spec.Ports {
			ports = append(ports, strings.TrimSpace(fmt.Sprint(p.Port, " ", p.Name)))
		}
		next = "name one of its ports: " + listed(ports)
	}
	d.wrong(next, "%s leads to Service %s: %s; such requests are answered 503", r.Field, b, problem)
}

func hasPort(svc *corev1.Service, port Port) bool {
	_, ok := portOf(svc, port)
	return ok
}

// certificates tells for each host of spec.tls whose certificate a client gets.
func (d *description) certificates(t *Table, now time.Time) {
	for i, entry := range d.ing.Spec.TLS {
		for _, host := range entry.Hosts {
			d.certificate(t, now, i, host)
		}
		if len(entry.Hosts) == 0 {
			d.certificate(t, now, i, "")
		}
	}
}

func (d *description) certificate(t *Table, now time.Time, i int, host string) {
	entry := d.ing.Spec.TLS[i]
	out := HostCert{Host: cmp.Or(host, "*"), Secret: entry.SecretName}
	field := fmt.Sprintf("spec.tls[%d].secretName", i)
	if entry.SecretName == "" {
		out.State = "no Secret is named: the ingress's own, self-signed certificate"
		d.TLS = append(d.TLS, out)
		return
	}
	cert, err := d.m.keys.of(d.m.secret(d.ing.Namespace, entry.SecretName))
	switch {
	case err != nil:
		out.State = "Secret " + err.Error() + ": the ingress's own, self-signed certificate"
		d.wrong(fmt.Sprintf("kubectl create secret tls %s -n %s --cert=FILE --key=FILE", entry.SecretName, d.ing.Namespace),
			"%s: Secret %s/%s %v; %s gets a self-signed certificate", field, d.ing.Namespace, entry.SecretName, err, out.Host)
	case t.get(hostKey(host)).cert != cert:
		out.State = "another Ingress's certificate, which is older"
		d.wrong("name the host in one Ingress's spec.tls alone", "%s: an older Ingress has a certificate for %s, and clients get that one", field, out.Host)
	default:
		out.State = "valid until " + cert.Leaf.NotAfter.UTC().Format(time.RFC3339)
		if now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
			out.State = "not valid now: from " + cert.Leaf.NotBefore.UTC().Format(time.RFC3339) + " to " + cert.Leaf.NotAfter.UTC().Format(time.RFC3339)
			d.wrong("put a new certificate into the Secret", "%s: the certificate for %s is %s", field, out.Host, out.State)
		}
		name := strings.Replace(host, "*", "any", 1) // a wildcard stands for one label
		if host != "" && cert.Leaf.VerifyHostname(name) != nil {
			out.State = "made for " + listed(cert.Leaf.DNSNames) + ", not for this host"
			d.wrong("put a certificate for the host into the Secret", "%s: the certificate for %s is made for %s", field, host, listed(cert.Leaf.DNSNames))
		}
	}
	d.TLS = append(d.TLS, out)
}

// annotations lists those that are in force: known, and not told to be wrong.
func (d *description) annotations() {
	for _, key := range sortedKeys(d.ing.Annotations) {
		name, ok := strings.CutPrefix(key, nginxPrefix)
		if !ok {
			if name, ok = strings.CutPrefix(key, ownPrefix); !ok {
				continue
			}
		}
		told := func(p Problem) bool { return strings.HasPrefix(p.Message, key+": ") }
		if setters[name] != nil && !slices.ContainsFunc(d.m.compiled[d.Ingress].problems, told) {
			d.Annotations = append(d.Annotations, [2]string{name, d.ing.Annotations[key]})
		}
	}
}

// hostOf is a host that the table files, as people write it.
func hostOf(key string) string {
	if key == "" || key[0] == '.' {
		return "*" + key
	}
	return key
}

// leadsTo tells of a rule whether a share of its requests goes where a canary's do.
func (r *Rule) leadsTo(canary *compiled) bool {
	for _, route := range canary.routes {
		for _, own := range route.Rules {
			for i := range r.Backends {
				b := &r.Backends[i]
				if own.Match.Path == r.Match.Path && b.Service == own.Backends[0].Service && b.Port == own.Backends[0].Port && b.Namespace == own.Backends[0].Namespace {
					return true
				}
			}
		}
	}
	return false
}

// condition is what a match asks of headers and cookies, in words.
func (m *Match) condition() string {
	var all []string
	for _, f := range m.Fields {
		what := "header " + f.Name
		if f.Cookie {
			what = "cookie " + f.Name
		}
		if f.Regex != nil {
			all = append(all, what+" matches "+f.Regex.String())
		} else {
			all = append(all, what+" is "+f.Value)
		}
	}
	return strings.Join(all, ", ")
}

// inOrder is the rules as they are compared: longer paths first, Exact before Prefix.
func (p *paths) inOrder() []*Rule {
	all := p.all()
	slices.SortStableFunc(all, func(a, b *Rule) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.Match.Kind, b.Match.Kind))
	})
	return all
}

// before is the rule that takes everything that r could; nil: r has requests of its own.
func (p *paths) before(r *Rule) *Rule {
	list := p.regex
	switch r.Match.Kind {
	case PathExact:
		list = p.exact[r.Match.key]
	case PathPrefix:
		list = p.prefix[strings.TrimSuffix(r.Match.key, "/")]
	}
	for _, other := range list {
		switch {
		case other == r:
			return nil
		case len(other.Match.Fields) == 0 && (r.Match.Kind != PathRegex || other.Match.Path == r.Match.Path):
			return other
		}
	}
	return nil
}
