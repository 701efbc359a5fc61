package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/node/netns"
)

// healthCheck is what a load balancer asks this node about one Service under the Local policy.
type healthCheck struct {
	Port  uint16
	Local int // ready endpoints of this node
}

// healthCheck is a Service's health check on this node; nil: it has none.
func (m *model) healthCheck(name types.NamespacedName) *healthCheck {
	svc := m.services[name]
	if svc == nil || ignored(svc) != "" || svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.HealthCheckNodePort == 0 ||
		svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	local := map[netip.Addr]struct{}{}
	for i := range svc.Spec.Ports {
		for _, f := range []family{ipv4, ipv6} {
			for _, c := range m.localOf(m.candidates(name, &svc.Spec.Ports[i], f)) {
				if c.Ready && !c.Terminating {
					local[c.Address.Addr()] = struct{}{}
				}
			}
		}
	}
	return &healthCheck{Port: uint16(svc.Spec.HealthCheckNodePort), Local: len(local)}
}

// health answers load balancers: an HTTP server for each health-check port, in the node's namespace.
type health struct {
	ns      *netns.NS
	log     *slog.Logger
	healthy func() error
	tell    func(service types.NamespacedName, answers bool) // Config.OnHealth

	mu      sync.Mutex // guards all below
	checks  map[types.NamespacedName]*healthCheck
	well    map[types.NamespacedName]bool // those told of as answering
	servers map[uint16]*http.Server
	running bool
	does    bool // what own told last
	tasks   sync.WaitGroup
}

func newHealth(c *Config, healthy func() error) *health {
	h := &health{
		ns: c.NS, log: c.Log, healthy: healthy, tell: c.OnHealth, checks: map[types.NamespacedName]*healthCheck{},
		well: map[types.NamespacedName]bool{}, servers: map[uint16]*http.Server{},
	}
	if h.tell == nil {
		h.tell = func(types.NamespacedName, bool) {}
	}
	return h
}

// run serves until ctx ends, and waits for all servers.
func (h *health) run(ctx context.Context, healthz netip.AddrPort) {
	h.mu.Lock()
	h.running = true
	h.settle()
	h.reportAll()
	var own *http.Server
	if healthz.IsValid() {
		own = h.serve(healthz.String(), h.answerHealthz())
	}
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	h.running = false
	h.settle()
	h.reportAll()
	if own != nil {
		own.Close()
	}
	h.mu.Unlock()
	h.tasks.Wait()
}

// set notes a Service's health check; nil: it has none.
func (h *health) set(name types.NamespacedName, c *healthCheck) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, held := h.checks[name]; c == nil && !held {
		return
	}
	if c == nil {
		delete(h.checks, name)
	} else {
		h.checks[name] = c
	}
	h.settle()
	h.report(name)
}

// report tells of a check that answers otherwise than before. Call it with mu held.
func (h *health) report(name types.NamespacedName) {
	c := h.checks[name]
	well := h.running && c != nil && c.Local > 0
	if well == h.well[name] {
		return
	}
	if well {
		h.well[name] = true
	} else {
		delete(h.well, name)
	}
	h.tell(name, well)
}

// own tells whether the node does what is known.
func (h *health) own(ok bool) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.does != ok {
		h.does = ok
		h.tell(types.NamespacedName{}, ok)
	}
}

func (h *health) reportAll() {
	for _, all := range []iter.Seq[types.NamespacedName]{maps.Keys(h.well), maps.Keys(h.checks)} {
		for _, name := range slices.Collect(all) {
			h.report(name)
		}
	}
}

// replace takes all health checks from the model.
func (h *health) replace(m *model) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.checks)
	for name := range m.services {
		if c := m.healthCheck(name); c != nil {
			h.checks[name] = c
		}
	}
	h.settle()
	h.reportAll()
}

// settle starts and stops servers. A port that cannot be had is tried again with the next change. Call it with mu held.
func (h *health) settle() {
	wanted := map[uint16]struct{}{}
	if h.running {
		for _, c := range h.checks {
			wanted[c.Port] = struct{}{}
		}
	}
	for port, s := range h.servers {
		if _, ok := wanted[port]; !ok {
			s.Close()
			delete(h.servers, port)
		}
	}
	for port := range wanted {
		if h.servers[port] != nil {
			continue
		}
		if s := h.serve(fmt.Sprintf(":%d", port), h.answer(port)); s != nil {
			h.servers[port] = s
		}
	}
}

// requestTimeout bounds how long a client may take to ask, so that idle ones hold nothing.
const requestTimeout = 5 * time.Second

func (h *health) serve(address string, handler http.Handler) *http.Server {
	l, err := h.ns.Listen(context.Background(), "tcp", address)
	if err != nil {
		h.log.Error("a health port cannot be opened; the next change tries again", "address", address, "error", err)
		return nil
	}
	s := &http.Server{Handler: handler, ReadHeaderTimeout: requestTimeout, IdleTimeout: requestTimeout}
	h.tasks.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			h.log.Error("a health port ended", "address", address, "error", err)
		}
	})
	return s
}

// healthAnswer is what kube-proxy says too.
type healthAnswer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

func (h *health) answer(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var a healthAnswer
		h.mu.Lock()
		for name, c := range h.checks {
			if c.Port == port {
				a.Service.Namespace, a.Service.Name, a.LocalEndpoints = name.Namespace, name.Name, c.Local
			}
		}
		h.mu.Unlock()
		a.ServiceProxyHealthy = h.healthy() == nil
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.LocalEndpoints))
		writeAnswer(w, a.LocalEndpoints > 0 && a.ServiceProxyHealthy, a)
	})
}

func (h *health) answerHealthz() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeAnswer(w, true, map[string]string{"status": "ok"}) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		err := h.healthy()
		if err != nil {
			writeAnswer(w, false, map[string]string{"status": err.Error()})
			return
		}
		writeAnswer(w, true, map[string]string{"status": "ok"})
	})
	return mux
}

func writeAnswer(w http.ResponseWriter, ok bool, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client went away: nobody is left to tell
}

// Healthy is nil while the kernel does what is known, and tells why not otherwise: ErrNotRunning before the first programming,
// or that the last attempt failed.
func (p *Proxy) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.sides[0].planner == nil || p.sides[0].kernel == nil:
		return ErrNotRunning
	case p.stats.Behind:
		return errors.New("the last attempt to program the kernel failed; another is due")
	}
	return nil
}
