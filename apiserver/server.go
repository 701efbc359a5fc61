package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"kubarium.dev/store"
)

// Limits on what a client may hold or send.
const (
	// maxBody is Kubernetes' limit of a request body, in bytes; beyond it the answer is 413.
	maxBody = 3 << 20
	// headerTimeout bounds a client that dribbles its request header.
	headerTimeout = 10 * time.Second
	// bodyTimeout bounds a client that dribbles its body; as long as Kubernetes gives a whole request.
	bodyTimeout = time.Minute
	// maxObject is how large a stored object may be, in bytes: etcd's limit, which people know as Kubernetes'.
	maxObject = 3 << 19
	// idleTimeout ends a kept-alive connection without a request; longer than client-go's own 90 s, so that clients close first.
	idleTimeout = 2 * time.Minute
	// drainTime is how long Serve lets running requests finish once its context has ended. Watches end at once.
	drainTime = 500 * time.Millisecond
)

// Config says what a Server serves. Store and Authority are required.
type Config struct {
	Store     *store.Store
	Authority *Authority       // who may speak; certificates, token
	Log       *slog.Logger     // nil discards
	Services  netip.Prefix     // ClusterIPs come from here; zero is 10.96.0.0/16
	NodePorts [2]int32         // first and last NodePort; zero is 30000 to 32767
	Version   string           // kubarium's version; shows in /version behind Kubernetes' own, "v1.37.0+kubarium-VERSION"
	Exec      Execer           // nil: exec answers 501
	Logs      LogSource        // nil: log answers 501
	Attach    Attacher         // nil: attach answers 501
	Forward   PortForwarder    // nil: portforward answers 501
	Dial      Dialer           // how pods, Services and nodes are reached; nil: proxy answers 501
	Audit     io.Writer        // gets a line of JSON for each request, as Kubernetes' audit log at level Metadata; nil for none
	Extra     http.Handler     // mounted at /kubarium/, for authenticated callers; nil for none
	Now       func() time.Time // nil is time.Now

	HeaderTimeout time.Duration // how long a request's header may take; zero is 10 seconds
	BodyTimeout   time.Duration // how long a request's body may take; zero is a minute

	// MountTokens gives every new pod the volume with its ServiceAccount's token. The nodes must be able to make it (Token).
	MountTokens bool
	// Toleration is for how long new pods that say nothing of it stay on a lost node, rounded up to whole seconds; zero is 300 s.
	Toleration time.Duration
}

// Server answers Kubernetes' HTTP API. Make one with New; it is safe for any number of requests at once.
type Server struct {
	cfg     Config
	store   *store.Store
	log     *slog.Logger
	wire    *wire
	encoded *encodings
	pages   *pageStore
	schemas *schemas
	fields  *fieldManagers
	metrics metrics
	audit   *auditLog
	stall   time.Duration // how long one write to a watcher may hang
}

// New checks c and returns a Server. It starts nothing and builds no schema: those are made on first use.
func New(c Config) (*Server, error) {
	if c.Store == nil {
		return nil, errors.New("apiserver: Config.Store is missing")
	}
	if c.Authority == nil {
		return nil, errors.New("apiserver: Config.Authority is missing")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if !c.Services.IsValid() {
		c.Services = netip.MustParsePrefix("10.96.0.0/16")
	}
	if c.NodePorts == [2]int32{} {
		c.NodePorts = [2]int32{30000, 32767}
	}
	if c.NodePorts[0] < 1 || c.NodePorts[1] < c.NodePorts[0] || c.NodePorts[1] > 65535 {
		return nil, fmt.Errorf("apiserver: NodePorts %d-%d is not a range of ports", c.NodePorts[0], c.NodePorts[1])
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.HeaderTimeout == 0 {
		c.HeaderTimeout = headerTimeout
	}
	if c.BodyTimeout == 0 {
		c.BodyTimeout = bodyTimeout
	}
	s := &Server{cfg: c, store: c.Store, log: c.Log, wire: newWire(), pages: newPageStore(c.Now), schemas: &schemas{}, stall: stallTime,
		audit: &auditLog{to: c.Audit}}
	s.encoded = newEncodings(s.wire.encoders)
	s.fields = newFieldManagers(s.wire.scheme, s.schemas)
	return s, nil
}

// Handler returns the whole API as one http.Handler. Requests must come with TLS state or a bearer token to be let in.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Serve answers on l with HTTP/1.1 and HTTP/2 until ctx ends, then lets running requests finish for half a second and closes.
// The usual conf is Authority.ServerTLS. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener, conf *tls.Config) error {
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	handler := s.Handler()
	var running sync.WaitGroup // requests that came by l, upgraded ones included
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Done()
			handler.ServeHTTP(w, r)
		}),
		TLSConfig:         conf,
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       idleTimeout,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	endRequests()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		srv.Close()
	}
	running.Wait() // Shutdown does not know of upgraded connections
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// plain answers with a short text, as the health endpoints do.
func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	io.WriteString(w, text)
}
