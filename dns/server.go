package dns

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// PodRecords says which names below pod.<domain> are answered.
type PodRecords int

// The settings that cluster DNS servers have for names such as 10-244-1-7.dev.pod.cluster.local.
const (
	PodsOff      PodRecords = iota // none
	PodsInsecure                   // every address in an existing namespace, whether a pod has it or not
	PodsVerified                   // those of living pods
)

// Config is what a Server needs. Only Reader is required.
type Config struct {
	Reader store.Reader
	// Domain is the cluster's domain; "" means cluster.local.
	Domain string
	// TTL of the records, and how long clients may remember that a name is missing: whole seconds, at most an hour. 0 means
	// 5 seconds, less than 0 no caching.
	TTL time.Duration
	// Reverse is the address ranges of Services and pods: a PTR question in them that no object answers gets NXDOMAIN; all
	// others go upstream.
	Reverse []netip.Prefix
	Pods    PodRecords
	// Upstream is the servers asked for foreign names, in order, as "address" or "address:port". None: such names fail at once.
	Upstream []string
	// Stub is the servers of further domains, such as "corp.example": the longest domain that a name lies in decides who is
	// asked. The cluster's own names are never asked elsewhere.
	Stub map[string][]string
	// Autopath, if set, makes the server go through the search path in its clients' stead: when a pod asks for the first name of
	// its walk and there is none, it gets the answer of the first that exists, behind a CNAME. Autopath says what the search
	// path of a pod is; nil: the pod has none, or asks others.
	Autopath func(*corev1.Pod) []string
	// Hosts is the addresses of fixed names outside the cluster. They are answered before anybody is asked, and their
	// addresses lead back to them.
	Hosts map[string][]netip.Addr
	// CacheEntries is how many answers of upstream servers are kept; 0 means 10,000, less than 0 none.
	CacheEntries int
	// CachePositive and CacheNegative are how long they are kept at most, whatever their TTL; 0 means 30 seconds, less
	// than 0 not at all. CacheStale is how much longer an outdated answer serves when no server answers; 0 means not at all.
	CachePositive, CacheNegative, CacheStale time.Duration
	// MaxAsking is how many clients may wait for upstream servers; the others get SERVFAIL at once. 0 means 1,000.
	MaxAsking int
	// Dial opens the connections to upstream servers; nil means the process's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock of the cache; nil means time.Now.
	Now func() time.Time
	// Log is for what an operator must know; nil discards.
	Log *slog.Logger
}

const (
	defaultTTL = 5 * time.Second // Kubernetes' own: short, as clients remember addresses of pods that are gone
	maxTTL     = time.Hour
	// maxUDP is the largest packet read, and sent to a client that says it takes as much: the size that EDNS0 (RFC 6891)
	// proposes.
	maxUDP = 4096
)

// Server answers the names of one cluster.
type Server struct {
	zones    *zones
	pods     PodRecords
	autopath func(*corev1.Pod) []string
	reader   store.Reader
	ttl      time.Duration
	foreign  atomic.Pointer[foreigners] // never nil
	log      *slog.Logger
	index    atomic.Pointer[index]     // nil before the first list
	kept     atomic.Pointer[questions] // nil: questions are not kept
	counts   counts
	progress store.Progress
}

// New makes a server. It knows nothing before Run.
func New(c Config) *Server {
	ttl := c.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ttl = min(max(ttl, 0), maxTTL)
	s := &Server{
		zones:  newZones(cmp.Or(c.Domain, "cluster.local"), c.Reverse, ttl),
		pods:   c.Pods,
		reader: c.Reader, autopath: c.Autopath,
		ttl: ttl,
		log: log,
	}
	s.Reload(c)
	return s
}

// Reload takes over what c says about foreign names: Upstream, Stub, Hosts, MaxAsking, Dial, Now and the cache, which begins
// empty. Questions under way are answered as before. Everything else needs another server.
func (s *Server) Reload(c Config) { s.foreign.Store(newForeigners(c, s.ttl, &s.counts)) }

// Progress is the store's revision that the answers hold.
func (s *Server) Progress() *store.Progress { return &s.progress }

// Run follows the store until ctx ends, and then returns nil. It fails when the store does.
func (s *Server) Run(ctx context.Context) error {
	for {
		err := s.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
			s.log.Warn("dns: fell behind the store, reading it anew")
		default:
			return fmt.Errorf("dns: follow the store: %w", err)
		}
	}
}

// follow fills a new index and keeps it up to date until the store's events are lost.
func (s *Server) follow(ctx context.Context) error {
	x := newIndex(s.zones, s.pods)
	x.paths = newPaths(s.autopath)
	from, listed, err := s.fill(ctx, x)
	if err != nil {
		return err
	}
	w, err := s.reader.Watch(ctx, from, x.kinds()...)
	if err != nil {
		return err
	}
	defer w.Close()
	s.index.Store(x)
	s.progress.Reach(from)
	for {
		b, err := w.Next(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		b.Events = unseen(b.Events, listed)
		x.apply(b)
		s.progress.Reach(b.Revision)
		s.counts.programming.add(time.Since(began), 1)
	}
}

// fill lists every kind. It returns the oldest of the lists' revisions, and each kind's own.
func (s *Server) fill(ctx context.Context, x *index) (uint64, map[*api.Kind]uint64, error) {
	var from uint64
	listed := map[*api.Kind]uint64{}
	for i, kind := range x.kinds() {
		l, err := s.reader.List(ctx, kind, store.Query{})
		if err != nil {
			return 0, nil, err
		}
		b := store.Batch{Revision: l.Revision}
		for _, obj := range l.Items {
			b.Events = append(b.Events, store.Event{Type: store.Added, Kind: kind, Object: obj, Revision: l.Revision})
		}
		x.apply(b)
		listed[kind] = l.Revision
		if i == 0 || l.Revision < from {
			from = l.Revision
		}
	}
	return from, listed, nil
}

// unseen leaves out what the lists held already, so that no object goes back in time.
func unseen(events []store.Event, listed map[*api.Kind]uint64) []store.Event {
	fresh := events[:0:0]
	for _, e := range events {
		if e.Revision > listed[e.Kind] {
			fresh = append(fresh, e)
		}
	}
	return fresh
}
