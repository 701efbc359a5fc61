package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// askTime is how long one server gets, allTime all of them: glibc gives its own server 5 seconds, and must have our
	// SERVFAIL before.
	askTime = 2 * time.Second
	allTime = 4 * time.Second
	// maxAsking bounds the questions under way, and so the sockets and goroutines that a dead upstream holds.
	maxAsking = 1000
	// upstreamUDP is what we take over UDP from far away without fear of fragments (DNS flag day 2020).
	upstreamUDP = 1232
)

var (
	errNoUpstream = errors.New("no upstream server is configured")
	errBusy       = fmt.Errorf("%d questions wait for upstream servers already", maxAsking)
	errMismatch   = errors.New("the reply is to another question")
)

// forwarder asks other servers.
type forwarder struct {
	servers []string
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	asking  chan struct{}
}

func newForwarder(servers []string, dial func(context.Context, string, string) (net.Conn, error)) *forwarder {
	f := &forwarder{dial: dial, asking: make(chan struct{}, maxAsking)}
	if f.dial == nil {
		f.dial = new(net.Dialer).DialContext
	}
	for _, s := range servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			s = net.JoinHostPort(strings.Trim(s, "[]"), "53")
		}
		f.servers = append(f.servers, s)
	}
	return f
}

func (f *forwarder) configured() bool { return len(f.servers) > 0 }

// ask puts q to the servers in order until one gives an answer that is not SERVFAIL or REFUSED. The flags are taken from req.
func (f *forwarder) ask(ctx context.Context, q dns.Question, req *dns.Msg) (*dns.Msg, error) {
	if !f.configured() {
		return nil, errNoUpstream
	}
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, allTime)
	defer cancel()
	m := question(q, req)
	var failed *dns.Msg
	var errs []error
	for _, server := range f.servers {
		r, err := f.askOne(ctx, m, server)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", server, err))
		case r.Rcode == dns.RcodeServerFailure || r.Rcode == dns.RcodeRefused:
			failed = r
		default:
			return r, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		return failed, nil
	}
	return nil, errors.Join(errs...)
}

func question(q dns.Question, req *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = true
	m.CheckingDisabled = req.CheckingDisabled
	m.Question = []dns.Question{q}
	opt := req.IsEdns0()
	m.SetEdns0(upstreamUDP, opt != nil && opt.Do())
	return m
}

// askOne asks one server over UDP, and over TCP when the answer is too large.
func (f *forwarder) askOne(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := f.exchange(ctx, m, "udp", server)
	if err != nil || !r.Truncated {
		return r, err
	}
	if whole, err := f.exchange(ctx, m, "tcp", server); err == nil {
		return whole, nil
	}
	return r, nil // the part that came, still marked as a part
}

func (f *forwarder) exchange(ctx context.Context, m *dns.Msg, network, server string) (*dns.Msg, error) {
	c, err := f.dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	client := &dns.Client{Net: network, UDPSize: upstreamUDP, Timeout: askTime}
	r, _, err := client.ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: c, UDPSize: upstreamUDP})
	if err != nil {
		return nil, err
	}
	// The id is checked by the client; another question under it is a forgery or a broken server.
	if len(r.Question) != 1 || dns.CanonicalName(r.Question[0].Name) != dns.CanonicalName(m.Question[0].Name) ||
		r.Question[0].Qtype != m.Question[0].Qtype {
		return nil, errMismatch
	}
	return r, nil
}
