package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// foreigners answers what is not of the cluster: fixed names, then the cache, then other servers. Its configuration never
// changes; Reload makes a new one.
type foreigners struct {
	hosts  map[string]*node
	ttl    time.Duration // of the hosts' records
	routes []route       // the longest domain first
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	now    func() time.Time
	cache  *cache
	asking chan struct{} // one for each client that waits
	counts *counts
	warned atomic.Bool // of a loop

	mu      sync.Mutex
	flights map[cacheKey]*flight // guarded by mu: questions under way
	sent    map[sentKey]struct{} // guarded by mu: the messages of theirs that wait for a reply
}

// route is the servers of a domain.
type route struct {
	domain  string // "corp.example.", or "." for all
	servers []*server
}

// flight is a question under way, for everybody who asks it meanwhile.
type flight struct {
	done chan struct{}
	e    cacheEntry
	err  error
}

// sentKey is how a message of ours is known when it comes back to us.
type sentKey struct {
	id    uint16
	name  string
	qtype uint16
}

var (
	errNoUpstream = errors.New("no upstream server is configured for it")
	errBusy       = errors.New("too many questions wait for upstream servers already")
	errMismatch   = errors.New("the reply is to another question")
	errLoop       = errors.New("the upstream servers lead back to this server")
)

func newForeigners(c Config, ttl time.Duration, n *counts) *foreigners {
	f := &foreigners{
		hosts: map[string]*node{}, ttl: ttl, dial: c.Dial, now: c.Now, counts: n,
		flights: map[cacheKey]*flight{}, sent: map[sentKey]struct{}{},
	}
	if f.dial == nil {
		f.dial = new(net.Dialer).DialContext
	}
	if f.now == nil {
		f.now = time.Now
	}
	f.cache = newCache(c, f.now)
	f.asking = make(chan struct{}, cmp.Or(max(c.MaxAsking, 0), defaultAsking))
	f.addHosts(c.Hosts)
	for domain, servers := range c.Stub {
		f.addRoute(domain, servers)
	}
	f.addRoute(".", c.Upstream)
	slices.SortFunc(f.routes, func(a, b route) int {
		return cmp.Or(dns.CountLabel(b.domain)-dns.CountLabel(a.domain), strings.Compare(a.domain, b.domain))
	})
	return f
}

// addHosts makes the records of fixed names, and the way back from their addresses to the first of each in the alphabet.
func (f *foreigners) addHosts(hosts map[string][]netip.Addr) {
	d := desired{}
	for name, addresses := range hosts {
		for _, a := range addresses {
			d.add(dns.CanonicalName(name), addressRecord(a))
			d.add(reverseName(a), record{typ: dns.TypePTR, text: dns.CanonicalName(name)})
		}
	}
	for owner, records := range d {
		slices.SortFunc(records, func(a, b record) int { return strings.Compare(a.text, b.text) })
		slices.SortStableFunc(records, inOrder)
		f.hosts[owner] = compile(owner, []part{{records: records}})
	}
}

func (f *foreigners) addRoute(domain string, addresses []string) {
	if len(addresses) == 0 {
		return
	}
	r := route{domain: dns.CanonicalName(domain)}
	for _, a := range addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), "53")
		}
		r.servers = append(r.servers, &server{address: a})
	}
	f.routes = append(f.routes, r)
}

// configured says whether any foreign name can be answered at all.
func (f *foreigners) configured() bool { return len(f.routes) > 0 || len(f.hosts) > 0 }

// servers is those that know about a name, or nil.
func (f *foreigners) servers(name string) []*server {
	for _, r := range f.routes {
		if dns.IsSubDomain(r.domain, name) {
			return r.servers
		}
	}
	return nil
}

