package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	defaultEntries  = 10000
	defaultPositive = 30 * time.Second // what Kubernetes' own configuration of CoreDNS keeps answers for, of either kind
	defaultNegative = 30 * time.Second
	// staleTTL is what a client may keep an outdated answer for (RFC 8767, section 4).
	staleTTL = 30
	// evictionSample is how many answers are looked at for the one to give up.
	evictionSample = 8
)

// cacheKey is what an answer of an upstream server depends on.
type cacheKey struct {
	name      string // canonical
	qtype     uint16
	do, check bool
}

func keyOf(q dns.Question, req *dns.Msg) cacheKey {
	opt := req.IsEdns0()
	return cacheKey{name: dns.CanonicalName(q.Name), qtype: q.Qtype, do: opt != nil && opt.Do(), check: req.CheckingDisabled}
}

// cacheEntry is an answer and its times. Neither changes.
type cacheEntry struct {
	m            *dns.Msg
	from         string
	since, until time.Time
}

// cache keeps answers of upstream servers.
type cache struct {
	now                       func() time.Time
	most                      int
	positive, negative, stale time.Duration

	mu      sync.Mutex
	entries map[cacheKey]cacheEntry // guarded by mu
}

func newCache(c Config, now func() time.Time) *cache {
	or := func(d, otherwise time.Duration) time.Duration {
		if d == 0 {
			return otherwise
		}
		return max(d, 0)
	}
	k := &cache{
		now: now, most: c.CacheEntries, stale: max(c.CacheStale, 0), entries: map[cacheKey]cacheEntry{},
		positive: or(c.CachePositive, defaultPositive), negative: or(c.CacheNegative, defaultNegative),
	}
	if k.most == 0 {
		k.most = defaultEntries
	}
	return k
}

// get returns what is known of a question, and whether it still holds. What does not is there for the worst case only.
func (c *cache) get(key cacheKey) (e cacheEntry, known, holds bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known = c.entries[key]
	if !known {
		return e, false, false
	}
	now := c.now()
	if now.Before(e.until) {
		return e, true, true
	}
	if !now.Before(e.until.Add(c.stale)) {
		delete(c.entries, key)
		return cacheEntry{}, false, false
	}
	return e, true, false
}

// put keeps an answer for as long as its records and the limits allow.
func (c *cache) put(key cacheKey, e cacheEntry) {
	lives := c.lifetime(e.m)
	if lives <= 0 || c.most < 0 {
		return
	}
	e.since = c.now()
	e.until = e.since.Add(lives)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.entries[key]; !known && len(c.entries) >= c.most {
		c.evict()
	}
	c.entries[key] = e
}

// evict gives up the first to end of a few answers; ranging over a map begins anywhere. The caller holds mu.
func (c *cache) evict() {
	var victim cacheKey
	var ends time.Time
	looked := 0
	for key, e := range c.entries {
		if looked == 0 || e.until.Before(ends) {
			victim, ends = key, e.until
		}
		if looked++; looked == evictionSample {
			break
		}
	}
	delete(c.entries, victim)
}

// lifetime is how long a message may be kept: 0 for failures, for parts, and for negative answers without a SOA record
// (RFC 2308, section 5).
func (c *cache) lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if m.Rcode == dns.RcodeSuccess && answers(m) {
		ttl := m.Answer[0].Header().Ttl
		for _, rr := range m.Answer[1:] {
			ttl = min(ttl, rr.Header().Ttl)
		}
		return min(time.Duration(ttl)*time.Second, c.positive)
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, c.negative)
		}
	}
	return 0
}

// answers says that m holds a record of the type that was asked for, and not only CNAMEs that lead nowhere.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t == m.Question[0].Qtype || m.Question[0].Qtype == dns.TypeANY {
			return true
		}
	}
	return false
}

// aged is the message as it is to be told now: with the TTLs that are left.
func (e cacheEntry) aged(now time.Time) *dns.Msg {
	m := e.m.Copy()
	age := uint32(max(now.Sub(e.since), 0) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			switch {
			case h.Rrtype == dns.TypeOPT:
			case !now.Before(e.until):
				h.Ttl = min(h.Ttl, staleTTL)
			default:
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}
