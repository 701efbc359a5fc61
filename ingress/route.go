package ingress

import (
	"cmp"
	"crypto/tls"
	"hash/maphash"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Request is what routing looks at.
type Request struct {
	Method string
	Host   string // as sent, port included
	Path   string // as sent, percent-encoded, without the query
	Query  string // as sent, with its "?"; "" when there is none
	Header Header
	TLS    bool
	Client netip.Addr
}

// Header looks up the first value of a field, "" when there is none. http.Header is one.
type Header interface{ Get(name string) string }

// PathKind is how a Match compares paths.
type PathKind int

// The kinds of path match, in the order in which they win when they match equally much.
const (
	PathExact  PathKind = iota // the whole path
	PathPrefix                 // whole elements from the start; a slash at the end makes no difference
	PathRegex                  // a regular expression from the start, whatever the letters' case
)

// String is the kind's name in Gateway API.
func (k PathKind) String() string {
	return [...]string{"Exact", "PathPrefix", "RegularExpression"}[k]
}

// FieldMatch is a condition on a header field or a cookie.
type FieldMatch struct {
	Cookie bool
	Name   string
	Value  string         // compared when Regex is nil
	Regex  *regexp.Regexp // anywhere in the value, as in nginx
}

// Match is the condition of a Rule: the path and all fields.
type Match struct {
	Kind   PathKind
	Path   string         // as written in the Ingress
	Regex  *regexp.Regexp // for PathRegex
	Fields []FieldMatch

	key string // Path in the form that requests' paths are compared in
}

// Backend is one of a Rule's backends, drawn by Weight among all of them.
type Backend struct {
	Namespace, Service string
	Port               Port
	Protocol           string // "", HTTP, HTTPS, GRPC, GRPCS; "" asks the Service port's appProtocol
	// ByService sends to the Service's own address instead of its endpoints.
	ByService bool
	Weight    int
	// Resource names a backend that is not a Service: always 503.
	Resource string

	live  *service // what runs behind it, bound by the controller
	stats *ruleStats
}

// Port is a Service's port by name or by number.
type Port struct {
	Name   string
	Number int32
}

// Rule leads what it matches through its filters to its backends.
type Rule struct {
	Ingress string // namespace/name of the Ingress it comes from
	Field   string // where in it: spec.rules[0].http.paths[1]
	Match   Match
	Filters *Filters
	// Backends with their weights; none answers 503.
	Backends []Backend
	// Fallback takes requests when the drawn backend has no endpoint; nil: 503.
	Fallback *Backend

	total int // of the weights
	size  int // of the match: longer wins
	stats *ruleStats
}

// Route is the rules of some hosts, in order of age: the shape of an HTTPRoute.
type Route struct {
	Hosts []string // exact, "*.example.com", or "" for every host
	Rules []Rule
	// Default marks the rules that take what no other rule of any Route does.
	Default bool
}

// Table answers which rule takes a request, and which certificate a name gets. It never changes: with makes another.
type Table struct {
	parts [tableParts]map[string]*vhost
}

// tableParts is in how many maps a table's hosts lie: so much less is copied when one host changes.
const tableParts = 256

// partSeed scatters hosts over the parts.
var partSeed = maphash.MakeSeed()

// vhost is all that is known of one host.
type vhost struct {
	rules, defaults *paths // defaults take what no rule of any host does
	cert            *tls.Certificate
}

// paths files the rules of one host by path. A list holds rules of equal paths, the first that matches wins.
type paths struct {
	exact, prefix map[string][]*Rule
	regex         []*Rule // longest first
}

// NewTable files Routes. Where two match equally well, the earlier wins.
func NewTable(routes []Route) *Table {
	byHost := map[string][]Route{}
	for _, r := range routes {
		for _, host := range r.Hosts {
			byHost[hostKey(host)] = append(byHost[hostKey(host)], r)
		}
	}
	hosts := map[string]*vhost{}
	for key, of := range byHost {
		hosts[key] = newHost(of)
	}
	return (&Table{}).with(hosts)
}

// hostKey is the name under which a host of an Ingress is filed: ".example.com" for "*.example.com", "" for every host.
func hostKey(host string) string { return strings.TrimPrefix(strings.ToLower(host), "*") }

// newHost files the rules of one host.
func newHost(routes []Route) *vhost {
	v := &vhost{rules: newPaths(), defaults: newPaths()}
	for i := range routes {
		in := v.rules
		if routes[i].Default {
			in = v.defaults
		}
		for j := range routes[i].Rules {
			in.add(&routes[i].Rules[j])
		}
	}
	v.rules.sort()
	v.defaults.sort()
	return v
}

// with is the table in which some hosts are others, or none (nil). It shares the parts that stay.
func (t *Table) with(changed map[string]*vhost) *Table {
	out := *t
	var fresh [tableParts]bool
	for key, v := range changed {
		i := part(key)
		if !fresh[i] {
			fresh[i] = true
			out.parts[i] = maps.Clone(out.parts[i])
			if out.parts[i] == nil {
				out.parts[i] = map[string]*vhost{}
			}
		}
		set(out.parts[i], key, v, v == nil)
	}
	return &out
}

func part(key string) uint64 { return maphash.String(partSeed, key) % tableParts }

func (t *Table) get(key string) *vhost { return t.parts[part(key)][key] }

// levels is what a host's requests ask, in this order: the exact host, its wildcard, every host; nil where there is none.
func (t *Table) levels(host string) [3]*vhost {
	all := [3]*vhost{2: t.get("")}
	if host != "" && host[0] != '.' {
		all[0] = t.get(host)
	}
	if dot := strings.IndexByte(host, '.'); dot > 0 {
		all[1] = t.get(host[dot:])
	}
	return all
}

func newPaths() *paths { return &paths{exact: map[string][]*Rule{}, prefix: map[string][]*Rule{}} }

func (p *paths) add(r *Rule) {
	r.size = len(r.Match.Path)
	if r.Match.key, _ = comparable(r.Match.Path); r.Match.key == "" {
		r.Match.key = r.Match.Path
	}
	r.total = 0
	for _, b := range r.Backends {
		r.total += b.Weight
	}
	switch r.Match.Kind {
	case PathExact:
		p.exact[r.Match.key] = append(p.exact[r.Match.key], r)
	case PathPrefix:
		key := strings.TrimSuffix(r.Match.key, "/")
		p.prefix[key] = append(p.prefix[key], r)
	case PathRegex:
		p.regex = append(p.regex, r)
	}
}

// sort puts longer matches first and leaves equal ones in order of age.
func (p *paths) sort() {
	longer := func(a, b *Rule) int { return cmp.Compare(b.size, a.size) }
	for _, list := range p.prefix {
		slices.SortStableFunc(list, longer)
	}
	slices.SortStableFunc(p.regex, longer)
}

// Find returns the rule that takes a request, nil when none does, and false when the path is none that could be compared.
func (t *Table) Find(r *Request) (*Rule, bool) {
	path, ok := comparable(r.Path)
	if !ok {
		return nil, false
	}
	levels := t.levels(hostname(r.Host))
	for _, v := range levels {
		if v != nil {
			if rule := v.rules.find(path, r); rule != nil {
				return rule, true
			}
		}
	}
	for _, v := range levels {
		if v != nil {
			if rule := v.defaults.find(path, r); rule != nil {
				return rule, true
			}
		}
	}
	return nil, true
}

// certificate is the one for a name that a client asks for; nil: none.
func (t *Table) certificate(name string) *tls.Certificate {
	for _, v := range t.levels(strings.ToLower(strings.TrimSuffix(name, "."))) {
		if v != nil && v.cert != nil {
			return v.cert
		}
	}
	return nil
}

// find is the longest match of a path; an exact one is the whole path and comes first.
func (p *paths) find(path string, r *Request) *Rule {
	if rule := first(p.exact[path], r); rule != nil {
		return rule
	}
	best := p.longestPrefix(path, r)
	for _, rule := range p.regex {
		if best != nil && best.size >= rule.size {
			break
		}
		if rule.Match.Regex.MatchString(path) && rule.Match.fields(r) {
			return rule
		}
	}
	return best
}

func (p *paths) longestPrefix(path string, r *Request) *Rule {
	if len(p.prefix) == 0 {
		return nil
	}
	for end := len(strings.TrimSuffix(path, "/")); end >= 0; end = strings.LastIndexByte(path[:end], '/') {
		if rule := first(p.prefix[path[:end]], r); rule != nil {
			return rule
		}
	}
	return nil
}

func first(rules []*Rule, r *Request) *Rule {
	for _, rule := range rules {
		if rule.Match.fields(r) {
			return rule
		}
	}
	return nil
}

// fields tells whether every condition on headers and cookies holds.
func (m *Match) fields(r *Request) bool {
	for i := range m.Fields {
		f := &m.Fields[i]
		value := ""
		if f.Cookie {
			value = cookie(r.Header.Get("Cookie"), f.Name)
		} else {
			value = r.Header.Get(f.Name)
		}
		if f.Regex != nil {
			if value == "" || !f.Regex.MatchString(value) {
				return false
			}
		} else if value != f.Value {
			return false
		}
	}
	return true
}

// cookie finds one cookie in a Cookie field.
func cookie(field, name string) string {
	for field != "" {
		var pair string
		pair, field, _ = strings.Cut(field, ";")
		if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
			return v
		}
	}
	return ""
}

