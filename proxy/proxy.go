// Package proxy makes Services work on one node: it leads connections to a Service's addresses to one of its endpoints.
//
// It follows Services and EndpointSlices through a store.Reader and keeps one nftables table, "ip kubarium", in the node's
// network namespace. The table's chains and rules are bounded by the shapes in use (numbers of endpoints, affinity timeouts);
// every Service, endpoint and NodePort is map elements, so that a change costs what it changes, however many Services there
// are. `nft list ruleset` shows all of it.
//
// The package has a pure half and an effect half. Pure: model (what each Service asks for), plan (which elements change), text
// (how nft would print it). Effect: kernel (one netlink batch for each set of changes, and reading back), conntrack (what UDP
// leaves behind), proxy (the loop). Counts and Explain tell what is there and why.
//
// It will not forward, accept or see a single byte of traffic; connections live in the kernel and outlive Run. It sets no
// sysctls, routes or interfaces: the node does. It judges no established connection anew: a NetworkPolicy meets new ones.
package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/node/netns"
	"kubarium.dev/store"
)

// Config is what a Proxy has to know. Every field without a remark is required.
type Config struct {
	// Node is the node's name: endpoints with this nodeName are its own.
	Node string
	// NS is the node's network namespace; it stays open while Run runs.
	NS *netns.NS
	// NodeAddresses are the addresses that answer on NodePorts; empty: none does.
	NodeAddresses []netip.Addr
	// NodePortAddresses restricts those, as kube-proxy's option does: ranges that hold the addresses that are to answer, or "primary"
	// alone for the first of each family; empty: all do. What it leaves out answers on no hostPort either.
	NodePortAddresses []string
	// PodCIDR holds the pods of the whole cluster, ServiceCIDR the ClusterIPs.
	PodCIDR, ServiceCIDR netip.Prefix
	// PodCIDR6 and ServiceCIDR6 are the same for IPv6; the zero value: the node has no IPv6 table.
	PodCIDR6, ServiceCIDR6 netip.Prefix
	// DNSAddress is the cluster DNS address when the node's own loopback holds it; the zero value when it does not.
	DNSAddress netip.Addr
	Reader     store.Reader
	// MasqueradeAll hides every client behind the node's address, on every way to a Service but Local ones.
	MasqueradeAll bool
	// Healthz is where Run serves /healthz and /livez in the node's namespace, as kube-proxy does at 0.0.0.0:10256; the zero
	// value: nowhere.
	Healthz netip.AddrPort
	// OnHealth, if set, is told when a Service's health check begins (answers true) or ceases to say that this node has ready
	// endpoints, once the kernel knows of them; with the zero name, when the node begins or ceases to do what is known. All cease with Run. It must return soon, and not call the Proxy.
	OnHealth func(service types.NamespacedName, answers bool)
	// Log may be nil: then nothing is logged.
	Log *slog.Logger
}

// indexesAhead is how many draw chains are made at the start. Fewer would make the first Services of each size add chains of
// their own, which costs the kernel a validation of the table.
const indexesAhead = 16

// Pauses between attempts to mend the table.
const (
	retryFirst = 20 * time.Millisecond
	retryMax   = 5 * time.Second
)

// resetAfter is how many reconciles in a row must fail before the table is deleted and made anew. Deleting it loses counters
// and remembered choices (not connections), so it must not be the first thought.
const resetAfter = 2

// Proxy programs one node.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	progress store.Progress

	mu    sync.Mutex // guards all below
	model *model
	sides []*side // of both families, or of IPv4 alone
	seen  uint64  // the revision that the model stands at
	stats Stats
	// triggers are of slices that were taken in and are not programmed yet.
	triggers []trigger

	health *health
}

// Stats counts what a Proxy has done since it was made.
type Stats struct {
	// Batches were taken by the kernel, Verbs in all of them.
	Batches, Verbs uint64
	// Reconciles compared the whole table; the first is the start.
	Reconciles uint64
	// Failures are batches, reads and conntrack clean-ups that failed.
	Failures uint64
	// Intrusions are changes of our tables by others.
	Intrusions uint64
	// Behind: the last attempt to program the kernel failed, and another is due.
	Behind bool
	// LastSync is when the kernel last did all that was known.
	LastSync time.Time
}

