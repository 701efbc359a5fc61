package dns

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Question is one question that a client asked.
type Question struct {
	Time  time.Time     `json:"time"`
	From  netip.Addr    `json:"from"`  // the client: a pod's address, as pods ask without translation
	Name  string        `json:"name"`  // as it was asked
	Type  string        `json:"type"`  // "A"
	Rcode string        `json:"rcode"` // "NXDOMAIN"
	Took  time.Duration `json:"took"`  // nanoseconds, inside the server, upstream included
}

// questions is the last questions, in a ring.
type questions struct {
	mu   sync.Mutex
	ring []Question // guarded by mu
	next int        // guarded by mu
}

// KeepQuestions makes the server remember the last n questions, for Questions; 0 forgets them, and costs nothing. It may be
// called at any time.
func (s *Server) KeepQuestions(n int) {
	if n <= 0 {
		s.kept.Store(nil)
		return
	}
	s.kept.Store(&questions{ring: make([]Question, 0, n)})
}

// Questions returns the questions kept, the oldest first: those of one client, or all for the zero address.
func (s *Server) Questions(from netip.Addr) []Question {
	k := s.kept.Load()
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Question
	for i := range k.ring {
		if q := k.ring[(k.next+i)%len(k.ring)]; !from.IsValid() || q.From == from {
			all = append(all, q)
		}
	}
	return all
}

func (k *questions) add(q Question) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.ring) < cap(k.ring) {
		k.ring = append(k.ring, q)
		return
	}
	k.ring[k.next] = q
	k.next = (k.next + 1) % len(k.ring)
}

// asked is a question on its way to an answer.
type asked struct {
	protocol int
	from     netip.Addr
	began    time.Time
}

// done counts a question that was answered the long way, and keeps it.
func (s *Server) done(a asked, req, m *dns.Msg) {
	var q dns.Question
	if len(req.Question) > 0 {
		q = req.Question[0]
	}
	took := time.Since(a.began)
	s.counts.count(a.protocol, q.Qtype, m.Rcode, 1)
	s.counts.durations.add(took, 1)
	if k := s.kept.Load(); k != nil {
		k.add(question(a, q.Name, q.Qtype, m.Rcode, took))
	}
}

func question(a asked, name string, qtype uint16, rcode int, took time.Duration) Question {
	return Question{
		Time: a.began, From: a.from.Unmap().WithZone(""), Name: name, Type: dns.Type(qtype).String(),
		Rcode: dns.RcodeToString[rcode], Took: took,
	}
}

// addressOf is the IP address of a network address of any kind.
func addressOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr()
	case *net.TCPAddr:
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}
