package ingress

import (
	"net/netip"
	"sync"
	"time"
)

// burst is how many seconds' worth of requests a client may make at once; ingress-nginx's multiplier.
const burst = 5

// maxClients bounds the memory of one limiter: beyond, all clients start anew.
const maxClients = 1 << 16

// limits counts requests by Ingress and client. They outlive the tables of rules.
type limits struct {
	now func() time.Time

	mu   sync.Mutex // guards held
	held map[limitKey]bucket
}

type limitKey struct {
	ingress string
	client  netip.Addr
}

// bucket is what a client may still send, at a time.
type bucket struct {
	left float64
	at   time.Time
}

func (l *limits) allow(ingress string, client netip.Addr, perSecond int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.held == nil || len(l.held) >= maxClients {
		l.held = map[limitKey]bucket{}
	}
	key := limitKey{ingress, client}
	b, ok := l.held[key]
	most := float64(perSecond * burst)
	if !ok {
		b = bucket{left: most, at: now}
	}
	b.left = min(most, b.left+now.Sub(b.at).Seconds()*float64(perSecond))
	b.at = now
	allowed := b.left >= 1
	if allowed {
		b.left--
	}
	l.held[key] = b
	return allowed
}
