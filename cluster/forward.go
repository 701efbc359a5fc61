package cluster

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"kubarium.dev/node"
)

const (
	// dialTimeout bounds a forwarded connection's way into the cluster: an unanswered SYN is a dropped one, and TCP's own
	// patience of two minutes would only hide it.
	dialTimeout = 5 * time.Second
	// udpIdle ends a UDP flow nobody used: conntrack's own timeout for an unanswered flow is as long.
	udpIdle = 30 * time.Second
	// maxDatagram is the largest UDP payload over IPv4.
	maxDatagram = 65507
)

// listenForward opens the host's side of a forwarder. It returns the listener, which takes nobody in once it is closed, and the
// function that serves it until ctx ends.
func listenForward(ctx context.Context, protocol string, row Published, dial node.DialFunc) (io.Closer, func(), error) {
	network := strings.ToLower(protocol) + "4"
	if protocol == "UDP" {
		conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(row.Host))
		if err != nil {
			return nil, nil, err
		}
		f := &udpForward{host: conn, target: row.Target, dial: dial, flows: map[netip.AddrPort]net.Conn{}}
		return conn, func() { f.run(ctx) }, nil
	}
	ln, err := net.Listen(network, row.Host.String())
	if err != nil {
		return nil, nil, err
	}
	return ln, func() { forwardTCP(ctx, ln, row.Target, dial) }, nil
}

func forwardTCP(ctx context.Context, ln net.Listener, target netip.AddrPort, dial node.DialFunc) {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(func() { relay(ctx, client, target, dial) })
	}
}

// relay carries one connection both ways, each direction closed on its own, as TCP has it.
func relay(ctx context.Context, client net.Conn, target netip.AddrPort, dial node.DialFunc) {
	defer client.Close()
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	server, err := dial(dctx, "tcp", target.String())
	cancel()
	if err != nil {
		if tcp, ok := client.(*net.TCPConn); ok {
			tcp.SetLinger(0) // the client sees a reset, which is what the cluster answered
		}
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
	var there sync.WaitGroup
	there.Go(func() {
		io.Copy(server, client)
		closeWrite(server)
	})
	io.Copy(client, server)
	closeWrite(client)
	there.Wait()
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	c.Close()
}

// udpForward carries datagrams: one flow, with its own socket in `outside`, for each client address.
type udpForward struct {
	host   *net.UDPConn
	target netip.AddrPort
	dial   node.DialFunc

	mu    sync.Mutex // guards flows
	flows map[netip.AddrPort]net.Conn
}

func (f *udpForward) run(ctx context.Context) {
	var replies sync.WaitGroup
	defer replies.Wait()
	defer f.closeFlows()
	defer context.AfterFunc(ctx, func() { f.host.Close() })()
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := f.host.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		flow := f.flow(ctx, client, &replies)
		if flow != nil {
			flow.SetReadDeadline(time.Now().Add(udpIdle))
			flow.Write(buf[:n])
		}
	}
}

func (f *udpForward) flow(ctx context.Context, client netip.AddrPort, replies *sync.WaitGroup) net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.flows[client]; c != nil {
		return c
	}
	c, err := f.dial(ctx, "udp", f.target.String())
	if err != nil {
		return nil
	}
	f.flows[client] = c
	replies.Go(func() { f.answer(client, c) })
	return c
}

// answer carries replies back until the flow has been idle for udpIdle or fails (a port unreachable is a failure).
func (f *udpForward) answer(client netip.AddrPort, c net.Conn) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.Read(buf)
		if err != nil {
			break
		}
		f.host.WriteToUDPAddrPort(buf[:n], client)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flows, client)
	c.Close()
}

func (f *udpForward) closeFlows() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.flows {
		c.Close()
	}
}
