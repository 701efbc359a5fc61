package ingress

import (
	"encoding/base64"
	"hash/fnv"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// verdict is what happens to a request: an answer of the ingress's own, or a backend and what to send it.
type verdict struct {
	rule    *Rule
	service *service
	places  *places
	stats   *ruleStats
	sticky  *endpoint // the endpoint that the affinity cookie names

	status int // not 0: answered here
	reason string
	fields []Field // of the answer, whoever makes it

	target string // path and query to send
}

func (v *verdict) answer(status int, reason string, fields ...Field) *verdict {
	v.status, v.reason = status, reason
	v.fields = append(v.fields, fields...)
	return v
}

// decide asks the routes and the rule's filters. length is the body's, -1 when it is not known.
func (c *Controller) decide(q *Request, length int64, v *verdict) *verdict {
	snapshot := c.table.Load()
	if snapshot == nil {
		return v.answer(http.StatusServiceUnavailable, "the ingress has not read the cluster yet")
	}
	rule, ok := snapshot.Find(q)
	if !ok {
		return v.answer(http.StatusBadRequest, "the path cannot be read")
	}
	if rule == nil {
		return v.answer(http.StatusNotFound, "no rule matches")
	}
	v.rule, v.stats = rule, rule.stats
	v.target = q.Path + q.Query
	if f := rule.Filters; f != nil && c.filter(f, q, length, v) {
		return v
	}
	b := rule.stuck(q)
	if b == nil {
		b = rule.draw(spread(c.cfg.Seed, c.draws.Add(1)))
	}
	if b == nil || b.live == nil {
		return v.answer(http.StatusServiceUnavailable, "the rule has no backend")
	}
	v.use(b)
	if len(v.places.endpoints) == 0 && rule.Fallback != nil && rule.Fallback.live != nil {
		v.use(rule.Fallback)
	}
	if len(v.places.endpoints) == 0 {
		return v.answer(http.StatusServiceUnavailable, v.places.problem)
	}
	if rule.Filters != nil && rule.Filters.Affinity != nil {
		v.stick(rule.Filters.Affinity, q)
	}
	return v
}

func (v *verdict) use(b *Backend) {
	v.service, v.places, v.stats = b.live, b.live.places.Load(), b.stats
}

// filter applies what stands before the backend; true means that the request is answered.
func (c *Controller) filter(f *Filters, q *Request, length int64, v *verdict) bool {
	v.fields = append(v.fields, f.AnswerHeaders...)
	if c.guard(f, q, v) || c.lead(f, q, v) || f.admit(q, length, v) {
		return true
	}
	if f.Rewrite != nil {
		v.rewrite(f.Rewrite, q)
	}
	return false
}

// guard looks at where a request comes from, and how often.
func (c *Controller) guard(f *Filters, q *Request, v *verdict) bool {
	in := func(p netip.Prefix) bool { return p.Contains(q.Client.Unmap()) }
	switch {
	case slices.ContainsFunc(f.Deny, in), len(f.Allow) > 0 && !slices.ContainsFunc(f.Allow, in):
		v.answer(http.StatusForbidden, "the client's address is not allowed")
	case f.RequestsPerSecond > 0 && !c.limits.allow(v.rule.Ingress, q.Client, f.RequestsPerSecond):
		v.answer(http.StatusServiceUnavailable, "too many requests", Field{"Retry-After", "1"})
	}
	return v.status != 0
}

// lead answers with the way to somewhere else.
func (c *Controller) lead(f *Filters, q *Request, v *verdict) bool {
	switch {
	case f.CORS != nil && f.CORS.apply(q, v):
		v.answer(http.StatusNoContent, "preflight")
	case f.HTTPS && !q.TLS:
		v.answer(http.StatusPermanentRedirect, "https is asked for", Field{"Location", "https://" + c.secureHost(q.Host) + v.target})
	case f.Redirect != nil:
		v.answer(f.Redirect.Status, "redirected", Field{"Location", strings.ReplaceAll(f.Redirect.Location, requestURI, v.target)})
	case f.AppRoot != "" && q.Path == "/":
		v.answer(http.StatusFound, "redirected to the application's root", Field{"Location", f.AppRoot})
	}
	return v.status != 0
}

// secureHost is where https answers for a client that asked plainly at a host and port.
func (c *Controller) secureHost(host string) string {
	name := hostname(host)
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if port := c.cfg.SecurePorts[host[i+1:]]; port != "" {
			return name + ":" + port
		}
	}
	return name
}

// admit looks at who a request is from, and what it carries.
func (f *Filters) admit(q *Request, length int64, v *verdict) bool {
	switch {
	case f.Auth != nil && !f.Auth.allows(q.Header.Get("Authorization")):
		v.answer(http.StatusUnauthorized, "a name and a password are asked for", Field{"WWW-Authenticate", "Basic realm=" + strconv.Quote(f.Auth.Realm)})
	case f.MaxBody > 0 && length > f.MaxBody:
		v.answer(http.StatusRequestEntityTooLarge, "the body is too large")
	}
	return v.status != 0
}

