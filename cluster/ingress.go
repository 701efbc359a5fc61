package cluster

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"kubarium.dev/ingress"
)

// The ports of the ingress, on every node's address.
const (
	httpPort  = 80
	httpsPort = 443
)

// serveIngress begins the ingress, which machines serve on their addresses. It reaches pods from a node.
func (c *Cluster) serveIngress(run context.Context) {
	var addresses []netip.Addr
	for _, m := range c.machines() {
		addresses = append(addresses, m.address)
	}
	c.ingress = ingress.New(ingress.Config{
		Reader: c.store, Store: c.store, Dial: c.dialFromNode, ServeClassless: true, Addresses: addresses,
		Trusted: []netip.Prefix{}, Log: c.o.Log, Now: c.o.Now,
	})
	c.consumers = append(c.consumers, consumer{"the ingress", c.ingress.Progress()})
	c.group.Go(func() error { return c.ingress.Run(run) })
}

// ingressRows is how the host reaches a node's ingress: on its loopback address.
func ingressRows(n publishedNode, first uint16) []Published {
	var rows []Published
	for _, p := range []struct {
		name string
		port uint16
	}{{"http", httpPort}, {"https", httpsPort}} {
		rows = append(rows, Published{
			Service: "the ingress:" + p.name, Protocol: "TCP",
			Host: netip.AddrPortFrom(n.loopback, hostPort(p.port, first)), Target: netip.AddrPortFrom(n.node, p.port),
		})
	}
	return rows
}

// aboveReach is added to a port that this process may not bind on the host: 80 becomes 8080, 443 8443.
const aboveReach = 8000

func hostPort(port, first uint16) uint16 {
	if port < first {
		return port + aboveReach
	}
	return port
}

// UnprivilegedFrom is the first port that this process may bind on the host; 0 for root of the host's own user namespace.
func UnprivilegedFrom() uint16 {
	if ids, err := os.ReadFile("/proc/self/uid_map"); err == nil && strings.Fields(string(ids))[1] == "0" && os.Geteuid() == 0 {
		return 0
	}
	const usual = 1024
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 16)
	if err != nil {
		return usual
	}
	return uint16(n)
}