// New makes a Proxy. It touches nothing before Run.
func New(cfg Config) (*Proxy, error) {
	switch {
	case cfg.Node == "" || cfg.NS == nil || cfg.Reader == nil:
		return nil, errors.New("proxy: Node, NS and Reader are required")
	case !cfg.PodCIDR.IsValid() || !cfg.PodCIDR.Addr().Is4() || !cfg.ServiceCIDR.IsValid() || !cfg.ServiceCIDR.Addr().Is4():
		return nil, fmt.Errorf("proxy: PodCIDR %s and ServiceCIDR %s must be IPv4 prefixes", cfg.PodCIDR, cfg.ServiceCIDR)
	case (cfg.PodCIDR6.IsValid() || cfg.ServiceCIDR6.IsValid()) && !(cfg.PodCIDR6.Addr().Is6() && cfg.ServiceCIDR6.Addr().Is6()):
		return nil, fmt.Errorf("proxy: PodCIDR6 %s and ServiceCIDR6 %s must both be IPv6 prefixes", cfg.PodCIDR6, cfg.ServiceCIDR6)
	}
	if err := cfg.restrict(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{cfg: cfg, log: cfg.Log, model: newModel(cfg.Node)}
	p.health = newHealth(&cfg, p.Healthy)
	p.sides = append(p.sides, &side{network: cfg.network(ipv4, cfg.PodCIDR, cfg.ServiceCIDR)})
	if cfg.ServiceCIDR6.IsValid() {
		p.sides = append(p.sides, &side{network: cfg.network(ipv6, cfg.PodCIDR6, cfg.ServiceCIDR6)})
	}
	return p, nil
}

func (c *Config) network(f family, pods, services netip.Prefix) network {
	n := network{family: f, podCIDR: pods.Masked(), serviceCIDR: services.Masked(), masqueradeAll: c.MasqueradeAll}
	if f.has(c.DNSAddress) {
		n.dns = c.DNSAddress
	}
	return n
}

// Progress tells up to which revision the kernel does what the store says.
func (p *Proxy) Progress() *store.Progress { return &p.progress }

// Stats returns the counters.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Run programs the node until ctx ends, then returns nil; the table stays, and a later Run takes it over. Nothing is written
// before Services and slices are listed. It fails when the store closes or the namespace cannot be entered.
func (p *Proxy) Run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("proxy of %s: %w", p.cfg.Node, err)
		}
	}()
	var closings []func() error
	defer func() {
		for _, closing := range closings {
			err = errors.Join(err, closing())
		}
	}()
	for _, s := range p.sides {
		closing, err := s.open(p.cfg.NS, &p.mu)
		if err != nil {
			return err
		}
		closings = append(closings, closing)
	}
	return p.run(ctx)
}

// run is Run over any kernels. It waits for all it started.
func (p *Proxy) run(ctx context.Context) error {
	defer p.leave()
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	if p.health != nil {
		tasks.Go(func() { p.health.run(ctx, p.cfg.Healthz) })
	}
	for _, s := range p.sides {
		if k, ok := s.kernel.(*linux); ok {
			tasks.Go(func() { p.guard(ctx, k) })
		}
	}
	for again := false; ; again = true {
		err := p.follow(ctx, again)
		switch {
		case ctx.Err() != nil:
			return nil
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
			p.log.Warn("the proxy fell behind the store's events and lists again", "node", p.cfg.Node)
		default:
			return err
		}
	}
}

// leave lets go of the kernels, which Run's end closes.
func (p *Proxy) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sides {
		s.kernel, s.flows = nil, nil
	}
	p.health.own(false)
}

// follow lists, reconciles, and then takes batches for as long as the reader gives any. When it has to list again, the table is as
// planned, and what was listed is compared with the plan alone.
func (p *Proxy) follow(ctx context.Context, again bool) error {
	from, err := p.list(ctx)
	if err != nil {
		return err
	}
	w, err := p.cfg.Reader.Watch(ctx, from, kinds()...)
	if err != nil {
		return err
	}
	defer w.Close()
	if !again || p.refresh() != nil {
		if err := p.mend(ctx, w); err != nil {
			return err
		}
	}
	for {
		b, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if err := p.take(b); err != nil {
			p.log.Warn("a change of the table failed; comparing the whole of it", "node", p.cfg.Node, "error", err)
			if err := p.mend(ctx, w); err != nil {
				return err
			}
		}
	}
}

// kinds are the kinds that decide what the table holds.
func kinds() []*api.Kind {
	out := []*api.Kind{api.Services, api.EndpointSlices, api.Nodes, api.Namespaces, api.Pods}
	if policies, served := api.KindFor(networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy")); served {
		out = append(out, policies)
	}
	return out
}

