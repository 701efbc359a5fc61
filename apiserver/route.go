package apiserver

import (
	"errors"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kubarium.dev/api"
)

// call is one request for a resource, taken apart.
type call struct {
	r         *http.Request
	w         http.ResponseWriter
	query     url.Values
	who       caller
	accept    accept
	kind      *api.Kind     // what is stored
	form      *api.Kind     // what the client sees of it: nearly always the same
	namespace string        // "" for cluster-wide kinds and lists over all namespaces
	name      string        // "" for a collection
	sub       string        // "status", "log", ...; "" for the object itself
	patience  time.Duration // for the body
	dryRun    bool
	recorded  string          // the subresource under which a write's fields are recorded, when it is not sub
	applying  bool            // a server-side apply: it keeps the record of owners itself
	warned    map[string]bool // texts of the Warning headers set so far
}

// serve is the door: it says who is calling and sends the request to the part that answers it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	a := s.newAnswer(w, r)
	defer s.account(a, r, s.metrics.begin(r))
	defer s.recoverFrom(a, r)
	a.Header().Set("Cache-Control", "no-cache, private")
	if s.serveOpen(a, r) {
		return
	}
	if err := s.serveCaller(a, r); err != nil {
		s.fail(a, r, err)
	}
}

// serveCaller finds out who is calling, and answers what only those may see who are known.
func (s *Server) serveCaller(a *answer, r *http.Request) error {
	who, err := s.authenticate(r)
	if err != nil {
		return err
	}
	a.who = who
	as, err := s.impersonate(r, who)
	if err != nil {
		return err
	}
	if as.Name != who.Name {
		a.as = &as
	}
	return s.serveKnown(a, r, as)
}

// account notes a request that has been answered.
func (s *Server) account(a *answer, r *http.Request, end func()) {
	end()
	now := time.Now()
	s.metrics.count(a, r, now.Sub(a.began))
	if err := s.audit.write(a, r, metav1.NewMicroTime(now)); err != nil {
		s.log.Error("a line of the audit log is lost", "audit", a.id, "err", err)
	}
}

// recoverFrom answers a request whose handler panicked. net/http's own way to hang up goes on.
func (s *Server) recoverFrom(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	s.fail(w, r, apierrors.NewInternalError(errPanic))
}

// serveKnown sends the request of a caller who is known to the part that answers it.
func (s *Server) serveKnown(w http.ResponseWriter, r *http.Request, who caller) error {
	path := strings.TrimSuffix(r.URL.Path, "/")
	asked := action{verb: strings.ToLower(r.Method), path: r.URL.Path}
	below := strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/")
	switch {
	case !below && path != "" && !s.allowed(who, asked):
		return errForbidden(who, asked)
	case below:
		return s.serveGroups(w, r, who)
	case path == "/api" || path == "/apis":
		return s.serveRootDiscovery(w, r, path)
	case path == "/openapi/v3" || strings.HasPrefix(path, "/openapi/v3/"):
		return s.serveOpenAPI(w, r, path)
	case s.cfg.Extra != nil && strings.HasPrefix(r.URL.Path, "/kubarium/"):
		s.cfg.Extra.ServeHTTP(w, r)
		return nil
	}
	return s.serveAlone(w, r, path)
}

// serveAlone answers the paths below which there is nothing else.
func (s *Server) serveAlone(w http.ResponseWriter, r *http.Request, path string) error {
	switch {
	case path == "/openapi/v2":
		return serveOldOpenAPI(w, r)
	case path == "":
		return s.servePaths(w, r)
	case path == "/metrics" && r.Method == http.MethodGet:
		s.serveMetrics(w)
		return nil
	case s.serveIssuer(w, path):
		return nil
	}
	return errNoPath(r.Method)
}

// serveOpen answers what everybody may see: /version and the health endpoints.
func (s *Server) serveOpen(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case path == "/version":
		s.serveVersion(w)
	case path == "/healthz", path == "/livez", path == "/readyz":
		serveHealth(w, r, path[1:])
	case isCheck(path):
		plain(w, "ok")
	default:
		return false
	}
	return true
}

// isCheck tells whether path is one of the checks by name that health consists of.
func isCheck(path string) bool {
	endpoint, name, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	known := name == "ping" || name == "log" || name == "etcd" || name == "store"
	return known && (endpoint == "healthz" || endpoint == "livez" || endpoint == "readyz")
}

func serveHealth(w http.ResponseWriter, r *http.Request, what string) {
	if !r.URL.Query().Has("verbose") {
		plain(w, "ok")
		return
	}
	plain(w, "[+]ping ok\n[+]store ok\n"+what+" check passed\n")
}

