package dns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"kubarium.dev/dns"
)

func dialTCP(t *testing.T, addr string) *wire.Conn {
	t.Helper()
	c, err := wire.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// Hundreds of questions in one go over one connection (RFC 7766) are all answered.
func TestQuestionsMayFollowOneAnotherOverTCP(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	const n = 500
	c := dialTCP(t, l.addr)
	var all []byte
	for i := range n {
		m := query("ent.dev.svc.cluster.local", wire.TypeA)
		m.Id = uint16(i)
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, byte(len(p)>>8), byte(len(p))), p...)
	}
	if _, err := c.Conn.Write(all); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	for range n {
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatalf("after %d of %d answers: %v", len(seen), n, err)
		}
		if seen[m.Id] = true; len(m.Answer) != 1 {
			t.Fatalf("got %v", m)
		}
	}
	if len(seen) != n {
		t.Errorf("%d different questions were answered, want %d", len(seen), n)
	}
}

// Clients that connect and say nothing keep nobody out: the one that was silent for the longest goes.
func TestIdleConnectionsMakeWay(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	ask := func(c *wire.Conn) {
		t.Helper()
		if err := c.WriteMsg(query("ent.dev.svc.cluster.local", wire.TypeA)); err != nil {
			t.Fatal(err)
		}
		if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
			t.Fatalf("got %v, %v", m, err)
		}
	}
	busy := dialTCP(t, l.addr)
	ask(busy)
	var idle []*wire.Conn
	for i := range 300 { // more than maxStreams
		idle = append(idle, dialTCP(t, l.addr))
		if i == 200 {
			ask(dialTCP(t, l.addr)) // who connected before is accepted then, and so was silent for longer than busy
			ask(busy)
		}
	}
	ask(dialTCP(t, l.addr))
	ask(busy)
	if err := idle[0].SetReadDeadline(time.Now().Add(1500 * time.Millisecond)); err != nil { // below the time for a first question
		t.Fatal(err)
	}
	if _, err := idle[0].Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the first idle connection: got %v, want its end", err)
	}
}

// A client that asks and does not read is let go, and so is all that waits for it.
func TestAClientThatDoesNotReadIsLetGo(t *testing.T) {
	t.Parallel()
	l := newLab(t, dns.Config{})
	var ends []end
	for i := range 250 {
		ends = append(ends, end{ip: fmt.Sprintf("10.0.0.%d", i)})
	}
	l.apply(headlessService("dev", "db"), slice("dev", "db", "s", 1, ends...))
	p, err := query("db.dev.svc.cluster.local", wire.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	p = append([]byte{byte(len(p) >> 8), byte(len(p))}, p...)
	c := dialTCP(t, l.addr)
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	for err == nil { // until the server neither answers nor reads any more, and then goes
		_, err = c.Conn.Write(p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server is still waiting for a client that does not read")
	}
	if _, err := io.Copy(io.Discard, c.Conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

// mutely is a lab with an upstream server that answers when the test says so, and a connection to the lab over TCP.
func mutely(t *testing.T) (c *wire.Conn, next func() (*wire.Msg, func(*wire.Msg))) {
	t.Helper()
	up, next := mute(t)
	l := newLab(t, dns.Config{Upstream: []string{up}})
	l.apply(virtual("dev", "ent", "10.96.0.10"))
	return dialTCP(t, l.addr), next
}

func send(t *testing.T, c *wire.Conn, name string) {
	t.Helper()
	if err := c.WriteMsg(query(name, wire.TypeA)); err != nil {
		t.Fatal(err)
	}
}

// first expects that the next answer over a connection is the one for name.
func first(t *testing.T, c *wire.Conn, name string) {
	t.Helper()
	m, err := c.ReadMsg()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if m.Question[0].Name != wire.Fqdn(name) || len(m.Answer) != 1 {
		t.Fatalf("got %v, want an answer for %s", m, name)
	}
}

// RFC 7766, 6.2.1.1: a question that waits for a slow upstream server keeps none behind it waiting, over the same connection; and
// a client that has said all it will still gets its answers.
func TestAnswersOverTCPDoNotWaitForSlowerOnes(t *testing.T) {
	t.Parallel()
	c, next := mutely(t)
	send(t, c, "slow.example.com")
	slow, answerSlow := next()
	send(t, c, "ent.dev.svc.cluster.local")
	first(t, c, "ent.dev.svc.cluster.local")
	send(t, c, "fast.example.com")
	fast, answerFast := next()
	answerFast(saying(fast, "192.0.2.2", nil))
	first(t, c, "fast.example.com")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answerSlow(saying(slow, "192.0.2.1", nil))
	first(t, c, "slow.example.com")
	if m, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: got %v, %v, want the end of the connection", m, err)
	}
}

// What one connection may have waiting is bounded: the question behind is not even read before one of them is answered.
func TestAConnectionHasOnlySoManyQuestionsWaiting(t *testing.T) {
	t.Parallel()
	c, next := mutely(t)
	const most = 16
	for i := range most + 1 {
		send(t, c, fmt.Sprintf("n%d.example.com", i))
	}
	send(t, c, "ent.dev.svc.cluster.local")
	answers := map[string]func(){}
	for range most {
		m, answer := next()
		answers[m.Question[0].Name] = func() { answer(saying(m, "192.0.2.1", nil)) }
	}
	answers["n3.example.com."]()
	first(t, c, "n3.example.com")
	first(t, c, "ent.dev.svc.cluster.local")
}
