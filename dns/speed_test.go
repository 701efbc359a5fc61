package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// BenchmarkServe is the server over sockets of the loopback beside a bare UDP echo written in Go, all three in turns: what
// share of the echo's pace it keeps with 1,000 and with 20,000 Services. One iteration is one burst of questions to each.
// It wants -benchtime 20000x or more.
func BenchmarkServe(b *testing.B) {
	for _, c := range []struct {
		what, name string
	}{
		{"A", "s%d.dev.svc.cluster.local."},
		{"NXDOMAIN", "www%d.example.com.dev.svc.cluster.local."},
	} {
		b.Run(c.what, func(b *testing.B) {
			targets := []*target{startEcho(b), startServer(b, 1000), startServer(b, 20000)}
			for i, t := range targets {
				t.load = newLoad(b, t.addr, c.name, []int{1000, 1000, 20000}[i])
			}
			for b.Loop() {
				for _, t := range targets {
					t.load.round(b)
				}
			}
			pace := func(t *target) float64 { return float64(b.N*burstSize) / t.load.took.Seconds() }
			b.ReportMetric(pace(targets[0]), "echo/s")
			b.ReportMetric(pace(targets[1]), "1000/s")
			b.ReportMetric(pace(targets[2]), "20000/s")
			b.ReportMetric(pace(targets[1])/pace(targets[0]), "of-echo")
			b.ReportMetric(pace(targets[2])/pace(targets[1]), "20000/1000")
			b.ReportMetric(0, "ns/op")
		})
	}
}

type target struct {
	addr *net.UDPAddr
	load *load
}

func loopback(b testing.TB) *net.UDPConn {
	b.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// startEcho is the bare echo: the least a server in Go does that answers packets one by one.
func startEcho(b testing.TB) *target {
	c := loopback(b)
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, maxUDP)
		for {
			n, peer, err := c.ReadFromUDPAddrPort(buf)
			if err == nil {
				_, err = c.WriteToUDPAddrPort(buf[:n], peer)
			}
			if err != nil {
				return
			}
		}
	})
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
		done.Wait()
	})
	return &target{addr: c.LocalAddr().(*net.UDPAddr)}
}

func startServer(b testing.TB, services int) *target {
	s := New(Config{})
	s.index.Store(filled(services))
	s.KeepQuestions(2000) // as the cluster does
	c := loopback(b)
	addr := c.LocalAddr().(*net.UDPAddr)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, c, nil) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return &target{addr: addr}
}

// load is a client that keeps a burst of questions under way.
type load struct {
	burst   *burst
	conn    *net.UDPConn
	queries [][]byte
	at      int
	took    time.Duration
}

func newLoad(b testing.TB, addr *net.UDPAddr, name string, names int) *load {
	b.Helper()
	c, err := net.DialUDP("udp4", nil, addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	l := &load{conn: c}
	if l.burst, err = newBurst(c); err != nil {
		b.Fatal(err)
	}
	for i := range names {
		p, err := new(wire.Msg).SetQuestion(fmt.Sprintf(name, i*7919%names), wire.TypeA).SetEdns0(1232, false).Pack()
		if err != nil {
			b.Fatal(err)
		}
		l.queries = append(l.queries, p)
	}
	return l
}

// round sends a burst of questions and waits for as many answers.
func (l *load) round(t testing.TB) {
	b := l.burst
	for i := range burstSize {
		n := copy(b.packets[i][:], l.queries[l.at])
		l.at = (l.at + 1) % len(l.queries)
		binary.BigEndian.PutUint16(b.packets[i][:], uint16(i))
		b.replies[i].Base = &b.packets[i][0]
		b.replies[i].SetLen(n)
		b.out[i].Iov = &b.replies[i]
		b.out[i].SetIovlen(1)
	}
	began := time.Now()
	b.sending, b.sent = burstSize, 0
	err := errors.Join(b.send(), l.conn.SetReadDeadline(began.Add(10*time.Second)))
	for got := 0; got < burstSize && err == nil; got += b.received {
		err = b.receive()
	}
	l.took += time.Since(began)
	if err != nil {
		t.Fatalf("a burst was not answered: %v", err)
	}
}

// BenchmarkMemory is what the index of so many Services holds.
func BenchmarkMemory(b *testing.B) {
	for _, services := range []int{1000, 20000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			var held []float64
			for b.Loop() {
				before := heap()
				x := filled(services)
				held = append(held, float64(heap()-before))
				runtime.KeepAlive(x)
			}
			b.ReportMetric(slices.Min(held)/float64(services), "B/service")
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkBesideMalformed is good questions, one at a time, while malformed packets come in beside them, ten for each good
// one: every good one is answered; how long the slowest of a hundred takes, how many bad ones come in a second. Issue E wants
// at least 10,000.
func BenchmarkBesideMalformed(b *testing.B) {
	t := startServer(b, 1000)
	good, bad := newLoad(b, t.addr, "s%d.dev.svc.cluster.local.", 1000), newLoad(b, t.addr, "s%d.dev.svc.cluster.local.", 1000)
	rnd := rand.New(rand.NewPCG(1, 2))
	buf, garbage := make([]byte, maxUDP), make([]byte, 512)
	var took []time.Duration
	for b.Loop() {
		for range 10 {
			n := copy(garbage, bad.queries[rnd.IntN(len(bad.queries))])
			n = rnd.IntN(n + 1)
			for range 4 {
				garbage[rnd.IntN(len(garbage))] = byte(rnd.Uint32())
			}
			if _, err := bad.conn.Write(garbage[:n]); err != nil {
				b.Fatal(err)
			}
		}
		began := time.Now()
		_, err := good.conn.Write(good.queries[rnd.IntN(len(good.queries))])
		if err = errors.Join(err, good.conn.SetReadDeadline(began.Add(2*time.Second))); err == nil {
			_, err = good.conn.Read(buf)
		}
		if err != nil {
			b.Fatalf("a good question was not answered: %v", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "good-p99-µs")
	b.ReportMetric(float64(10*b.N)/b.Elapsed().Seconds(), "malformed/s")
	b.ReportMetric(0, "ns/op")
}
