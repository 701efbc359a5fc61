package ingress

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
)

// trusts tells whether what a peer says of its clients counts.
func (c *Controller) trusts(peer net.Addr) bool {
	if len(c.cfg.Trusted) == 0 {
		return false
	}
	return c.trusted(remote(peer))
}

func (c *Controller) trusted(a netip.Addr) bool {
	for _, p := range c.cfg.Trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// client is who asks: the peer, or behind trusted ones the last address of X-Forwarded-For that is not trusted itself.
func (c *Controller) client(peer netip.Addr, h Header) netip.Addr {
	if len(c.cfg.Trusted) == 0 || !c.trusted(peer) {
		return peer
	}
	all := strings.Split(h.Get("X-Forwarded-For"), ",")
	for i := len(all) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(all[i]))
		if err != nil {
			break
		}
		if peer = a.Unmap(); !c.trusted(peer) {
			break
		}
	}
	return peer
}

// overTLS tells whether the client asks by https: here, or at a trusted proxy in front.
func (f *front) overTLS(peer netip.Addr, h Header) bool {
	return f.tls || (f.c.trusted(peer) && strings.EqualFold(h.Get("X-Forwarded-Proto"), "https"))
}

// newID is a request's name for logs: unlike any other of this run and most of others.
func (c *Controller) newID() string {
	n := c.requests.Add(1)
	var b [16]byte
	for i := range 2 {
		v := mix(c.started+uint64(i), n)
		for j := range 8 {
			b[i*8+j] = byte(v >> (8 * j))
		}
	}
	return hex.EncodeToString(b[:])
}
