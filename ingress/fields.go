package ingress

import (
	"bytes"
	"errors"
	"strings"
)

// rawField is one header field as it came, without the spaces around its value. It lives as long as the buffer it lies in.
type rawField struct{ name, value []byte }

// rawFields is a request's header. It is a Header.
type rawFields []rawField

// Get returns the first value of a field.
func (fs rawFields) Get(name string) string {
	for i := range fs {
		if equalFold(fs[i].name, name) {
			return string(fs[i].value)
		}
	}
	return ""
}

// equalFold compares a field's name with one in ASCII.
func equalFold(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && (a[i]|0x20 != b[i]|0x20 || !letter(a[i])) {
			return false
		}
	}
	return true
}

func letter(c byte) bool { c |= 0x20; return 'a' <= c && c <= 'z' }

// Why a request's framing is refused.
var (
	errLine     = errors.New("a header line is broken")
	errName     = errors.New("a header field's name is broken")
	errValue    = errors.New("a header field holds control characters")
	errHost     = errors.New("there is not exactly one Host")
	errLengths  = errors.New("the body's length is told twice or not as a number")
	errEncoding = errors.New("only the transfer coding chunked is understood")
	errTrace    = errors.New("TRACE has no body") // RFC 9110, 9.3.8
	errTarget   = errors.New("the request's target is broken")
	errVersion  = errors.New("only HTTP/1.0 and HTTP/1.1 are spoken here")
)

// parseFields splits a header block strictly by RFC 9112: every line ends with CRLF, no line is folded, no space stands before a
// colon. The library below is more patient in places; what it is patient with never gets past here.
func parseFields(block []byte, into rawFields) (rawFields, error) {
	for len(block) > 0 {
		end := bytes.IndexByte(block, '\n')
		if end < 1 || block[end-1] != '\r' {
			return into, errLine
		}
		line := block[:end-1]
		block = block[end+1:]
		if len(line) == 0 {
			if len(block) > 0 {
				return into, errLine
			}
			break
		}
		var err error
		if into, err = parseField(line, into); err != nil {
			return into, err
		}
	}
	return into, nil
}

// parseField reads one line, without its end.
func parseField(line []byte, into rawFields) (rawFields, error) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 || !validName(line[:colon]) {
		return into, errName
	}
	value := bytes.Trim(line[colon+1:], " \t")
	if !validValue(value) {
		return into, errValue
	}
	return append(into, rawField{line[:colon], value}), nil
}

// framing is what the header says of the body, and of the host.
type framing struct {
	host    string
	length  int64 // -1: chunked; 0: none
	upgrade bool  // to WebSocket
	trailer bool  // the client takes trailers
}

// readFraming refuses whatever two readers could read in two ways: two lengths, a length beside chunked, codings other than
// chunked, an unclear host (RFC 9112, 3.2, 6.1 and 6.3).
func readFraming(fs rawFields, http10 bool) (framing, error) {
	f := framing{}
	var n counts
	for i := range fs {
		if err := f.note(&n, fs[i].name, fs[i].value); err != nil {
			return f, err
		}
	}
	switch {
	case n.hosts > 1, n.hosts == 0 && !http10, !validHost(f.host):
		return f, errHost
	case n.lengths > 1, n.lengths > 0 && n.codings > 0:
		return f, errLengths
	case n.codings > 1, n.codings > 0 && http10:
		return f, errEncoding
	}
	if n.codings > 0 {
		f.length = -1
	}
	f.upgrade = n.upgrade && n.connection && f.length == 0 && !http10
	return f, nil
}

// counts is how often the fields that matter came.
type counts struct {
	hosts, lengths, codings int
	upgrade, connection     bool
}

// note takes one field.
func (f *framing) note(n *counts, name, value []byte) error {
	switch {
	case equalFold(name, "Host"):
		n.hosts++
		f.host = string(value)
	case equalFold(name, "Content-Length"):
		n.lengths++
		length, ok := number(value)
		if !ok {
			return errLengths
		}
		f.length = length
	case equalFold(name, "Transfer-Encoding"):
		n.codings++
		if !equalFold(value, "chunked") {
			return errEncoding
		}
	case equalFold(name, "Upgrade"):
		n.upgrade = equalFold(value, "websocket")
	case equalFold(name, "Connection"):
		n.connection = n.connection || hasToken(value, "upgrade")
	case equalFold(name, "TE"):
		f.trailer = f.trailer || hasToken(value, "trailers")
	}
	return nil
}

// number reads digits and nothing else.
func number(text []byte) (int64, bool) {
	if len(text) == 0 || len(text) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// validHost allows names, addresses and a port; nothing that could end the host early in another reader's eyes.
func validHost(host string) bool {
	for i := 0; i < len(host); i++ {
		if c := host[i]; !letter(c) && (c < '0' || c > '9') && strings.IndexByte("-._:[]%~", c) < 0 {
			return false
		}
	}
	return true
}

// hasToken looks for one of a list's elements.
func hasToken(list []byte, token string) bool {
	for len(list) > 0 {
		var element []byte
		element, list, _ = bytes.Cut(list, []byte{','})
		if equalFold(bytes.Trim(element, " \t"), token) {
			return true
		}
	}
	return false
}

// validTarget refuses spaces, control characters, and octets that are not ASCII.
func validTarget(target []byte) bool {
	for _, c := range target {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(target) > 0
}

// connectionFields are the fields of one connection (RFC 9110, 7.6.1), and those that the ingress writes itself, by their length.
var connectionFields = func() (byLength [20][]string) {
	for _, name := range []string{
		"TE", "Host", "Expect", "Upgrade", "X-Real-IP", "Connection", "Keep-Alive", "X-Request-ID", "Content-Length", "X-Forwarded-For", "Proxy-Connection",
		"X-Forwarded-Host", "X-Forwarded-Port", "Transfer-Encoding", "X-Forwarded-Proto", "X-Forwarded-Prefix",
	} {
		byLength[len(name)] = append(byLength[len(name)], name)
	}
	return byLength
}()

// hopByHop tells whether a field stays with this connection.
func hopByHop(name []byte) bool {
	if len(name) >= len(connectionFields) {
		return false
	}
	for _, known := range connectionFields[len(name)] {
		if equalFold(name, known) {
			return true
		}
	}
	return false
}

// splitTarget takes a request's target apart: origin form, absolute form (whose host stands above the Host field), or "*".
func splitTarget(target []byte, method string) (host, path, query string, err error) {
	if !validTarget(target) {
		return "", "", "", errTarget
	}
	text := string(target)
	if text[0] != '/' {
		switch {
		case text == "*" && method == "OPTIONS":
		case strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://"):
			_, rest, _ := strings.Cut(text, "://")
			end := strings.IndexAny(rest, "/?")
			if end < 0 {
				end = len(rest)
			}
			if host = rest[:end]; host == "" || !validHost(host) {
				return "", "", "", errTarget
			}
			if text = rest[end:]; text == "" || text[0] == '?' {
				text = "/" + text
			}
		default:
			return "", "", "", errTarget
		}
	}
	if mark := strings.IndexByte(text, '?'); mark >= 0 {
		path, query = text[:mark], text[mark:]
	} else {
		path = text
	}
	if strings.IndexByte(text, '#') >= 0 {
		return "", "", "", errTarget
	}
	return host, path, query, nil
}
