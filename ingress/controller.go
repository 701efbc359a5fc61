package ingress

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"kubarium.dev/store"
)

// DialFunc connects to an endpoint.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// ControllerName is what IngressClasses of this ingress carry in spec.controller.
const ControllerName = "kubarium.dev/ingress"

// Config is what a Controller needs. Reader is required.
type Config struct {
	Reader store.Reader
	// Store takes statuses and events; nil: none are written.
	Store *store.Store
	// Dial connects to pods and Services, from a place that reaches them; nil: from the process's own network.
	Dial DialFunc
	// ControllerName chooses the IngressClasses served; "" means the constant.
	ControllerName string
	// Class is the name that the old annotation kubernetes.io/ingress.class may carry; "" means "kubarium".
	Class string
	// ServeClassless takes Ingresses that name no class, when no IngressClass is the default one.
	ServeClassless bool
	// Addresses is what the statuses of served Ingresses show while Service has no load-balancer address.
	Addresses []netip.Addr
	// Service is the namespace/name of the Service that leads to this ingress: statuses show its load-balancer addresses.
	Service string
	// SecurePorts is where https answers for clients that ask plainly at a port other than 80: {"8080": "8443"}.
	SecurePorts map[string]string
	// Trusted are the clients whose X-Forwarded-*, X-Real-IP and X-Request-ID count.
	Trusted []netip.Prefix
	// Seed starts the draw among weighted backends; the same seed draws the same.
	Seed uint64
	// AccessLog takes one line for each request; nil: none.
	AccessLog io.Writer
	// Log is for what an operator must know; nil discards.
	Log *slog.Logger
	// Limits and timeouts; 0 means what the constants say.
	HeaderTimeout, IdleTimeout, DrainTimeout time.Duration
	MaxHeader                                int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// defaultHeaderTimeout is how long a client may take for its header, and for each part of its body.
	defaultHeaderTimeout = 30 * time.Second
	// defaultIdleTimeout is how long a client's connection is kept without a request.
	defaultIdleTimeout = 75 * time.Second
	// defaultDrain is how long requests under way may take once the ingress stops (upstream: 240 seconds).
	defaultDrain = 240 * time.Second
	// defaultMaxHeader is nginx's 4 buffers of 8 KiB in one.
	defaultMaxHeader = 32 << 10
	// Of a connection to a backend, and of each wait for it; ingress-nginx's.
	defaultConnect = 5 * time.Second
	defaultRead    = 60 * time.Second
	// maxTries is how many endpoints a request is offered to.
	maxTries = 3
)

// Controller is the ingress of one cluster.
type Controller struct {
	cfg      Config
	log      *slog.Logger
	table    atomic.Pointer[Table] // nil before the first list
	own      *selfSigned
	progress store.Progress
	draws    atomic.Uint64
	requests atomic.Uint64 // numbers the requests' ids
	started  uint64        // the seed of the requests' ids
	limits   limits
	access   *accessLog
	metrics  metrics
	full     *fullProxy
	mu       sync.Mutex // guards model, which Run changes and Describe reads
	model    *model
	reports  chan struct{}
	pending  atomic.Pointer[[]report]
}

// New makes a Controller. It knows nothing before Run, and answers 503 until then.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	c.ControllerName = cmp.Or(c.ControllerName, ControllerName)
	c.Class = cmp.Or(c.Class, "kubarium")
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, defaultHeaderTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, defaultIdleTimeout)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, defaultDrain)
	c.MaxHeader = cmp.Or(c.MaxHeader, defaultMaxHeader)
	in := &Controller{
		cfg: c, log: c.Log, own: newSelfSigned(c.Now), limits: limits{now: c.Now}, access: newAccessLog(c.AccessLog), reports: make(chan struct{}, 1),
	}
	in.started = uint64(c.Now().UnixNano())
	in.full = newFullProxy(in)
	in.model = newModel(in)
	return in
}

// Progress is the store's revision that the routes and their endpoints stand at.
func (c *Controller) Progress() *store.Progress { return &c.progress }

// Explain tells which rule a request would take, and why.
func (c *Controller) Explain(r *Request) Explanation {
	t := c.table.Load()
	if t == nil {
		return Explanation{Verdict: "503: the ingress has not read the cluster yet"}
	}
	return t.Explain(r)
}

// Run follows the store until ctx ends, and then returns nil. It fails when the store does.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.background(ctx)
	}()
	defer func() { <-done }()
	defer c.hangUp()
	c.mu.Lock()
	c.model = newModel(c)
	c.mu.Unlock()
	f := store.Follow(c.cfg.Reader, watched()...)
	defer f.Close()
	for {
		b, err := f.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("ingress: follow the store: %w", err)
		}
		c.take(b)
		c.progress.Reach(b.Revision)
	}
}

// take puts a batch of changes into effect.
func (c *Controller) take(b store.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.Fresh {
		c.model.forget()
	}
	for _, e := range b.Events {
		c.model.take(e)
	}
	c.model.settle()
}

// hangUp ends the idle connections to backends; those in use end after their answers.
func (c *Controller) hangUp() {
	c.full.close()
	for _, s := range c.model.live {
		for _, e := range s.places.Load().endpoints {
			e.pool.close()
		}
	}
}

// background writes what may come late: the access log, statuses and events.
func (c *Controller) background(ctx context.Context) {
	tick := time.NewTicker(accessFlush)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			c.access.flush()
			return
		case <-tick.C:
			c.access.flush()
		case <-c.reports:
			c.report(ctx)
		}
	}
}
