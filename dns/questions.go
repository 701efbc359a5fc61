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

// questions is the last questions, in a ring. Keeping one allocates nothing, as most of them are never looked at.
type questions struct {
	mu    sync.Mutex
	ring  []kept // guarded by mu
	added uint64 // guarded by mu: how many were ever added
}

// kept is a question in the ring.
type kept struct {
	began  time.Time
	took   time.Duration
	from   netip.Addr
	rcode  int
	qtype  uint16
	length int
	name   [longestName]byte
}

// longestName is how many bytes of a name are kept: 255 in a packet are at most 253 letters and dots. Only a name of control
// characters, four bytes each as text, can be longer; it is cut.
const longestName = 254

// KeepQuestions makes the server remember the last n questions, for Questions; 0 forgets them, and costs nothing. It may be
// called at any time.
func (s *Server) KeepQuestions(n int) {
	if n <= 0 {
		s.kept.Store(nil)
		return
	}
	s.kept.Store(&questions{ring: make([]kept, n)})
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
	size := uint64(len(k.ring))
	for i := k.added - min(k.added, size); i < k.added; i++ {
		if q := k.ring[i%size].question(); !from.IsValid() || q.From == from {
			all = append(all, q)
		}
	}
	return all
}

func (k *kept) question() Question {
	return Question{
		Time: k.began, From: k.from.Unmap().WithZone(""), Name: string(k.name[:k.length]), Type: dns.Type(k.qtype).String(),
		Rcode: dns.RcodeToString[k.rcode], Took: k.took,
	}
}

// add keeps a question; name is copied.
func (k *questions) add(a asked, name string, qtype uint16, rcode int, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	q := &k.ring[k.added%uint64(len(k.ring))]
	k.added++
	q.began, q.took, q.from, q.rcode, q.qtype = a.began, took, a.from, rcode, qtype
	q.length = copy(q.name[:], name)
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
		k.add(a, q.Name, q.Qtype, m.Rcode, took)
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
