package ingress

import (
	"cmp"
	"slices"
	"strings"
)

// The prefixes of the annotations read: ingress-nginx's, for the manifests that exist, and our own.
const (
	nginxPrefix = "nginx.ingress.kubernetes.io/"
	ownPrefix   = "ingress.kubarium.dev/"
)

// annotated is what an Ingress's annotations say.
type annotated struct {
	filters     *Filters
	regex       bool
	rewrite     string
	protocol    string
	byService   bool
	serverAlias []string
	defaultName string
	canary      *canary
	code        map[int]int // redirect codes that were asked for, by the usual ones
	authSecret  string
	auth        bool
	headersFrom string
	isCanary    bool
	// What the annotations of details need to count.
	corsOn, affinityOn bool
	// redirectTLS asks for https where there is a certificate, forceTLS everywhere.
	redirectTLS, forceTLS bool
}

// hosts is a rule's host with its aliases, each once.
func (a *annotated) hosts(host string) []string {
	all := []string{host}
	for _, alias := range a.serverAlias {
		if host != "" && !slices.Contains(all, alias) {
			all = append(all, alias)
		}
	}
	return all
}

// groups tells whether a rewrite names what a path's groups caught: then paths are expressions, as in ingress-nginx, where each rewrite makes
// them so.
func (a *annotated) groups() bool {
	for i := 0; i+1 < len(a.rewrite); i++ {
		if a.rewrite[i] == '$' && '1' <= a.rewrite[i+1] && a.rewrite[i+1] <= '9' {
			return true
		}
	}
	return false
}

func (a *annotated) fallback(namespace string) *Backend {
	if a.defaultName == "" {
		return nil
	}
	return &Backend{Namespace: namespace, Service: a.defaultName, Weight: 1}
}

// annotations reads them all. One that is unknown or wrong is told and left out; the rest holds.
func (c *compiled) annotations(from Sources) *annotated {
	a := &annotated{filters: &Filters{}, canary: &canary{total: defaultWeightTotal}, code: map[int]int{}}
	for _, key := range sortedKeys(c.ingress.Annotations) {
		name, ok := strings.CutPrefix(key, nginxPrefix)
		if !ok {
			if name, ok = strings.CutPrefix(key, ownPrefix); !ok {
				continue
			}
		}
		set, known := setters[name]
		if !known {
			c.problem("UnknownAnnotation", "%s is not an annotation that is known here", key)
			continue
		}
		if err := set(a, strings.TrimSpace(c.ingress.Annotations[key])); err != nil {
			c.problem("InvalidAnnotation", "%s: %v", key, err)
		}
	}
	c.resolve(a, from)
	return a
}

// resolve finishes what takes several annotations, or other objects.
func (c *compiled) resolve(a *annotated, from Sources) {
	f := a.filters
	if !a.isCanary {
		a.canary = nil
	}
	if !a.corsOn {
		f.CORS = nil
	}
	if !a.affinityOn {
		f.Affinity = nil
	}
	if f.Redirect != nil {
		f.Redirect.Status = cmp.Or(a.code[f.Redirect.Status], f.Redirect.Status)
	}
	f.HTTPS = a.forceTLS
	if a.auth {
		c.resolveAuth(a, from)
	} else {
		f.Auth = nil // a realm alone asks nobody for a name
	}
	if a.headersFrom != "" {
		c.resolveHeaders(a, from)
	}
}

// filtersOf is the filters of a host's rules.
func (c *compiled) filtersOf(host string, a *annotated) *Filters {
	if !a.redirectTLS || a.forceTLS || !c.hasTLS(host) {
		return a.filters
	}
	f := *a.filters
	f.HTTPS = true
	return &f
}

// hasTLS tells whether spec.tls names a host, by itself or by its wildcard.
func (c *compiled) hasTLS(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	for _, entry := range c.ingress.Spec.TLS {
		if host == "" || len(entry.Hosts) == 0 || slices.ContainsFunc(entry.Hosts, func(h string) bool {
			return strings.EqualFold(h, host) || strings.EqualFold(h, "*."+parent)
		}) {
			return true
		}
	}
	return false
}

func (c *compiled) resolveAuth(a *annotated, from Sources) {
	namespace, name := c.named(a.authSecret)
	c.uses["Secret/"+namespace+"/"+name] = true
	f := a.filters
	if f.Auth == nil {
		f.Auth = &Auth{Realm: defaultRealm}
	}
	f.Auth.Users = map[string]string{}
	if namespace != c.ingress.Namespace {
		c.problem("InvalidAnnotation", "auth-secret %s lies in another namespace: nobody is let in", a.authSecret)
		return
	}
	secret := from.secret(namespace, name)
	if secret == nil {
		c.problem("AuthSecretNotFound", "Secret %s does not exist: nobody is let in", a.authSecret)
		return
	}
	for line := range strings.Lines(string(secret.Data["auth"])) {
		if user, hash, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(line, "#") {
			f.Auth.Users[user] = hash
			if !knownHash(hash) {
				c.problem("AuthSecretUnreadable", "Secret %s: the hash of user %s is none of bcrypt, apr1 and SHA: the user is not let in", a.authSecret, user)
			}
		}
	}
}

func (c *compiled) resolveHeaders(a *annotated, from Sources) {
	namespace, name := c.named(a.headersFrom)
	c.uses["ConfigMap/"+namespace+"/"+name] = true
	if namespace != c.ingress.Namespace {
		c.problem("InvalidAnnotation", "custom-headers %s lies in another namespace", a.headersFrom)
		return
	}
	m := from.ConfigMap(namespace, name)
	if m == nil {
		c.problem("ConfigMapNotFound", "custom-headers: ConfigMap %s does not exist", a.headersFrom)
		return
	}
	for _, key := range sortedKeys(m.Data) {
		if !validName(key) || !validValue(m.Data[key]) {
			c.problem("InvalidAnnotation", "custom-headers: %q is no header field", key)
			continue
		}
		a.filters.AnswerHeaders = append(a.filters.AnswerHeaders, Field{key, m.Data[key]})
	}
}

// named splits "namespace/name", or takes the Ingress's namespace.
func (c *compiled) named(text string) (namespace, name string) {
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		return namespace, name
	}
	return c.ingress.Namespace, text
}