// rewrite replaces the path by the target, with what the pattern's groups caught.
func (v *verdict) rewrite(r *Rewrite, q *Request) {
	path, _ := comparable(q.Path)
	groups := r.Pattern.FindStringSubmatchIndex(path)
	if groups == nil {
		return
	}
	target := string(r.Pattern.ExpandString(nil, braced(r.Target), path, groups))
	target = escape(target)
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if whole, ok := strings.CutSuffix(target, "?"); ok {
		v.target = whole // nginx's way to leave the query out
		return
	}
	if len(q.Query) > 1 && strings.Contains(target, "?") {
		v.target = target + "&" + q.Query[1:]
		return
	}
	v.target = target + q.Query
}

// braced turns nginx's $1 into Go's ${1}, which reads $1x as the name of a group.
func braced(target string) string {
	var b strings.Builder
	for i := 0; i < len(target); i++ {
		if target[i] == '$' && i+1 < len(target) && '0' <= target[i+1] && target[i+1] <= '9' {
			b.WriteString("${" + target[i+1:i+2] + "}")
			i++
			continue
		}
		b.WriteByte(target[i])
	}
	return b.String()
}

// escape encodes what may not stand in a request line.
func escape(target string) string {
	var b strings.Builder
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' || c == '#' {
			b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)|0x100, 16)[1:]))
			continue
		}
		b.WriteByte(target[i])
	}
	return b.String()
}

// apply adds the fields of an allowed origin, and tells whether the request was a preflight, which the backend does not see.
func (c *CORS) apply(q *Request, v *verdict) bool {
	origin, every := q.Header.Get("Origin"), slices.Contains(c.Origins, "*")
	if !every {
		v.fields = append(v.fields, Field{"Vary", "Origin"}) // a cache must not give one origin what another got
	}
	if origin == "" || (!every && !c.allows(origin)) {
		return false
	}
	if every {
		origin = "*" // never the origin itself: browsers would send along cookies to whom nobody named
	}
	v.fields = append(v.fields, Field{"Access-Control-Allow-Origin", origin})
	if c.Credentials {
		v.fields = append(v.fields, Field{"Access-Control-Allow-Credentials", "true"})
	}
	if c.Expose != "" {
		v.fields = append(v.fields, Field{"Access-Control-Expose-Headers", c.Expose})
	}
	if q.Method != http.MethodOptions || q.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	v.fields = append(v.fields, Field{"Access-Control-Allow-Methods", c.Methods}, Field{"Access-Control-Allow-Headers", c.Headers},
		Field{"Access-Control-Max-Age", strconv.Itoa(c.MaxAge)})
	return true
}

func (c *CORS) allows(origin string) bool {
	for _, o := range c.Origins {
		before, after, wild := strings.Cut(o, "*")
		switch {
		case strings.EqualFold(o, origin):
			return true
		case wild && len(origin) > len(before)+len(after) && strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after) &&
			isLabel(origin[len(before):len(origin)-len(after)]):
			return true
		}
	}
	return false
}

// isLabel tells one label of a host's name.
func isLabel(text string) bool {
	for i := range len(text) {
		if c := text[i]; !letter(c) && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return text != ""
}

// stick finds the endpoint that the client's cookie names, or gives it the cookie of the one that is next.
func (v *verdict) stick(a *Affinity, q *Request) {
	want := cookie(q.Header.Get("Cookie"), a.Cookie)
	for _, e := range v.places.endpoints {
		if want != "" && e.mark() == want {
			v.sticky = e
			return
		}
	}
	v.sticky = v.places.pick(v.service.next.Add(1), nil)
	text := a.Cookie + "=" + v.sticky.mark() + "; HttpOnly"
	if a.Path != "" {
		text += "; Path=" + a.Path
	}
	if a.MaxAge > 0 {
		text += "; Max-Age=" + strconv.Itoa(a.MaxAge)
	}
	if a.SameSite != "" {
		text += "; SameSite=" + a.SameSite
	}
	if a.Secure == nil && q.TLS || a.Secure != nil && *a.Secure {
		text += "; Secure"
	}
	v.fields = append(v.fields, Field{"Set-Cookie", text})
}

// mark names an endpoint to a client without telling its address.
func (e *endpoint) mark() string {
	sum := fnv.New64a()
	sum.Write([]byte(e.address + e.pod))
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

// choose is the endpoint for the next attempt.
func (v *verdict) choose(tried []*endpoint) *endpoint {
	if v.sticky != nil && len(tried) == 0 {
		return v.sticky
	}
	return v.places.pick(v.service.next.Add(1), tried)
}