// known answers without asking anybody, or returns nil. from says where the answer was found.
func (f *foreigners) known(q dns.Question, req *dns.Msg, seed uint64) (m *dns.Msg, from string) {
	name := dns.CanonicalName(q.Name)
	if n := f.hosts[name]; n != nil {
		m = new(dns.Msg)
		r := result{seed: seed}
		for records := range n.sets {
			if records[0].typ == q.Qtype || q.Qtype == dns.TypeANY {
				r.answer = r.appendNamed(records, q.Name, f.ttl)
			}
		}
		m.Answer = r.answer
		return m, "the configured hosts"
	}
	if e, _, holds := f.cache.get(keyOf(q, req)); holds {
		f.counts.cacheHits.Add(1)
		return f.told(e, q), "the cache, which has it from " + e.from
	}
	return nil, ""
}

// told is a kept answer as the client asked for it: with its capitals, and what is left of the TTLs.
func (f *foreigners) told(e cacheEntry, q dns.Question) *dns.Msg {
	m := e.aged(f.now())
	for _, rr := range m.Answer {
		if strings.EqualFold(rr.Header().Name, q.Name) {
			rr.Header().Name = q.Name
		}
	}
	return m
}

// ask has the question answered by the servers that know about the name. Clients who ask the same at once wait for one reply.
// When nobody answers, an outdated answer may serve.
func (f *foreigners) ask(ctx context.Context, q dns.Question, req *dns.Msg) (*dns.Msg, string, error) {
	servers := f.servers(dns.CanonicalName(q.Name))
	if len(servers) == 0 {
		return nil, "", errNoUpstream
	}
	if f.ours(req, q) {
		f.counts.loops.Add(1)
		return nil, "", errLoop
	}
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	default:
		f.counts.refusedAsking.Add(1)
		return nil, "", errBusy
	}
	key := keyOf(q, req)
	e, err := f.share(ctx, key, servers)
	if err == nil && e.m.Rcode != dns.RcodeServerFailure {
		return f.told(e, q), e.from, nil
	}
	if old, known, _ := f.cache.get(key); known {
		f.counts.stale.Add(1)
		return f.told(old, q), "the cache, which had it from " + old.from + " before that failed", nil
	}
	if err != nil {
		return nil, "", err
	}
	return f.told(e, q), e.from, nil
}

// share joins the flight of a question, or makes it.
func (f *foreigners) share(ctx context.Context, key cacheKey, servers []*server) (cacheEntry, error) {
	for {
		f.mu.Lock()
		fl, joined := f.flights[key]
		if !joined {
			fl = &flight{done: make(chan struct{})}
			f.flights[key] = fl
		}
		f.mu.Unlock()
		if !joined {
			fl.e, fl.err = f.fly(ctx, key, servers)
			f.mu.Lock()
			delete(f.flights, key)
			f.mu.Unlock()
			close(fl.done)
			return fl.e, fl.err
		}
		select {
		case <-ctx.Done():
			return cacheEntry{}, ctx.Err()
		case <-fl.done:
		}
		if !errors.Is(fl.err, context.Canceled) { // else its client went away: the next one asks for itself
			return fl.e, fl.err
		}
	}
}

// fly asks one server after the other until one gives an answer that is neither SERVFAIL nor REFUSED; those that did not
// answer lately come last.
func (f *foreigners) fly(ctx context.Context, key cacheKey, servers []*server) (cacheEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, allTime)
	defer cancel()
	var failed cacheEntry
	var errs []error
	for _, s := range byHealth(servers, f.now()) {
		r, err := f.askOne(ctx, key, s)
		e := cacheEntry{m: r, from: s.address, since: f.now()}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", s.address, err))
		case r.Rcode == dns.RcodeServerFailure || r.Rcode == dns.RcodeRefused:
			failed = e
		default:
			e.until = e.since.Add(time.Second) // for told, when it is not kept
			f.cache.put(key, e)
			return e, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed.m != nil {
		failed.until = failed.since.Add(time.Second)
		return failed, nil
	}
	return cacheEntry{}, errors.Join(errs...)
}

// ours says that a message is one that we sent ourselves: an upstream server sent it on to us. A client's own message is
// taken for one only if it asks what we ask just then, under the same id of 65,536.
func (f *foreigners) ours(req *dns.Msg, q dns.Question) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ours := f.sent[sentKey{req.Id, dns.CanonicalName(q.Name), q.Qtype}]
	return ours
}
