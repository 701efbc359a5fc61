package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// A cluster owns one block 127.N.0.0/16 of the host's loopback range: its API server listens on 127.N.0.1:6443, and holding
// that listener is the claim. Node i is published on 127.N.1.i, load balancers on 127.N.2.i.
const (
	firstBlock = 88
	lastBlock  = 127
	apiPort    = 6443
)

type block byte

func (b block) api() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(b), 0, 1}), apiPort)
}

func (b block) node(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(b), 1, byte(i + 1)})
}

// loadBalancer is where the i-th address of the load balancers' range is published.
func (b block) loadBalancer(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(b), 2, byte(i)})
}

// claimBlock takes the first free block, beginning with the one the cluster had last time (0: none).
func claimBlock(last block) (block, net.Listener, error) {
	order := []block{}
	if last != 0 {
		order = append(order, last)
	}
	for b := block(firstBlock); b <= lastBlock; b++ {
		order = append(order, b)
	}
	for _, b := range order {
		ln, err := net.Listen("tcp4", b.api().String())
		if err == nil {
			return b, ln, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, nil, fmt.Errorf("listen on the host's loopback: %w", err)
		}
	}
	return 0, nil, fmt.Errorf("claim a loopback block: 127.%d.0.1 to 127.%d.0.1 are all in use on port %d", firstBlock, lastBlock, apiPort)
}