// hostname is a Host field in lower case, without port and without the dot that ends a full name.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// comparable is the path that rules are compared with: octets decoded but for a slash, empty and dot segments resolved, so that
// a path cannot pass by a rule in disguise. The path that is sent on stays as it came. It fails for a path that is not absolute,
// is not properly encoded or climbs above the root.
func comparable(path string) (string, bool) {
	if path == "*" {
		return "/*", true // OPTIONS * asks the server as a whole: only a rule for everything takes it
	}
	if path == "" || path[0] != '/' {
		return "", false
	}
	if strings.IndexByte(path, '%') < 0 && !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path, true
	}
	decoded, ok := decode(path)
	if !ok {
		return "", false
	}
	return resolve(decoded)
}

// decode undoes percent-encoding, but for slashes and zero bytes: those stay part of their element.
func decode(path string) (string, bool) {
	if strings.IndexByte(path, '%') < 0 {
		return path, true
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		if i+2 >= len(path) || unhex(path[i+1]) < 0 || unhex(path[i+2]) < 0 {
			return "", false
		}
		c := byte(unhex(path[i+1])<<4 | unhex(path[i+2]))
		switch c {
		case 0:
			return "", false
		case '/', '%':
			b.WriteString(strings.ToUpper(path[i : i+3]))
		default:
			b.WriteByte(c)
		}
		i += 2
	}
	return b.String(), true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func resolve(path string) (string, bool) {
	var out []string
	elements := strings.Split(path[1:], "/")
	for i, e := range elements {
		last := i == len(elements)-1
		switch {
		case e == "..":
			if len(out) == 0 {
				return "", false
			}
			out = out[:len(out)-1]
		case e != "" && e != ".":
			out = append(out, e)
			continue
		}
		if last {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/"), true
}
