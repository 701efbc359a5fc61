package dns

import (
	"context"

	"github.com/miekg/dns"
)

// Answer is the reply to a message from the index alone, whole, as over TCP: what the server says when it has no upstream
// servers. Equal index, equal answer, but for the order of addresses.
func (s *Server) Answer(req *dns.Msg) *dns.Msg {
	m := begin(req)
	if m.Rcode = refuse(req); m.Rcode != dns.RcodeSuccess {
		return m
	}
	r := s.look(req.Question[0])
	if r.foreign != "" && len(r.answer) == 0 {
		r.rcode = dns.RcodeServerFailure
	}
	r.into(m)
	return m
}

// reply is the message to send for req.
func (s *Server) reply(ctx context.Context, req *dns.Msg, stream bool) *dns.Msg {
	m := begin(req)
	m.RecursionAvailable = s.upstream.configured()
	if m.Rcode = refuse(req); m.Rcode == dns.RcodeSuccess {
		r := s.look(req.Question[0])
		if r.foreign != "" {
			s.complete(ctx, req, &r)
		}
		r.into(m)
	}
	fit(m, room(req, stream))
	return m
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
func (s *Server) look(q dns.Question) result {
	if x := s.index.Load(); x != nil {
		return x.answer(q)
	}
	name := dns.CanonicalName(q.Name)
	if s.zones.of(name) != "" || isReverse(name) {
		return result{rcode: dns.RcodeServerFailure}
	}
	return result{foreign: q.Name}
}

// complete asks the upstream servers for what the index could not answer.
func (s *Server) complete(ctx context.Context, req *dns.Msg, r *result) {
	if !s.upstream.configured() {
		if len(r.answer) == 0 {
			r.rcode = dns.RcodeServerFailure
		}
		return
	}
	q := req.Question[0]
	q.Name = r.foreign
	up, err := s.upstream.ask(ctx, q, req)
	if err != nil {
		s.log.Debug("dns: ask upstream", "name", q.Name, "err", err)
		r.rcode = dns.RcodeServerFailure
		return
	}
	r.rcode = up.Rcode
	r.answer = append(r.answer, up.Answer...)
	r.ns = up.Ns
	r.extra = withoutOPT(up.Extra)
	r.truncated = up.Truncated
}

func (r *result) into(m *dns.Msg) {
	m.Rcode = r.rcode
	m.Answer, m.Ns = r.answer, r.ns
	m.Extra = append(m.Extra, r.extra...)
	m.Truncated = r.truncated
	// With authority: what we said ourselves, not what others told us.
	m.Authoritative = r.foreign == "" && r.rcode != dns.RcodeServerFailure
}

// begin is an empty reply to req, with the EDNS0 record that a client with EDNS0 expects.
func begin(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(req)
	m.Compress = true
	m.AuthenticatedData = false
	if opt := req.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
	}
	return m
}

// refuse returns the code for messages that are not answered at all, or success.
func refuse(req *dns.Msg) int {
	if req.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	if len(req.Question) != 1 {
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
