package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// P-50: nodePortAddresses says which addresses of a node answer on NodePorts: those in its ranges, or the primary one of each family;
// loopback addresses never do.
func TestNodePortAddressesRestrictsWhoAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, n := r.pod(1), r.nodes[0]
	const first, second, loopback = "172.30.0.11:30080", "172.30.1.11:30080", "127.0.0.1:30080"
	r.routes(n.ns, func(h *netlink.Handle) error {
		return addAddress(h, "eth0", "172.30.1.11/24")
	})
	r.routes(r.outside, func(h *netlink.Handle) error { return addRoute(h, "eth0", "172.30.1.0/24", "172.30.0.11") })
	r.put(service("web", "10.96.0.20", nodePort(30080)), slice("web", ready(a)))
	for _, tt := range []struct {
		given         []string
		first, second bool
	}{
		{nil, true, true},
		{[]string{"primary"}, true, false},
		{[]string{"172.30.1.0/24"}, false, true},
		{[]string{"172.30.0.0/24", "172.30.1.11/32"}, true, true},
		{[]string{"127.0.0.0/8", "192.0.2.0/24"}, false, false},
	} {
		n.stop()
		c := r.config(n)
		c.NodeAddresses = append(c.NodeAddresses, netip.MustParseAddr("172.30.1.11"), netip.MustParseAddr("127.0.0.1"))
		c.NodePortAddresses = tt.given
		r.startWith(n, c)
		r.programmed()
		for at, answers := range map[string]bool{first: tt.first, second: tt.second} {
			if !answers {
				r.refused(r.outside, "tcp", at)
			} else if pod, _ := r.ask(r.outside, "tcp", at); pod != a.name+":8080" {
				t.Errorf("%v: %s answered by %s", tt.given, at, pod)
			}
		}
		r.refused(n.ns, "tcp", loopback)
	}
}

// P-50: what is neither a range nor the word is refused.
func TestNodePortAddressesAreRead(t *testing.T) {
	t.Parallel()
	for _, given := range []string{"primary,10.0.0.0/8", "10.0.0.1", "Primary", "10.0.0.0/33"} {
		c := Config{NodePortAddresses: strings.Split(given, ",")}
		if err := c.restrict(); err == nil {
			t.Errorf("%s is taken", given)
		}
	}
	c := Config{NodePortAddresses: []string{"primary"}}
	for _, a := range []string{"127.0.0.1", "172.30.0.11", "172.30.1.11", "fd00::11", "fd00::12"} {
		c.NodeAddresses = append(c.NodeAddresses, netip.MustParseAddr(a))
	}
	if err := c.restrict(); err != nil || len(c.NodeAddresses) != 2 || c.NodeAddresses[1].String() != "fd00::11" {
		t.Errorf("got %v, %v, want the first of each family", c.NodeAddresses, err)
	}
}
