package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
)

// auditHeader carries a request's own id, the client's if it sends one: on the answer, in the log and in the audit log.
const auditHeader = "Audit-Id"

// maxAuditID bounds an id that a client sends; Kubernetes' own have 36 characters.
const maxAuditID = 64

// answer is the way back to a client, and what is noted of its request meanwhile.
type answer struct {
	http.ResponseWriter
	id    string
	code  int // 0 until the answer has begun
	began time.Time
	call  *call  // what was asked for; nil while unknown, and for what is no resource
	who   caller // nobody, while unknown
	as    *caller
}

func (s *Server) newAnswer(w http.ResponseWriter, r *http.Request) *answer {
	a := &answer{ResponseWriter: w, id: r.Header.Get(auditHeader), began: time.Now()}
	if a.id == "" || len(a.id) > maxAuditID {
		a.id = string(uuid.NewUUID())
	}
	w.Header().Set(auditHeader, a.id)
	return a
}

// Unwrap lets an http.ResponseController find what it needs.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	if a.code == 0 && code >= http.StatusOK {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (a *answer) Flush() {
	if err := http.NewResponseController(a.ResponseWriter).Flush(); err != nil {
		return // a client that has gone cannot be told
	}
}

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.code = http.StatusSwitchingProtocols
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// verb is what metrics and the audit log call what was asked for.
func (a *answer) verb(r *http.Request) string {
	c := a.call
	switch {
	case c == nil || c.kind == nil:
		return lowerMethod(r.Method)
	case c.longRunning():
		return "connect"
	case c.sub == "" && c.name == "" && isTrue(c.query.Get("watch")) && r.Method == http.MethodGet:
		return "watch"
	}
	return c.verb()
}

// longRunning tells that a call is a conversation, which lasts as long as its two sides like.
func (c *call) longRunning() bool {
	switch c.sub {
	case "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

// lowerMethod is a method as a verb; whatever is none of HTTP's is one word, so that clients cannot make up new ones.
func lowerMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPost:
		return "post"
	case http.MethodPut:
		return "put"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return "other"
}
