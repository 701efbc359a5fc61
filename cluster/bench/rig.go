package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

// The addresses of a rig. The endpoints' range is the listener's own, every address of it.
var (
	servicesCIDR  = netip.MustParsePrefix("10.96.0.0/12")
	podsCIDR      = netip.MustParsePrefix("10.128.0.0/9")
	endpointsCIDR = netip.MustParsePrefix("10.128.0.0/10")
)

const (
	servicePort  = 80
	endpointPort = 8080
	// A client's and a listener's address, and the node's own on the way to each.
	clientAddress, towardsClient = "10.200.0.2", "10.200.0.1"
	listenAddress, towardsListen = "10.201.0.2", "10.201.0.1"
)

// connectPatience is how long one connection may take before the Service counts as broken.
const connectPatience = 3 * time.Second

// rig is a node between a client and a listener that stands for all pods, each in a network namespace of its own.
type rig struct {
	endpoints              int // of each Service
	node, client, listener *netns.NS

	undo []func() error
}

// onClose files what the rig's end is to undo, the last one filed first.
func (r *rig) onClose(f func() error) { r.undo = append(r.undo, f) }

func newRig(ctx context.Context, endpoints int) (r *rig, err error) {
	r = &rig{endpoints: endpoints}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the namespaces: %w", err), r.close())
		}
	}()
	for _, ns := range []**netns.NS{&r.node, &r.client, &r.listener} {
		if *ns, err = netns.New(); err != nil {
			return r, err
		}
		r.onClose((*ns).Close)
	}
	for _, s := range []string{"net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"} {
		if err := r.node.Sysctl(s, "1"); err != nil {
			return r, err
		}
	}
	if err := r.wire(); err != nil {
		return r, err
	}
	// Nobody accepts: the kernel completes a connection without, and so no other thread disturbs what is measured. Its queue
	// holds 4,096.
	ln, err := r.listener.Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", endpointPort))
	if err != nil {
		return r, err
	}
	r.onClose(ln.Close)
	return r, nil
}

// wire leads from the client over the node to the listener, and back.
func (r *rig) wire() error {
	everything := netip.MustParsePrefix("0.0.0.0/0")
	err := within(r.node, func(h *netlink.Handle) error {
		for name, peer := range map[string]*netns.NS{"client": r.client, "listener": r.listener} {
			if err := h.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.FD()),
			}); err != nil {
				return fmt.Errorf("interface %s: %w", name, err)
			}
		}
		return errors.Join(address(h, "client", towardsClient), address(h, "listener", towardsListen))
	})
	if err != nil {
		return err
	}
	err = within(r.client, func(h *netlink.Handle) error {
		return errors.Join(address(h, "eth0", clientAddress), route(h, "eth0", everything, towardsClient))
	})
	if err != nil {
		return err
	}
	err = within(r.listener, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		own := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(endpointsCIDR), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
		return errors.Join(h.RouteAdd(own), address(h, "eth0", listenAddress), route(h, "eth0", everything, towardsListen))
	})
	if err != nil {
		return err
	}
	return within(r.node, func(h *netlink.Handle) error { return route(h, "listener", endpointsCIDR, listenAddress) })
}

func within(ns *netns.NS, fn func(*netlink.Handle) error) error {
	return ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
}

// address gives an interface an address of a /24, and sets it up.
func address(h *netlink.Handle, dev, ip string) error {
	l, err := h.LinkByName(dev)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(24, 32)}}
	return errors.Join(h.AddrAdd(l, a), h.LinkSetUp(l))
}

func route(h *netlink.Handle, dev string, to netip.Prefix, via string) error {
	l, err := h.LinkByName(dev)
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(to), Gw: net.ParseIP(via)})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// close ends all that was begun, and lets go of the namespaces with all that is in them.
func (r *rig) close() error {
	var errs []error
	for _, f := range slices.Backward(r.undo) {
		errs = append(errs, f())
	}
	r.undo = nil
	return errors.Join(errs...)
}

// service is where Service i answers, endpoint where its j-th endpoint does.
func (r *rig) service(i int) netip.AddrPort {
	return netip.AddrPortFrom(nth(servicesCIDR, i+1), servicePort)
}

func (r *rig) endpoint(i, j int) netip.AddrPort {
	return netip.AddrPortFrom(nth(endpointsCIDR, i*r.endpoints+j+1), endpointPort)
}

func nth(p netip.Prefix, i int) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
	return netip.AddrFrom4(b)
}

// connect connects n times from the client, and returns the median time. Each connection is a new one for the kernel: its first
// packet takes the whole way through the rules.
func (r *rig) connect(to netip.AddrPort, n int) (Seconds, error) {
	all := make([]Seconds, n+n/10)
	for i := range all {
		err := r.client.Do(func() error {
			began := time.Now()
			err := connectOnce(to)
			all[i] = seconds(time.Since(began))
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", to, err)
		}
	}
	return median(all[n/10:]), nil // the first ones warm the way up
}

// connectOnce connects in the namespace that the calling thread stands in, and resets: nothing lingers.
func connectOnce(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(int64(connectPatience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	for {
		err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func median(all []Seconds) Seconds {
	slices.Sort(all)
	return all[len(all)/2]
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}