// list fills the model, and returns the revision to watch from: that of the first list, so that nothing between the lists is
// missed. Events that a later list knew already are taken twice, in order, within the first batch.
func (p *Proxy) list(ctx context.Context) (uint64, error) {
	m, dirty, from := newModel(p.cfg.Node), map[types.NamespacedName]struct{}{}, uint64(0)
	for i, kind := range kinds() {
		l, err := p.cfg.Reader.List(ctx, kind, store.Query{})
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", kind.Plural, err)
		}
		for _, obj := range l.Items {
			m.take(store.Event{Type: store.Added, Kind: kind, Object: obj}, dirty)
		}
		if i == 0 {
			from = l.Revision
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.model, p.seen = m, from
	return from, nil
}

// take programs one batch of events.
func (p *Proxy) take(b store.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := sorted(p.enter(b))
	for _, s := range p.sides {
		began := time.Now()
		err := s.take(p.model, dirty, &p.stats)
		s.metrics.measure(&s.metrics.partial, began, err)
		if err := p.settle(err); err != nil {
			return err
		}
	}
	for _, name := range dirty {
		p.health.set(name, p.model.healthCheck(name))
	}
	p.done()
	return nil
}

// settle counts a failure, and keeps those that need a comparison of the whole table.
func (p *Proxy) settle(err error) error {
	if err == nil {
		return nil
	}
	p.stats.Failures++
	if stays := (errForget{}); errors.As(err, &stays) {
		p.log.Warn("old UDP conntrack entries may stay until they time out", "node", p.cfg.Node, "error", err)
		return nil
	}
	p.stats.Behind = true
	p.health.own(false)
	return err
}

// done notes that the kernel does what the model says.
func (p *Proxy) done() {
	p.stats.Behind, p.stats.LastSync = false, time.Now()
	for _, t := range p.triggers {
		for _, s := range p.sides {
			if s.network.family == t.family {
				s.metrics.programming.observe(programmingBounds, max(0, p.stats.LastSync.Sub(t.at)))
			}
		}
	}
	p.triggers = p.triggers[:0]
	p.health.own(true)
	p.progress.Reach(p.seen)
}

// enter takes events into the model alone. Call it with mu held.
func (p *Proxy) enter(b store.Batch) map[types.NamespacedName]struct{} {
	dirty := map[types.NamespacedName]struct{}{}
	for _, e := range b.Events {
		p.model.take(e, dirty)
		if t, ok := triggered(e); ok {
			p.triggers = append(p.triggers, t)
		}
	}
	p.seen = b.Revision
	return dirty
}

func sorted(names map[types.NamespacedName]struct{}) []types.NamespacedName { return sortedKeys(names) }

func sortedKeys[V any](m map[types.NamespacedName]V) []types.NamespacedName {
	out := make([]types.NamespacedName, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return out
}

// mend reconciles until it succeeds, taking in events while it waits. It fails as the watcher does.
func (p *Proxy) mend(ctx context.Context, w store.Watcher) error {
	delay := retryFirst
	for attempt := 0; ; attempt++ {
		err := p.reconcile(attempt >= resetAfter)
		if err == nil {
			return nil
		}
		p.log.Error("the node's table is not as desired; trying again", "node", p.cfg.Node, "error", err, "in", delay)
		if err := p.absorb(ctx, w, delay); err != nil {
			return err
		}
		delay = min(2*delay, retryMax)
	}
}

// absorb takes events into the model for a while.
func (p *Proxy) absorb(ctx context.Context, w store.Watcher, d time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		b, err := w.Next(wait)
		switch {
		case err == nil:
			p.mu.Lock()
			p.enter(b)
			p.mu.Unlock()
		case ctx.Err() == nil && wait.Err() != nil:
			return nil
		default:
			return err
		}
	}
}

// reconcile compares the whole of the tables with the plan, and mends them.
func (p *Proxy) reconcile(reset bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Reconciles++
	for _, s := range p.sides {
		if s.kernel == nil {
			return ErrNotRunning
		}
		began := time.Now()
		err := s.reconcile(p.model, p.constant(s.network.family), reset, &p.stats)
		s.metrics.measure(&s.metrics.full, began, err)
		if err := p.settle(err); err != nil {
			return err
		}
	}
	p.health.replace(p.model)
	p.done()
	return nil
}

// refresh programs the difference between what was planned and what was listed anew. It fails when the table may not be as planned:
// then it must be compared.
func (p *Proxy) refresh() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stats.Behind {
		return errors.New("an earlier change failed")
	}
	for _, s := range p.sides {
		if s.planner == nil || s.kernel == nil {
			return ErrNotRunning
		}
		if err := p.settle(s.refresh(p.model, &p.stats)); err != nil {
			return err
		}
	}
	p.health.replace(p.model)
	p.done()
	return nil
}
