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
// sysctls, routes or interfaces: the node does. The IPv4 table stands alone so far.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

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
	// PodCIDR holds the pods of the whole cluster, ServiceCIDR the ClusterIPs.
	PodCIDR, ServiceCIDR netip.Prefix
	// DNSAddress is the cluster DNS address when the node's own loopback holds it; the zero value when it does not.
	DNSAddress netip.Addr
	Reader     store.Reader
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
	network  network
	log      *slog.Logger
	progress store.Progress

	mu      sync.Mutex // guards all below
	model   *model
	planner *planner // nil until the first reconcile
	kernel  kernel   // nil while Run does not run
	flows   flows
	seen    uint64 // the revision that the model stands at
	stats   Stats
}

// Stats counts what a Proxy has done since it was made.
type Stats struct {
	// Batches were taken by the kernel, Verbs in all of them.
	Batches, Verbs uint64
	// Reconciles compared the whole table; the first is the start.
	Reconciles uint64
	// Failures are batches, reads and conntrack clean-ups that failed.
	Failures uint64
}

// New makes a Proxy. It touches nothing before Run.
func New(cfg Config) (*Proxy, error) {
	switch {
	case cfg.Node == "" || cfg.NS == nil || cfg.Reader == nil:
		return nil, errors.New("proxy: Node, NS and Reader are required")
	case !cfg.PodCIDR.IsValid() || !cfg.PodCIDR.Addr().Is4() || !cfg.ServiceCIDR.IsValid() || !cfg.ServiceCIDR.Addr().Is4():
		return nil, fmt.Errorf("proxy: PodCIDR %s and ServiceCIDR %s must be IPv4 prefixes", cfg.PodCIDR, cfg.ServiceCIDR)
	}
	p := &Proxy{
		cfg: cfg, log: cfg.Log, model: newModel(cfg.Node),
		network: network{podCIDR: cfg.PodCIDR.Masked(), serviceCIDR: cfg.ServiceCIDR.Masked(), dns: cfg.DNSAddress},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, nil
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
func (p *Proxy) Run(ctx context.Context) error {
	k, err := openKernel(p.cfg.NS)
	if err != nil {
		return fmt.Errorf("proxy of %s: %w", p.cfg.Node, err)
	}
	f, err := openConntrack(p.cfg.NS)
	if err != nil {
		return errors.Join(fmt.Errorf("proxy of %s: %w", p.cfg.Node, err), k.Close())
	}
	err = p.run(ctx, k, f)
	f.Close()
	return errors.Join(err, k.Close())
}

// run is Run over any kernel.
func (p *Proxy) run(ctx context.Context, k kernel, f flows) error {
	p.use(k, f)
	defer p.use(nil, nil)
	for {
		err := p.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
			p.log.Warn("the proxy fell behind the store's events and lists again", "node", p.cfg.Node)
		default:
			return fmt.Errorf("proxy of %s: %w", p.cfg.Node, err)
		}
	}
}

func (p *Proxy) use(k kernel, f flows) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kernel, p.flows = k, f
}