// serveGroups answers below /api/v1 and /apis/GROUP/VERSION.
func (s *Server) serveGroups(w http.ResponseWriter, r *http.Request, who caller) error {
	gv, rest, ok := splitGroupVersion(r.URL.Path)
	if !ok {
		return s.serveGroup(w, r, gv.Group)
	}
	if !servesVersion(gv) {
		return errNoPath(r.Method)
	}
	if len(rest) == 0 {
		return s.serveResources(w, r, gv)
	}
	c := &call{r: r, w: w, query: r.URL.Query(), who: who, patience: s.cfg.BodyTimeout}
	if a, ok := w.(*answer); ok {
		a.call = c
	}
	if answered, err := s.serveReview(c, gv, rest); answered {
		return err
	}
	if gv == definitions.GroupVersion() {
		return s.serveDefinitions(c, rest)
	}
	if !c.locate(gv, rest) {
		return errNoPath(r.Method)
	}
	if err := s.authorize(c); err != nil {
		return err
	}
	if err := c.readOptions(s); err != nil {
		return err
	}
	if c.kind == api.Endpoints {
		c.warn("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
	}
	return s.dispatch(c)
}

// splitGroupVersion takes /api/v1/a/b or /apis/apps/v1/a/b apart; ok is false for /apis/GROUP alone.
func splitGroupVersion(path string) (gv schema.GroupVersion, rest []string, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "api" {
		return schema.GroupVersion{Version: parts[1]}, parts[2:], true
	}
	if len(parts) < 3 {
		return schema.GroupVersion{Group: parts[1]}, nil, false
	}
	return schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:], true
}

// locate fills in kind, namespace, name and sub from the path's parts behind the version.
func (c *call) locate(gv schema.GroupVersion, parts []string) bool {
	if parts[0] == "namespaces" && len(parts) > 2 {
		if kind, _, ok := kindFor(gv.WithResource(parts[2])); ok && kind.Namespaced {
			c.namespace, parts = parts[1], parts[2:]
		}
	}
	kind, form, ok := kindFor(gv.WithResource(parts[0]))
	deep := len(parts) > 3 && parts[2] != "proxy" // what lies below a proxy is not ours
	if !ok || deep || (kind.Namespaced && c.namespace == "" && len(parts) > 1) {
		return false
	}
	c.kind, c.form = kind, form
	if len(parts) > 1 {
		c.name = parts[1]
	}
	if len(parts) > 2 {
		c.sub = parts[2]
		return hasSubresource(kind, c.sub)
	}
	return len(parts) == 1 || c.name != ""
}

// hasSubresource tells whether objects of kind have something at .../NAME/sub.
func hasSubresource(kind *api.Kind, sub string) bool {
	switch sub {
	case "status":
		return kind.HasStatus
	case "scale":
		return kind.HasScale
	case "log", "exec", "attach", "portforward", "binding", "eviction", "ephemeralcontainers":
		return kind == api.Pods
	case "finalize":
		return kind == api.Namespaces
	case "token":
		return kind == api.ServiceAccounts
	case "resize":
		return kind == api.Pods
	case "proxy":
		return kind == api.Pods || kind == api.Services || kind == api.Nodes
	}
	return false
}

// dispatch sends a call to the verb it asks for.
func (s *Server) dispatch(c *call) error {
	switch {
	case c.name == "":
		return s.dispatchCollection(c)
	case c.sub == "scale":
		return s.serveScale(c)
	case c.sub == "log":
		return s.serveLog(c)
	case c.sub == "exec", c.sub == "attach":
		return s.serveExec(c)
	case c.sub == "portforward":
		return s.servePortForward(c)
	case c.sub == "eviction":
		return s.evict(c)
	case c.sub == "binding":
		return s.bind(c)
	case c.sub == "token":
		return s.serveToken(c)
	case c.sub == "proxy":
		return s.serveProxy(c)
	}
	switch c.r.Method {
	case http.MethodGet, http.MethodHead:
		return s.get(c)
	case http.MethodPut:
		return s.update(c)
	case http.MethodPatch:
		return s.patch(c)
	case http.MethodDelete:
		if c.sub == "" {
			return s.delete(c)
		}
	}
	return errNoMethod(c)
}

func (s *Server) dispatchCollection(c *call) error {
	switch c.r.Method {
	case http.MethodGet, http.MethodHead:
		if isTrue(c.query.Get("watch")) {
			return s.watch(c)
		}
		return s.list(c)
	case http.MethodPost:
		if c.kind.Namespaced && c.namespace == "" {
			return errNoMethod(c)
		}
		return s.create(c)
	case http.MethodDelete:
		if c.kind.Namespaced && c.namespace == "" {
			return errNoMethod(c)
		}
		return s.deleteCollection(c)
	}
	return errNoMethod(c)
}
