package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
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
	code        map[string]int // redirect codes that were asked for
	authSecret  string
	auth        bool
	headersFrom string
	isCanary    bool
	// What the annotations of details need to count.
	corsOn, affinityOn bool
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

func (a *annotated) fallback(namespace string) *Backend {
	if a.defaultName == "" {
		return nil
	}
	return &Backend{Namespace: namespace, Service: a.defaultName, Weight: 1}
}

// annotations reads them all. One that is unknown or wrong is told and left out; the rest holds.
func (c *compiled) annotations(from Sources) *annotated {
	a := &annotated{filters: &Filters{}, canary: &canary{total: defaultWeightTotal}, code: map[string]int{}}
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
		f.Redirect.Status = cmp.Or(a.code[strconv.Itoa(f.Redirect.Status)], f.Redirect.Status)
	}
	if f.HTTPS && a.code["ssl"] != 0 && len(c.ingress.Spec.TLS) == 0 {
		f.HTTPS = false // ssl-redirect asks for it only where there is a certificate; force-ssl-redirect always does
	}
	if a.auth {
		c.resolveAuth(a, from)
	}
	if a.headersFrom != "" {
		c.resolveHeaders(a, from)
	}
}

func (c *compiled) resolveAuth(a *annotated, from Sources) {
	namespace, name := c.named(a.authSecret)
	c.uses["Secret/"+namespace+"/"+name] = true
	f := a.filters
	if f.Auth == nil {
		f.Auth = &Auth{}
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

type setter = func(*annotated, string) error

// setters is every annotation that is known, without its prefix.
var setters = map[string]setter{
	"rewrite-target":          func(a *annotated, v string) error { a.rewrite = v; return line(v) },
	"use-regex":               boolean(func(a *annotated, v bool) { a.regex = v }),
	"app-root":                func(a *annotated, v string) error { a.filters.AppRoot = v; return absolute(v) },
	"ssl-redirect":            boolean(func(a *annotated, v bool) { a.redirectTLS("ssl", v) }),
	"force-ssl-redirect":      boolean(func(a *annotated, v bool) { a.redirectTLS("force", v) }),
	"permanent-redirect":      redirect(301),
	"permanent-redirect-code": integer(func(a *annotated, v int) { a.code["301"] = v }, 300, 308),
	"temporal-redirect":       redirect(302),
	"temporal-redirect-code":  integer(func(a *annotated, v int) { a.code["302"] = v }, 300, 308),
	"backend-protocol": func(a *annotated, v string) error {
		a.protocol = strings.ToUpper(v)
		return oneOf(a.protocol, "HTTP", "HTTPS", "GRPC", "GRPCS", "AUTO_HTTP")
	},
	"proxy-connect-timeout": duration(func(a *annotated, d time.Duration) { a.filters.Connect = d }),
	"proxy-read-timeout":    duration(func(a *annotated, d time.Duration) { a.filters.Read = d }),
	"proxy-send-timeout":    duration(func(a *annotated, d time.Duration) { a.filters.Send = d }),
	"proxy-body-size":       func(a *annotated, v string) (err error) { a.filters.MaxBody, err = size(v); return },
	"affinity": func(a *annotated, v string) error {
		a.affinity()
		a.affinityOn = v == "cookie"
		return oneOf(v, "cookie")
	},
	"session-cookie-name":    func(a *annotated, v string) error { a.affinity().Cookie = v; return token(v) },
	"session-cookie-path":    func(a *annotated, v string) error { a.affinity().Path = v; return absolute(v) },
	"session-cookie-max-age": integer(func(a *annotated, v int) { a.affinity().MaxAge = v }, 0, 1<<31),
	"session-cookie-samesite": func(a *annotated, v string) error {
		a.affinity().SameSite = v
		return oneOf(v, "None", "Lax", "Strict")
	},
	"session-cookie-secure":  boolean(func(a *annotated, v bool) { a.affinity().Secure = v }),
	"upstream-vhost":         func(a *annotated, v string) error { a.filters.UpstreamHost = v; return line(v) },
	"x-forwarded-prefix":     func(a *annotated, v string) error { a.filters.ForwardedPrefix = v; return line(v) },
	"whitelist-source-range": func(a *annotated, v string) (err error) { a.filters.Allow, err = ranges(v); return },
	"denylist-source-range":  func(a *annotated, v string) (err error) { a.filters.Deny, err = ranges(v); return },
	"enable-cors":            boolean(func(a *annotated, v bool) { a.cors(); a.corsOn = v }),
	"cors-allow-origin":      func(a *annotated, v string) error { a.cors().Origins = list(v); return line(v) },
	"cors-allow-methods":     func(a *annotated, v string) error { a.cors().Methods = v; return line(v) },
	"cors-allow-headers":     func(a *annotated, v string) error { a.cors().Headers = v; return line(v) },
	"cors-expose-headers":    func(a *annotated, v string) error { a.cors().Expose = v; return line(v) },
	"cors-allow-credentials": boolean(func(a *annotated, v bool) { a.cors().Credentials = v }),
	"cors-max-age":           integer(func(a *annotated, v int) { a.cors().MaxAge = v }, 0, 1<<31),
	"auth-type":              func(a *annotated, v string) error { a.auth = true; return oneOf(v, "basic") },
	"auth-secret":            func(a *annotated, v string) error { a.authSecret = v; return line(v) },
	"auth-realm":             func(a *annotated, v string) error { a.filters.Auth = &Auth{Realm: v}; return line(v) },
	"limit-rps":              integer(func(a *annotated, v int) { a.filters.RequestsPerSecond = v }, 1, 1<<20),
	"custom-headers":         func(a *annotated, v string) error { a.headersFrom = v; return line(v) },
	"default-backend":        func(a *annotated, v string) error { a.defaultName = v; return line(v) },
	"server-alias":           func(a *annotated, v string) error { a.serverAlias = list(v); return line(v) },
	"service-upstream":       boolean(func(a *annotated, v bool) { a.byService = v }),
	"mirror-target":          mirror,
	"canary":                 boolean(func(a *annotated, v bool) { a.isCanary = v }),
	"canary-weight":          integer(func(a *annotated, v int) { a.canary.weight = v }, 0, 1<<20),
	"canary-weight-total":    integer(func(a *annotated, v int) { a.canary.total = v }, 1, 1<<20),
	"canary-by-header":       func(a *annotated, v string) error { a.canary.header = v; return token(v) },
	"canary-by-header-value": func(a *annotated, v string) error { a.canary.value = v; return line(v) },
	"canary-by-header-pattern": func(a *annotated, v string) (err error) {
		// What nobody can match keeps such a header from meaning "always" when the pattern is broken.
		if a.canary.pattern, err = regexp.Compile(v); err != nil {
			a.canary.pattern = nothing
		}
		return
	},
	"canary-by-cookie": func(a *annotated, v string) error { a.canary.cookie = v; return token(v) },
}

// nothing matches no text.
var nothing = regexp.MustCompile(`[^\s\S]`)

func (a *annotated) redirectTLS(which string, on bool) {
	if !on {
		return
	}
	a.filters.HTTPS = true
	// "force" is read before "ssl" and stands above it.
	if which == "force" {
		a.code["force"] = 1
	} else if a.code["force"] == 0 {
		a.code["ssl"] = 1
	}
}

func (a *annotated) affinity() *Affinity {
	if a.filters.Affinity == nil {
		a.filters.Affinity = &Affinity{Cookie: "INGRESSCOOKIE", Path: "/"}
	}
	return a.filters.Affinity
}

// cors is ingress-nginx's defaults until annotations change them.
func (a *annotated) cors() *CORS {
	if a.filters.CORS == nil {
		a.filters.CORS = &CORS{
			Origins: []string{"*"}, Methods: "GET, PUT, POST, DELETE, PATCH, OPTIONS", Credentials: true, MaxAge: 1728000,
			Headers: "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
		}
	}
	return a.filters.CORS
}

func boolean(set func(*annotated, bool)) setter {
	return func(a *annotated, text string) error {
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		set(a, v)
		return nil
	}
}

func integer(set func(*annotated, int), least, most int) setter {
	return func(a *annotated, text string) error {
		v, err := strconv.Atoi(text)
		if err != nil || v < least || v > most {
			return fmt.Errorf("%q is not a whole number from %d to %d", text, least, most)
		}
		set(a, v)
		return nil
	}
}

// duration is seconds without a unit, as in ingress-nginx, or a number with one.
func duration(set func(*annotated, time.Duration)) setter {
	return func(a *annotated, text string) error {
		if _, err := strconv.Atoi(text); err == nil {
			text += "s"
		}
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a time in seconds above 0", text)
		}
		set(a, d)
		return nil
	}
}

func redirect(status int) setter {
	return func(a *annotated, v string) error {
		if err := location(v); err != nil {
			return err
		}
		a.filters.Redirect = &Redirect{Status: status, Location: v}
		return nil
	}
}

func location(v string) error {
	if u, err := url.Parse(v); err != nil || (u.Host == "" && !strings.HasPrefix(v, "/")) || !validValue(v) {
		return fmt.Errorf("%q is no address to redirect to", v)
	}
	return nil
}

func mirror(a *annotated, v string) error {
	target, _, _ := strings.Cut(v, "$request_uri")
	if u, err := url.Parse(target); err != nil || u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("%q is not an http:// address", v)
	}
	a.filters.Mirror = strings.TrimSuffix(target, "/")
	return nil
}

