package dns

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

// Answer is the reply to a message from the index alone, whole, as over TCP: what the server says when it has no upstream
// servers. Equal index, equal answer, but for the order of addresses.
func (s *Server) Answer(req *dns.Msg) *dns.Msg {
	m, r := s.begin(req, rand.Uint64())
	m.RecursionAvailable = false
	if r.foreign != "" && len(r.answer) == 0 {
		r.rcode = dns.RcodeServerFailure
	}
	finish(m, &r, req, dns.MaxMsgSize)
	return m
}

// whole is an empty reply to req, and the answer, by whoever knows it.
func (s *Server) whole(ctx context.Context, client netip.Addr, req *dns.Msg, seed uint64) (*dns.Msg, result) {
	m, r := s.begin(req, seed)
	rest := s.rest(client, req, &r)
	if r.foreign != "" {
		s.complete(ctx, req, &r)
	}
	return m, s.goOn(ctx, req, rest, r)
}

// begin is an empty reply to req, and what the index knows.
func (s *Server) begin(req *dns.Msg, seed uint64) (*dns.Msg, result) {
	m := new(dns.Msg)
	m.SetReply(req)
	m.RecursionAvailable = s.foreign.Load().configured()
	if rcode := refuse(req); rcode != dns.RcodeSuccess {
		return m, result{rcode: rcode, refused: true}
	}
	return m, s.look(req.Question[0], seed)
}

// finish puts r into m, as far as it fits into size bytes, and the EDNS0 record that a client with EDNS0 expects.
func finish(m *dns.Msg, r *result, req *dns.Msg, size int) {
	r.into(m)
	if opt := req.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
	}
	fit(m, size)
	m.Compress = true
}

// fit shortens m to size bytes. Addresses that were only a courtesy beside the answer may go without a word; for the rest, the
// client is told to come back over TCP.
func fit(m *dns.Msg, size int) {
	said := m.Truncated
	answers, authorities := len(m.Answer), len(m.Ns)
	m.Truncate(size)
	m.Truncated = said || len(m.Answer) < answers || len(m.Ns) < authorities
}

// look asks the index. Before it is there, whatever could be a name of the cluster fails, so that nobody remembers that a
// name is missing.
func (s *Server) look(q dns.Question, seed uint64) result {
	if x := s.index.Load(); x != nil {
		return x.answer(q, seed)
	}
	name := dns.CanonicalName(q.Name)
	if s.zones.of(name) != "" || isReverse(name) {
		return result{rcode: dns.RcodeServerFailure}
	}
	return result{foreign: q.Name}
}

// known completes r where the fixed names or the cache suffice, or nobody could be asked, and says whether it did.
func (s *Server) known(req *dns.Msg, r *result) bool {
	f := s.foreign.Load()
	if !f.configured() {
		if len(r.answer) == 0 {
			r.rcode = dns.RcodeServerFailure
		}
		r.err = errNoUpstream
		return true
	}
	q := req.Question[0]
	q.Name = r.foreign
	m, from := f.known(q, req, r.seed)
	if m == nil {
		return false
	}
	r.told(m, from)
	return true
}

// complete finds out what the index could not answer.
func (s *Server) complete(ctx context.Context, req *dns.Msg, r *result) {
	if s.known(req, r) {
		return
	}
	q := req.Question[0]
	q.Name = r.foreign
	f := s.foreign.Load()
	m, from, err := f.ask(ctx, q, req)
	if err != nil {
		if errors.Is(err, errLoop) && !f.warned.Swap(true) {
			s.log.Warn("dns: " + errLoop.Error() + ": foreign names cannot be answered")
		}
		s.log.Debug("dns: ask upstream", "name", q.Name, "err", err)
		r.rcode, r.err = dns.RcodeServerFailure, err
		return
	}
	r.told(m, from)
}

// told takes over what others say.
func (r *result) told(m *dns.Msg, from string) {
	r.rcode, r.truncated, r.from = m.Rcode, m.Truncated, from
	r.answer = append(r.answer, m.Answer...)
	r.ns, r.extra = m.Ns, m.Extra
}

func (r *result) into(m *dns.Msg) {
	m.Rcode = r.rcode
	m.Answer, m.Ns, m.Extra = r.answer, r.ns, r.extra
	m.Truncated = r.truncated
	// With authority: what we said ourselves, not what others told us.
	m.Authoritative = r.foreign == "" && !r.refused && r.rcode != dns.RcodeServerFailure
}

// refuse returns the code for messages that are not answered at all, or success.
func refuse(req *dns.Msg) int {
	if req.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	if len(req.Question) != 1 || !soundOPT(req) {
		return dns.RcodeFormatError
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers
	}
	q := req.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// soundOPT: there is one OPT record at most, and it belongs to the root (RFC 6891, 6.1).
func soundOPT(req *dns.Msg) bool {
	n := 0
	for _, rr := range req.Extra {
		if h := rr.Header(); h.Rrtype == dns.TypeOPT {
			if n++; n > 1 || h.Name != "." {
				return false
			}
		}
	}
	return true
}

// room is how many bytes the reply may have.
func room(req *dns.Msg, stream bool) int {
	if stream {
		return dns.MaxMsgSize
	}
	if opt := req.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	return dns.MinMsgSize
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var rest []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			rest = append(rest, rr)
		}
	}
	return rest
}
