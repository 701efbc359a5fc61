package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
)

// Connected returns when the machine hears of the control plane, or with ctx's error.
func (n *Node) Connected(ctx context.Context) error {
	return n.power.await(ctx, func() bool { return !n.power.cut })
}

// CutOff tells that the machine does not hear of the control plane, with power or without.
func (n *Node) CutOff() bool { return n.power.isCut() }

// nowhere is a link address that nobody has: what is sent to it is lost, as on a broken wire, without a word to the sender.
var nowhere = net.HardwareAddr{0x02, 0xff, 0xff, 0xff, 0xff, 0xff}

// Separate lets two machines lose each other, and each the other's pods; both still reach everybody else, and the control plane.
// Errors: a machine that is not there, or the same one twice.
func (f *Fabric) Separate(a, b string) error {
	return f.pair(a, b, func(m, other *machine) error { return m.link.knows(m.link.eth0, other.addr, nowhere) })
}

// Reunite ends what Separate did. Two machines that were not separated stay as they are.
func (f *Fabric) Reunite(a, b string) error {
	return f.pair(a, b, func(m, other *machine) error {
		neigh := &netlink.Neigh{LinkIndex: m.link.eth0, IP: other.addr.AsSlice(), HardwareAddr: nowhere}
		if err := m.link.netlink.NeighDel(neigh); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget neighbour %v: %w", other.addr, err)
		}
		return nil
	})
}

// pair does the same to both of two machines.
func (f *Fabric) pair(a, b string, do func(m, other *machine) error) error {
	if a == b {
		return apierrors.NewBadRequest("a node cannot lose itself: " + a)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var both []*machine
	for _, name := range []string{a, b} {
		i := slices.IndexFunc(f.machines, func(m *machine) bool { return m.name == name })
		if i < 0 {
			return apierrors.NewNotFound(api.Nodes.GroupResource(), name)
		}
		both = append(both, f.machines[i])
	}
	return errors.Join(do(both[0], both[1]), do(both[1], both[0]))
}