// size is a number of bytes, or one with k, m or g as in nginx.
func size(text string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "kmg")
	shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}
	by, ok := shift[strings.ToLower(text)[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || !ok || n < 0 {
		return 0, fmt.Errorf("%q is not a size such as 8m", text)
	}
	return n << by, nil
}

func ranges(text string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	var wrong []error
	for _, item := range list(text) {
		p, err := netip.ParsePrefix(item)
		if a, single := netip.ParseAddr(item); single == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%q is no address range", item))
			continue
		}
		all = append(all, p.Masked())
	}
	if len(all) == 0 {
		// Nobody rather than everybody, when a list of who may come in cannot be read.
		all = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32)}
	}
	return all, errors.Join(wrong...)
}

func list(text string) []string {
	var all []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

func oneOf(v string, known ...string) error {
	if !slices.Contains(known, v) {
		return fmt.Errorf("%q is none of %s", v, strings.Join(known, ", "))
	}
	return nil
}

func absolute(v string) error {
	if !strings.HasPrefix(v, "/") || !validValue(v) {
		return fmt.Errorf("%q does not start with a slash", v)
	}
	return nil
}

func token(v string) error {
	if !validName(v) {
		return fmt.Errorf("%q is no name of a header or cookie", v)
	}
	return nil
}

// line refuses what would break out of a header field.
func line(v string) error {
	if v == "" || !validValue(v) {
		return fmt.Errorf("%q is empty or holds control characters", v)
	}
	return nil
}
