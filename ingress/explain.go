package ingress

import (
	"fmt"
	"strings"
)

// Reason is what one rule said to a request.
type Reason struct {
	Ingress string `json:"ingress"`
	Field   string `json:"field"`
	Host    string `json:"host"` // "*" for every host
	Path    string `json:"path"`
	Kind    string `json:"pathType"`
	Taken   bool   `json:"taken"`
	Why     string `json:"why"`
}

// Explanation is the way that a request takes.
type Explanation struct {
	Rule    *Rule    `json:"-"`
	Verdict string   `json:"verdict"`
	Reasons []Reason `json:"reasons"`
}

// Explain asks the table which rule takes a request, and every rule of the hosts in question why it does not. The answer comes
// from the functions that route, so that it cannot differ from what happens.
func (t *Table) Explain(r *Request) Explanation {
	e := Explanation{}
	rule, ok := t.Find(r)
	if !ok {
		e.Verdict = fmt.Sprintf("400: %q is not a path that could be compared", r.Path)
		return e
	}
	e.Rule = rule
	host := hostname(r.Host)
	path, _ := comparable(r.Path)
	_, parent, _ := strings.Cut(host, ".")
	names := [3]string{host, "*." + parent, "*"}
	levels := t.levels(host)
	for _, defaults := range []bool{false, true} {
		for i, v := range levels {
			for _, other := range v.all(defaults) {
				e.Reasons = append(e.Reasons, other.reason(names[i], path, r, rule))
			}
		}
	}
	if rule == nil {
		e.Verdict = "404: no rule matches host " + host + " and path " + path
		return e
	}
	e.Verdict = fmt.Sprintf("%s of Ingress %s takes it: %s", rule.Field, rule.Ingress, rule.destinations())
	return e
}

func (v *vhost) all(defaults bool) []*Rule {
	switch {
	case v == nil:
		return nil
	case defaults:
		return v.defaults.all()
	}
	return v.rules.all()
}

func (p *paths) all() []*Rule {
	var all []*Rule
	for _, in := range []map[string][]*Rule{p.exact, p.prefix} {
		for _, path := range sortedKeys(in) {
			all = append(all, in[path]...)
		}
	}
	return append(all, p.regex...)
}

func (r *Rule) reason(host, path string, q *Request, taken *Rule) Reason {
	out := Reason{Ingress: r.Ingress, Field: r.Field, Host: host, Path: r.Match.Path, Kind: r.Match.Kind.String(), Taken: r == taken}
	switch {
	case r == taken:
		out.Why = "the best match"
	case !r.Match.path(path):
		out.Why = fmt.Sprintf("%s %s does not match %s", out.Kind, r.Match.Path, path)
	case !r.Match.fields(q):
		out.Why = "a header or cookie that it asks for is not there or differs"
	default:
		out.Why = fmt.Sprintf("matches, but %s of Ingress %s goes first", taken.Field, taken.Ingress)
	}
	return out
}

// path tells whether a match takes a path, all else aside.
func (m *Match) path(path string) bool {
	switch m.Kind {
	case PathExact:
		return path == m.key
	case PathPrefix:
		prefix := strings.TrimSuffix(m.key, "/")
		rest, ok := strings.CutPrefix(path, prefix)
		return ok && (rest == "" || rest[0] == '/')
	default:
		return m.Regex.MatchString(path)
	}
}

func (r *Rule) destinations() string {
	if r.Filters != nil && r.Filters.Redirect != nil {
		return "it is redirected"
	}
	var all []string
	for _, b := range r.Backends {
		all = append(all, fmt.Sprintf("%s (%d of %d)", b, b.Weight, r.total))
	}
	if len(all) == 0 {
		return "503, it has no backend"
	}
	return strings.Join(all, ", ")
}

// String is "dev/web:80" or "dev/web:http".
func (b Backend) String() string {
	if b.Resource != "" {
		return b.Namespace + "/" + b.Resource
	}
	return b.Namespace + "/" + b.Service + ":" + b.Port.String()
}

// String is the port's name or number.
func (p Port) String() string {
	if p.Name != "" {
		return p.Name
	}
	return fmt.Sprint(p.Number)
}
