package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// P-56: which rules a packet would meet, and where they would lead it.
func TestThePathOfAPacketIsToldRuleByRule(t *testing.T) {
	t.Parallel()
	s := &side{network: testNetwork, planner: newPlanner(4, []element{nodeAddress(netip.MustParseAddr("172.30.0.11"))})}
	guarded := &desired{
		Name: nn("guarded"), ClusterIP: netip.MustParseAddr("10.96.0.23"), External: []netip.Addr{netip.MustParseAddr("172.31.0.2")},
		Guarded: []netip.Addr{netip.MustParseAddr("172.31.0.2")}, Ranges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Ports: []desiredPort{{Protocol: protoTCP, Port: 80, Cluster: sampleEndpoints(4, 1)}},
	}
	for _, d := range append(sampleServices(), guarded) {
		s.planner.set(d.Name, d)
	}
	p := &Proxy{sides: []*side{s}}
	for _, test := range []struct {
		from   string
		inside bool
		to     string
		udp    bool
		want   string // chain: found, of each step
	}{
		{"10.244.1.1", true, "10.96.0.20:80", false, `dispatch: 10.96.0.20 . tcp . 80 comment "default/web:http" : 0x00000001
balance: 3: one of so many is drawn
deliver: 10.244.1.1:8080 (default/web-1-0), with a chance of 1 in 3
deliver: 10.244.1.2:8080 (default/web-1-1), with a chance of 1 in 3
deliver: 10.244.1.3:8080 (default/web-1-2), with a chance of 1 in 3
postrouting: when it is the client itself that is drawn, it sees the node's address
postrouting: the endpoint sees 10.244.1.1`},
		{"172.30.0.1", false, "172.30.0.11:30443", false, `dispatch: tcp . 30443 comment "default/sticky" : 0x80000003
balance: the endpoint that this client had in the last 10800 s, if it is still there; else:
balance: 2: one of so many is drawn
deliver: 10.244.3.1:8080 (default/web-3-0), with a chance of 1 in 2
deliver: 10.244.3.2:8080 (default/web-3-1), with a chance of 1 in 2
postrouting: the endpoint sees 172.30.0.1: the Local policy keeps it`},
		{"10.96.0.99", false, "10.96.0.22:80", false, "refuse: refused at once"},
		{"10.244.1.1", true, "10.96.0.22:53", true, "refuse: refused: port unreachable"},
		{"10.244.1.1", true, "10.96.9.9:80", false, "refuse: dropped: no Service has this address"},
		{"10.244.1.1", true, "10.244.7.7:80", false, "dispatch: no Service has this address: the packet is routed as it is"},
		{"172.30.0.1", false, "172.30.0.11:30999", false, "dispatch: no Service has this NodePort: the packet is the node's own"},
		{"10.244.1.1", true, "10.96.0.10:53", true, "untracked-out: the node itself answers at the cluster DNS address: nothing is translated"},
		{"198.51.100.1", false, "172.31.0.2:80", false, `dispatch: 172.31.0.2 . tcp . 80 comment "default/guarded" : 0x00000005
ranges: the source is in none of spec.loadBalancerSourceRanges: dropped`},
		{"192.0.2.1", false, "172.31.0.2:80", false, `dispatch: 172.31.0.2 . tcp . 80 comment "default/guarded" : 0x00000005
dispatch: the source is in 192.0.2.0/24, which spec.loadBalancerSourceRanges lets in
balance: 1: one of so many is drawn
deliver: 10.244.4.1:8080 (default/web-4-0), with a chance of 1 in 1
postrouting: the endpoint sees the node's address: the client is no pod`},
	} {
		k := Packet{Protocol: corev1.ProtocolTCP, Source: netip.MustParseAddr(test.from), To: netip.MustParseAddrPort(test.to), Inside: test.inside}
		if test.udp {
			k.Protocol = corev1.ProtocolUDP
		}
		steps, err := p.Path(k)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range steps {
			got = append(got, fmt.Sprintf("%s: %s", s.Chain, s.Found))
			if s.Rule == "" {
				t.Errorf("%s to %s: a step without a rule: %+v", test.from, test.to, s)
			}
		}
		if d := cmp.Diff(test.want, strings.Join(got, "\n")); d != "" {
			t.Errorf("%s to %s: want (-) got (+):\n%s", test.from, test.to, d)
		}
	}
	if _, err := p.Path(Packet{Protocol: corev1.ProtocolTCP, Source: netip.IPv6Unspecified(), To: netip.MustParseAddrPort("[fd00::1]:80")}); err == nil {
		t.Error("a packet of a family without a table has a path")
	}
}
