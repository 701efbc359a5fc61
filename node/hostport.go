package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// hostPorts carries what arrives at ports of the machine to the pod that asked for them. It is done by sockets and not by rules:
// the machine's rules belong to the data plane. The pod sees the machine as its client.
type hostPorts struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// flowIdle ends a UDP flow in which nothing came back for so long: the kernel's own number for such flows.
const flowIdle = 30 * time.Second

// openHostPorts listens on the machine for every hostPort of the pod. nil for a pod without.
func (n *Node) openHostPorts(ctx context.Context, pod *corev1.Pod, to netip.Addr) (*hostPorts, error) {
	ctx, cancel := context.WithCancel(ctx)
	h := &hostPorts{cancel: cancel}
	any := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort == 0 || p.Protocol == corev1.ProtocolSCTP {
					continue
				}
				any = true
				if err := h.open(ctx, n, p, netip.AddrPortFrom(to, uint16(p.ContainerPort)).String()); err != nil {
					h.close()
					return nil, fmt.Errorf("cannot open hostPort %d for pod: %w", p.HostPort, err)
				}
			}
		}
	}
	if !any {
		cancel()
		return nil, nil
	}
	return h, nil
}

func (h *hostPorts) open(ctx context.Context, n *Node, p corev1.ContainerPort, to string) error {
	ip := p.HostIP
	if ip == "" {
		ip = netip.IPv4Unspecified().String()
	}
	at := net.JoinHostPort(ip, strconv.Itoa(int(p.HostPort)))
	if p.Protocol == corev1.ProtocolUDP {
		pc, err := n.NS().ListenPacket(ctx, "udp4", at)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { pc.Close() })
		h.wg.Go(func() { h.relay(ctx, n, pc, to) })
		return nil
	}
	ln, err := n.NS().Listen(ctx, "tcp4", at)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	h.wg.Go(func() {
		for {
			from, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // such as a client that went before it was accepted
			}
			h.wg.Go(func() {
				conn, err := n.NS().DialContext(ctx, "tcp4", to)
				if err != nil {
					from.Close()
					return
				}
				splice(ctx, conn, from.(*net.TCPConn))
			})
		}
	})
	return nil
}

// relay gives every client a socket of its own towards the pod, so that the answers find their way back.
func (h *hostPorts) relay(ctx context.Context, n *Node, pc net.PacketConn, to string) {
	var mu sync.Mutex // guards flows
	flows := map[string]net.Conn{}
	buf := make([]byte, 64<<10)
	for {
		size, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		key := from.String()
		mu.Lock()
		conn := flows[key]
		mu.Unlock()
		if conn == nil {
			if conn, err = n.NS().DialContext(ctx, "udp4", to); err != nil {
				continue
			}
			mu.Lock()
			flows[key] = conn
			mu.Unlock()
			h.wg.Go(func() {
				answer(ctx, pc, conn, from)
				mu.Lock()
				defer mu.Unlock()
				delete(flows, key)
			})
		}
		conn.Write(buf[:size])
	}
}

// answer carries a pod's datagrams back to one client until none have come for a while.
func answer(ctx context.Context, pc net.PacketConn, conn net.Conn, to net.Addr) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, 64<<10)
	for {
		conn.SetReadDeadline(time.Now().Add(flowIdle))
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := pc.WriteTo(buf[:n], to); err != nil {
			return
		}
	}
}

// close ends everything and returns when it has ended. A nil one closes well.
func (h *hostPorts) close() {
	if h == nil {
		return
	}
	h.cancel()
	h.wg.Wait()
}
