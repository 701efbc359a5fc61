package ingress

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

type setter = func(*annotated, string) error

// text sets what has passed a check: a value that is wrong is left out, so that none breaks out of a header field.
func text(check func(string) error, set func(*annotated, string)) setter {
	return func(a *annotated, v string) error {
		if err := check(v); err != nil {
			return err
		}
		set(a, v)
		return nil
	}
}

// among checks that a value is one of those known.
func among(known ...string) func(string) error {
	return func(v string) error { return oneOf(v, known...) }
}

// setters is every annotation that is known, without its prefix.
var setters = map[string]setter{
	"rewrite-target":          text(rewritable, func(a *annotated, v string) { a.rewrite = v }),
	"use-regex":               boolean(func(a *annotated, v bool) { a.regex = v }),
	"app-root":                text(absolute, func(a *annotated, v string) { a.filters.AppRoot = v }),
	"ssl-redirect":            boolean(func(a *annotated, v bool) { a.redirectTLS = v }),
	"force-ssl-redirect":      boolean(func(a *annotated, v bool) { a.forceTLS = v }),
	"permanent-redirect":      redirect(http.StatusMovedPermanently),
	"permanent-redirect-code": integer(func(a *annotated, v int) { a.code[http.StatusMovedPermanently] = v }, 300, 308),
	"temporal-redirect":       redirect(http.StatusFound),
	"temporal-redirect-code":  integer(func(a *annotated, v int) { a.code[http.StatusFound] = v }, 300, 308),
	"backend-protocol": func(a *annotated, v string) error {
		return text(among("HTTP", "HTTPS", "GRPC", "GRPCS", "AUTO_HTTP"), func(a *annotated, v string) { a.protocol = v })(a, strings.ToUpper(v))
	},
	"proxy-connect-timeout": duration(func(a *annotated, d time.Duration) { a.filters.Connect = d }),
	"proxy-read-timeout":    duration(func(a *annotated, d time.Duration) { a.filters.Read = d }),
	"proxy-send-timeout":    duration(func(a *annotated, d time.Duration) { a.filters.Send = d }),
	"proxy-body-size":       func(a *annotated, v string) (err error) { a.filters.MaxBody, err = size(v); return },

	"affinity":                text(among("cookie"), func(a *annotated, _ string) { a.affinity(); a.affinityOn = true }),
	"session-cookie-name":     text(token, func(a *annotated, v string) { a.affinity().Cookie = v }),
	"session-cookie-path":     text(absolute, func(a *annotated, v string) { a.affinity().Path = v }),
	"session-cookie-max-age":  integer(func(a *annotated, v int) { a.affinity().MaxAge = v }, 0, 1<<31),
	"session-cookie-samesite": text(among("None", "Lax", "Strict"), func(a *annotated, v string) { a.affinity().SameSite = v }),
	"session-cookie-secure":   boolean(func(a *annotated, v bool) { a.affinity().Secure = &v }),

	"upstream-vhost":         text(host, func(a *annotated, v string) { a.filters.UpstreamHost = v }),
	"x-forwarded-prefix":     text(line, func(a *annotated, v string) { a.filters.ForwardedPrefix = v }),
	"whitelist-source-range": allow,
	"allowlist-source-range": allow, // its newer name
	"denylist-source-range":  func(a *annotated, v string) (err error) { a.filters.Deny, err = ranges(v); return },

	"enable-cors": boolean(func(a *annotated, v bool) { a.cors(); a.corsOn = v }),
	"cors-allow-origin": func(a *annotated, v string) error {
		a.cors().Origins = nil // nobody rather than everybody, when who may ask cannot be read
		return text(line, func(a *annotated, v string) { a.cors().Origins = list(v) })(a, v)
	},
	"cors-allow-methods":     text(line, func(a *annotated, v string) { a.cors().Methods = v }),
	"cors-allow-headers":     text(line, func(a *annotated, v string) { a.cors().Headers = v }),
	"cors-expose-headers":    text(line, func(a *annotated, v string) { a.cors().Expose = v }),
	"cors-allow-credentials": boolean(func(a *annotated, v bool) { a.cors().Credentials = v }),
	"cors-max-age":           integer(func(a *annotated, v int) { a.cors().MaxAge = v }, 0, 1<<31),

	// Whoever asks for names and passwords is not left open by a word that is not understood.
	"auth-type":   func(a *annotated, v string) error { a.auth = true; return oneOf(v, "basic") },
	"auth-secret": text(line, func(a *annotated, v string) { a.authSecret = v }),
	"auth-realm":  text(line, func(a *annotated, v string) { a.filters.Auth = &Auth{Realm: v} }),

	"limit-rps":        integer(func(a *annotated, v int) { a.filters.RequestsPerSecond = v }, 1, 1<<20),
	"custom-headers":   text(line, func(a *annotated, v string) { a.headersFrom = v }),
	"default-backend":  text(line, func(a *annotated, v string) { a.defaultName = v }),
	"server-alias":     text(line, func(a *annotated, v string) { a.serverAlias = list(v) }),
	"service-upstream": boolean(func(a *annotated, v bool) { a.byService = v }),
	"mirror-target":    mirror,

	"canary":                 boolean(func(a *annotated, v bool) { a.isCanary = v }),
	"canary-weight":          integer(func(a *annotated, v int) { a.canary.weight = v }, 0, 1<<20),
	"canary-weight-total":    integer(func(a *annotated, v int) { a.canary.total = v }, 1, 1<<20),
	"canary-by-header":       text(token, func(a *annotated, v string) { a.canary.header = v }),
	"canary-by-header-value": text(line, func(a *annotated, v string) { a.canary.value = v }),
	"canary-by-header-pattern": func(a *annotated, v string) (err error) {
		a.canary.pattern, err = regexp.Compile(v)
		a.canary.broken = err != nil
		return
	},
	"canary-by-cookie": text(token, func(a *annotated, v string) { a.canary.cookie = v }),
}

// defaultRealm is ingress-nginx's.
const defaultRealm = "Authentication Required"

func allow(a *annotated, v string) (err error) { a.filters.Allow, err = ranges(v); return }

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

// requestURI stands in an address for the path and the query that the client asked for, as in nginx.
const requestURI = "$request_uri"

// mirror takes an address with requestURI in it, or without a path of its own, which means the same.
func mirror(a *annotated, v string) error {
	base, _, named := strings.Cut(v, requestURI)
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q is no address of http:// or https://", v)
	}
	if a.filters.Mirror = v; named || u.Path == "" {
		a.filters.Mirror = strings.TrimSuffix(base, "/") + requestURI
	}
	return nil
}

// size is a number of bytes, or one with k, m or g as in nginx.
func size(text string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "kmg")
	shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}
	by, ok := shift[strings.ToLower(text)[len(digits):]]
	n, valid := number([]byte(digits))
	if !ok || !valid || n > math.MaxInt64>>by {
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

// host refuses what is no Host field.
func host(v string) error {
	if v == "" || !validHost(v) {
		return fmt.Errorf("%q is no host", v)
	}
	return nil
}

// rewritable refuses nginx's variables: of them there are only groups here.
func rewritable(v string) error {
	for i := range len(v) {
		if v[i] == '$' && (i+1 == len(v) || v[i+1] < '0' || v[i+1] > '9') {
			return fmt.Errorf("%q holds a variable other than $0 to $9", v)
		}
	}
	return line(v)
}
