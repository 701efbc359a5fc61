package ingress

import (
	"net/netip"
	"regexp"
	"sync"
	"time"
)

// Filters is what happens to a request between its match and its backend, and to the answer. The zero value changes nothing.
type Filters struct {
	// Redirect answers instead of the backend.
	Redirect *Redirect
	// HTTPS sends plain requests to https.
	HTTPS bool
	// AppRoot is where requests for / are sent.
	AppRoot string
	Rewrite *Rewrite
	// UpstreamHost replaces the Host header; "" leaves it.
	UpstreamHost string
	// ForwardedPrefix is sent as X-Forwarded-Prefix.
	ForwardedPrefix string
	// MaxBody is the largest request body in bytes; 0: any.
	MaxBody int64
	// Timeouts of a connection, of each wait for the backend's answer, and of each wait for it to take the request. 0: the default.
	Connect, Read, Send time.Duration
	// Allow and Deny are clients' addresses; Deny goes first, an empty Allow allows all.
	Allow, Deny []netip.Prefix
	CORS        *CORS
	Auth        *Auth
	// RequestsPerSecond of one client's address; 0: any number. Five times as many may come at once.
	RequestsPerSecond int
	Affinity          *Affinity
	// AnswerHeaders are added to answers.
	AnswerHeaders []Field
	// Mirror is the address that gets a copy of requests without body; its answers are dropped. $request_uri stands for what the client
	// asked for.
	Mirror string
}

// Field is one header field.
type Field struct{ Name, Value string }

// Redirect is an answer that leads elsewhere.
type Redirect struct {
	Status   int
	Location string // $request_uri stands for what the client asked for
}

// Rewrite replaces the whole path by Target, in which $1 is what the pattern's first group caught.
type Rewrite struct {
	Pattern *regexp.Regexp
	Target  string
}

// CORS answers preflight requests and marks answers for browsers.
type CORS struct {
	Origins                  []string // "*", an origin, or one in which "*" stands for one label
	Methods, Headers, Expose string
	Credentials              bool
	MaxAge                   int
}

// Auth asks for one of the users of a Secret's htpasswd file.
type Auth struct {
	Realm string
	Users map[string]string // name to hash

	proven sync.Map // name to []byte: the sum of the last right password
}

// Affinity leads a client to the endpoint of its first request, by a cookie.
type Affinity struct {
	Cookie, Path, SameSite string
	MaxAge                 int   // seconds; 0: until the browser ends
	Secure                 *bool // nil: for clients that ask by https
}
