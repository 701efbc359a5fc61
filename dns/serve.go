package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Serve answers on a UDP socket and a listener, either of which may be nil, until ctx ends; then it returns nil. It closes both.
// Several may run at once: two sockets that share an address (SO_REUSEPORT) use two processors.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, streams net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	switch conn := packets.(type) {
	case nil:
	case *net.UDPConn:
		group.Go(func() error { return s.servePackets(ctx, conn) })
	default:
		group.Go(func() error {
			return errors.Join(fmt.Errorf("dns: serve: %T is no UDP socket", packets), packets.Close())
		})
	}
	if streams != nil {
		group.Go(func() error { return s.serveStreams(ctx, streams) })
	}
	return group.Wait()
}

// servePackets reads packets many at a time and answers what the index knows at once, in order; questions for upstream servers
// go on beside.
func (s *Server) servePackets(ctx context.Context, conn *net.UDPConn) error {
	b, err := newBurst(conn)
	if err != nil {
		return errors.Join(fmt.Errorf("dns: serve: %w", err), conn.Close())
	}
	stop := context.AfterFunc(ctx, func() {
		if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			s.log.Warn("dns: stop reading", "err", err)
		}
	})
	defer stop()
	var asking sync.WaitGroup
	for err == nil {
		if err = b.receive(); err != nil {
			break
		}
		began := time.Now()
		quick := s.answerBurst(ctx, b, began, &asking)
		if err = b.send(); quick > 0 {
			s.counts.quick.Add(quick)
			s.counts.durations.add(time.Since(began), quick)
		}
	}
	asking.Wait() // they end with ctx, or soon by themselves
	err = errors.Join(err, conn.Close())
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("dns: serve: %w", err)
}

// answerBurst puts an answer in the place of each packet of b, and returns how many were answered the quick way.
func (s *Server) answerBurst(ctx context.Context, b *burst, began time.Time, asking *sync.WaitGroup) (quick uint64) {
	x := s.index.Load()
	recursive := s.foreign.Load().configured()
	kept := s.kept.Load()
	if x != nil {
		x.prepareAll(b)
	}
	for i := range b.received {
		packet, _ := b.packet(i)
		if x != nil {
			q := &b.questions[i]
			if length, rcode, done := x.respond(q, packet, rand.Uint64(), recursive); done {
				b.answer(i, length)
				s.counts.count(overUDP, q.qtype, rcode, 1)
				if kept != nil {
					kept.add(asked{from: b.peer(i).Addr(), began: began}, q.name(), q.qtype, rcode, time.Since(began))
				}
				quick++
				continue
			}
		}
		b.answer(i, s.answerPacket(ctx, b, i, asking))
	}
	return quick
}

// prepareAll reads all questions of a burst, and fetches what their answers are made from.
func (x *index) prepareAll(b *burst) {
	var hashes [burstSize]uint64
	for i := range b.received {
		packet, n := b.packet(i)
		x.prepare(&b.questions[i], packet[:n])
		hashes[i] = b.questions[i].hash
	}
	x.table.warm(hashes[:b.received])
}

// answerPacket answers the i-th packet by the long way and returns the length of the answer, or 0 when there is none (yet).
func (s *Server) answerPacket(ctx context.Context, b *burst, i int, asking *sync.WaitGroup) int {
	packet, n := b.packet(i)
	req, refusal := parse(packet[:n])
	if req == nil {
		s.counts.malformed.Add(1)
		return s.pack(refusal, packet)
	}
	a := asked{protocol: overUDP, from: b.peer(i).Addr(), began: time.Now()}
	m, wait := s.start(a, req, room(req, false))
	if wait == nil {
		return s.pack(m, packet)
	}
	back := b.back(i)
	asking.Go(func() {
		answer := make([]byte, maxUDP)
		if err := back.send(answer[:s.pack(s.resume(ctx, wait), answer)]); err != nil && ctx.Err() == nil {
			s.log.Debug("dns: send answer", "to", back.String(), "err", err)
		}
	})
	return 0
}

// pending is a question that others have to be asked for, which takes its time.
type pending struct {
	asked
	req, m *dns.Msg
	r      result
	rest   []string // further names to try
	size   int      // how many bytes the answer may have
}

// start answers req in so many bytes at most, or says what is to be resumed. The question is kept before its client knows, so that
// who has an answer finds it.
func (s *Server) start(a asked, req *dns.Msg, size int) (*dns.Msg, *pending) {
	m, r := s.begin(req, rand.Uint64())
	rest := s.rest(a.from, req, &r)
	if len(rest) > 0 || r.foreign != "" && !s.known(req, &r) {
		return nil, &pending{asked: a, req: req, m: m, r: r, rest: rest, size: size}
	}
	finish(m, &r, req, size)
	s.done(a, req, m)
	return m, nil
}

// resume asks others and answers.
func (s *Server) resume(ctx context.Context, p *pending) *dns.Msg {
	if p.r.foreign != "" {
		s.complete(ctx, p.req, &p.r)
	}
	r := s.goOn(ctx, p.req, p.rest, p.r)
	finish(p.m, &r, p.req, p.size)
	s.done(p.asked, p.req, p.m)
	return p.m
}

// pack puts m into buf and returns its length, or 0 when m is nil or cannot be sent.
func (s *Server) pack(m *dns.Msg, buf []byte) int {
	if m == nil {
		return 0
	}
	p, err := m.PackBuffer(buf)
	if err == nil && len(p) > len(buf) {
		err = fmt.Errorf("%d bytes do not fit into %d", len(p), len(buf))
	}
	if err != nil {
		s.log.Error("dns: pack answer", "err", err)
		return 0
	}
	return copy(buf, p) // a no-op, for PackBuffer uses buf where it is long enough
}

// parse reads a message, or returns the refusal to send for it. Both are nil for what must not be answered: responses, and
// packets without even a header.
func parse(p []byte) (req, refusal *dns.Msg) {
	if len(p) < headerSize {
		return nil, nil
	}
	h := dns.Header{
		Id: binary.BigEndian.Uint16(p), Bits: binary.BigEndian.Uint16(p[2:]), Qdcount: binary.BigEndian.Uint16(p[4:]),
		Ancount: binary.BigEndian.Uint16(p[6:]), Nscount: binary.BigEndian.Uint16(p[8:]), Arcount: binary.BigEndian.Uint16(p[10:]),
	}
	action := dns.DefaultMsgAcceptFunc(h)
	if action == dns.MsgIgnore {
		return nil, nil
	}
	m := new(dns.Msg)
	err := m.Unpack(p)
	if action == dns.MsgAccept && err == nil {
		return m, nil
	}
	refusal = new(dns.Msg)
	refusal.Id, refusal.Response, refusal.Rcode = h.Id, true, dns.RcodeFormatError
	refusal.Opcode = int(h.Bits>>11) & 0xf
	refusal.RecursionDesired = h.Bits&flagRD != 0
	if action == dns.MsgRejectNotImplemented {
		refusal.Rcode = dns.RcodeNotImplemented
	}
	return nil, refusal
}
