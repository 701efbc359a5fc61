package dns

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// askTime is how long one server gets, allTime all of them: glibc gives its own server 5 seconds, and must have our
	// SERVFAIL before.
	askTime = 2 * time.Second
	allTime = 4 * time.Second
	// defaultAsking bounds the clients that wait, and so the sockets and goroutines that a dead upstream holds.
	defaultAsking = 1000
	// upstreamUDP is what we take over UDP from far away without fear of fragments (DNS flag day 2020).
	upstreamUDP = 1232
	// A server that failed so often in a row is asked after the others for so long.
	failuresUntilLast = 2
	restTime          = 10 * time.Second
)

// server is one upstream server, and how it does.
type server struct {
	address  string
	failures atomic.Int32 // in a row
	restsTil atomic.Int64 // Unix nanoseconds
}

// byHealth is the servers in the order to ask them.
func byHealth(servers []*server, now time.Time) []*server {
	resting := func(s *server) int {
		if s.restsTil.Load() > now.UnixNano() {
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(servers), func(a, b *server) int { return resting(a) - resting(b) })
}

func (s *server) succeeded() {
	s.failures.Store(0)
	s.restsTil.Store(0)
}

func (s *server) failed(now time.Time) {
	if s.failures.Add(1) >= failuresUntilLast {
		s.restsTil.Store(now.Add(restTime).UnixNano())
	}
}

// message is a new message that asks for key.
func (key cacheKey) message() *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = true
	m.CheckingDisabled = key.check
	m.Question = []dns.Question{{Name: key.name, Qtype: key.qtype, Qclass: dns.ClassINET}}
	m.SetEdns0(upstreamUDP, key.do)
	return m
}

// askOne asks one server over UDP, and over TCP when the answer is too large.
func (f *foreigners) askOne(ctx context.Context, key cacheKey, s *server) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	m := key.message()
	way := sentKey{m.Id, key.name, key.qtype}
	f.mark(way, true)
	defer f.mark(way, false)
	f.counts.asked.Add(1)
	r, err := f.exchange(ctx, m, "udp", s.address)
	if err != nil {
		if !errors.Is(err, context.Canceled) { // else our own client went away
			s.failed(f.now())
			f.counts.askFailures.Add(1)
		}
		return nil, err
	}
	s.succeeded()
	if r.Truncated {
		if whole, err := f.exchange(ctx, m, "tcp", s.address); err == nil {
			return whole, nil
		}
	}
	return r, nil // perhaps the part that came, still marked as a part
}

// mark remembers a message of ours while it is under way.
func (f *foreigners) mark(way sentKey, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on {
		f.sent[way] = struct{}{}
		return
	}
	delete(f.sent, way)
}

func (f *foreigners) exchange(ctx context.Context, m *dns.Msg, network, address string) (*dns.Msg, error) {
	c, err := f.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	client := &dns.Client{Net: network, UDPSize: upstreamUDP, Timeout: askTime}
	r, _, err := client.ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: c, UDPSize: upstreamUDP})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	// The id is checked by the client; another question under it is a forgery or a broken server, and a question is no reply.
	if !r.Response || len(r.Question) != 1 || dns.CanonicalName(r.Question[0].Name) != m.Question[0].Name ||
		r.Question[0].Qtype != m.Question[0].Qtype {
		return nil, errMismatch
	}
	r.Extra = withoutOPT(r.Extra)
	return r, nil
}