// follow lists, reconciles, and then takes batches for as long as the reader gives any.
func (p *Proxy) follow(ctx context.Context) error {
	from, err := p.list(ctx)
	if err != nil {
		return err
	}
	w, err := p.cfg.Reader.Watch(ctx, from, api.Services, api.EndpointSlices)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := p.mend(ctx, w); err != nil {
		return err
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

// list fills the model, and returns the revision to watch from: that of the first list, so that nothing between the lists is
// missed. Events that the second list knew already are taken twice, in order, within the first batch.
func (p *Proxy) list(ctx context.Context) (uint64, error) {
	services, err := p.cfg.Reader.List(ctx, api.Services, store.Query{})
	if err != nil {
		return 0, fmt.Errorf("list services: %w", err)
	}
	endpoints, err := p.cfg.Reader.List(ctx, api.EndpointSlices, store.Query{})
	if err != nil {
		return 0, fmt.Errorf("list endpointslices: %w", err)
	}
	m, dirty := newModel(p.cfg.Node), map[types.NamespacedName]struct{}{}
	for _, obj := range services.Items {
		m.take(store.Event{Type: store.Added, Kind: api.Services, Object: obj}, dirty)
	}
	for _, obj := range endpoints.Items {
		m.take(store.Event{Type: store.Added, Kind: api.EndpointSlices, Object: obj}, dirty)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.model, p.seen = m, services.Revision
	return services.Revision, nil
}

// take programs one batch of events.
func (p *Proxy) take(b store.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := p.enter(b)
	for _, name := range sorted(dirty) {
		p.planner.set(name, p.model.desired(name))
	}
	todo := p.planner.finish()
	if len(todo.Verbs) > 0 {
		if err := p.apply(batch{Chains: newChains(todo.Verbs), Verbs: todo.Verbs}); err != nil {
			return err
		}
		p.clean(todo)
	}
	p.progress.Reach(p.seen)
	return nil
}

// enter takes events into the model alone. Call it with mu held.
func (p *Proxy) enter(b store.Batch) map[types.NamespacedName]struct{} {
	dirty := map[types.NamespacedName]struct{}{}
	for _, e := range b.Events {
		p.model.take(e, dirty)
	}
	p.seen = b.Revision
	return dirty
}

func sorted(names map[types.NamespacedName]struct{}) []types.NamespacedName {
	out := make([]types.NamespacedName, 0, len(names))
	for n := range names {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// apply sends a batch, a very large one in parts.
func (p *Proxy) apply(whole batch) error {
	for _, b := range split(whole, batchVerbs) {
		if err := p.kernel.apply(b); err != nil {
			p.stats.Failures++
			return err
		}
		p.stats.Batches++
		p.stats.Verbs += uint64(len(b.Verbs))
	}
	return nil
}

// clean deletes what UDP connections remember of endpoints that left. A failure is logged: such entries end by themselves,
// after the kernel's timeout.
func (p *Proxy) clean(todo plan) {
	if len(todo.Left) == 0 && len(todo.Joined) == 0 {
		return
	}
	if err := p.flows.forget(todo.Left, todo.Joined); err != nil {
		p.stats.Failures++
		p.log.Warn("old UDP conntrack entries may stay until they time out", "node", p.cfg.Node, "error", err)
	}
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

// reconcile reads the table, plans everything anew with the numbers it finds there, and sends the difference.
func (p *Proxy) reconcile(reset bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Reconciles++
	was, err := p.kernel.read()
	if err != nil {
		p.stats.Failures++
		return fmt.Errorf("read the table: %w", err)
	}
	next := newPlanner(indexesAhead, p.constant())
	if p.planner != nil {
		next.nextID, next.nextHandle = p.planner.nextID, p.planner.nextHandle
	}
	todo := next.full(was, p.model.all())
	b := batch{Declare: true, Reset: reset, Chains: ruleset(p.network, next.shapes), Verbs: todo.Verbs}
	if reset {
		b.Verbs = diff(nil, next.all())
	} else {
		b.DropChains, b.DropSets = stale(was, b.Chains)
	}
	if err := p.apply(b); err != nil {
		return err
	}
	p.planner = next
	p.clean(todo)
	p.progress.Reach(p.seen)
	return nil
}

// constant are the elements that no Service asks for.
func (p *Proxy) constant() []element {
	var out []element
	for _, a := range p.cfg.NodeAddresses {
		out = append(out, nodeAddress(a))
	}
	return out
}

// stale names the chains and maps of a table that do not belong there.
func stale(h held, want []chain) (chains, sets []string) {
	for _, name := range h.Chains {
		if !slices.ContainsFunc(want, func(c chain) bool { return c.name == name }) {
			chains = append(chains, name)
		}
	}
	for _, name := range h.Sets {
		if _, known := mapDefByName[name]; !known {
			sets = append(sets, name)
		}
	}
	return chains, sets
}
