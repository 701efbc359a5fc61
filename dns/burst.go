package dns

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// burstSize is how many packets one system call reads or sends. More bring no speed, and make the first of them wait.
	burstSize = 32
	// controlSize holds the address a packet was sent to, of either family.
	controlSize = 64
)

// header is the kernel's struct mmsghdr.
type header struct {
	unix.Msghdr
	length uint32
}

// burst is up to burstSize packets that were read together, and the answers to them, sent together. The kernel reads and
// writes its memory directly: nothing is allocated after newBurst.
type burst struct {
	conn     *net.UDPConn
	raw      syscall.RawConn
	anywhere bool // the socket has no address of its own: answers must leave from the address that was asked
	received int
	sending  int
	sent     int
	errno    unix.Errno
	read     func(fd uintptr) bool
	write    func(fd uintptr) bool

	in, out [burstSize]header
	vectors [burstSize]unix.Iovec
	replies [burstSize]unix.Iovec
	peers   [burstSize]unix.RawSockaddrInet6 // room for either family
	control [burstSize][controlSize]byte
	packets [burstSize][maxUDP]byte

	questions [burstSize]plain // what the packets ask, for whoever answers them
}

func newBurst(conn *net.UDPConn) (*burst, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &burst{conn: conn, raw: raw}
	if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && local.IP.IsUnspecified() {
		if b.anywhere, err = true, tellDestinations(raw); err != nil {
			return nil, err
		}
	}
	b.read = func(fd uintptr) bool { return b.call(unix.SYS_RECVMMSG, fd, b.in[:], &b.received) }
	b.write = func(fd uintptr) bool { return b.call(unix.SYS_SENDMMSG, fd, b.out[b.sent:b.sending], &b.sent) }
	return b, nil
}

// tellDestinations makes the kernel say with each packet which of our addresses it was sent to.
func tellDestinations(raw syscall.RawConn) error {
	var err4, err6 error
	err := raw.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err4 == nil || err6 == nil {
		return err // a socket has one of the two families, or both
	}
	return errors.Join(err, err4)
}

// call reads or sends packets without waiting, adds their number to n, and says false when it should be called again once the
// socket is ready.
func (b *burst) call(number, fd uintptr, headers []header, n *int) bool {
	for {
		done, _, errno := unix.Syscall6(number, fd, uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		b.errno = errno
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		case 0:
			*n += int(done)
			return true
		default:
			return true
		}
	}
}

// receive waits for packets.
func (b *burst) receive() error {
	for i := range b.in {
		b.vectors[i].Base = &b.packets[i][0]
		b.vectors[i].SetLen(maxUDP)
		h := &b.in[i]
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.peers[i])), unix.SizeofSockaddrInet6
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		if b.anywhere {
			h.Control = &b.control[i][0]
			h.SetControllen(controlSize)
		}
	}
	b.received, b.sending, b.sent = 0, 0, 0
	if err := b.raw.Read(b.read); err != nil {
		return err
	}
	if b.errno == unix.EBADF || b.errno == unix.ENOTSOCK {
		return b.errno
	}
	return nil // any other error came from a packet that we sent earlier, by ICMP
}

// packet is the buffer of the i-th packet and the packet's length.
func (b *burst) packet(i int) ([]byte, int) { return b.packets[i][:], int(b.in[i].length) }

// answer says that the i-th buffer holds an answer of so many bytes; 0 means none.
func (b *burst) answer(i, length int) {
	if length == 0 {
		return
	}
	b.replies[b.sending].Base = &b.packets[i][0]
	b.replies[b.sending].SetLen(length)
	h := &b.out[b.sending]
	h.Name, h.Namelen = b.in[i].Name, b.in[i].Namelen
	h.Iov = &b.replies[b.sending]
	h.SetIovlen(1)
	if b.anywhere {
		n := source(b.control[i][:b.in[i].Controllen])
		h.Control = &b.control[i][0]
		h.SetControllen(n)
	}
	b.sending++
}

// send sends the answers. One that cannot be sent is left out: the client will ask again.
func (b *burst) send() error {
	for b.sent < b.sending {
		if err := b.raw.Write(b.write); err != nil {
			return err
		}
		if b.errno != 0 {
			b.sent++
		}
	}
	return nil
}

// source makes the control data of an answer from those of its question, in place: where it was sent to becomes where the
// answer comes from, over whatever interface routing chooses. It returns the length.
func source(control []byte) int {
	const head = unix.SizeofCmsghdr
	if len(control) < head {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(control) >= unix.CmsgLen(unix.SizeofInet4Pktinfo):
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
		info.Ifindex, info.Spec_dst = 0, info.Addr
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(control) >= unix.CmsgLen(unix.SizeofInet6Pktinfo):
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
		info.Ifindex = 0
		return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
	}
	return 0
}

// back is the way back to one client, beyond the burst its question came in.
type back struct {
	conn    *net.UDPConn
	peer    netip.AddrPort
	control []byte
}

// peer is the address of the i-th packet's sender.
func (b *burst) peer(i int) netip.AddrPort {
	switch p := &b.peers[i]; p.Family {
	case unix.AF_INET:
		p4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(p))
		return netip.AddrPortFrom(netip.AddrFrom4(p4.Addr), swapped(p4.Port))
	case unix.AF_INET6:
		a := netip.AddrFrom16(p.Addr)
		if p.Scope_id != 0 && a.IsLinkLocalUnicast() {
			if link, err := net.InterfaceByIndex(int(p.Scope_id)); err == nil {
				a = a.WithZone(link.Name)
			}
		}
		return netip.AddrPortFrom(a, swapped(p.Port))
	}
	return netip.AddrPort{}
}

// swapped is a port of a socket address, which lies in memory in the network's order.
func swapped(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

func (b *burst) back(i int) back {
	w := back{conn: b.conn, peer: b.peer(i)}
	if b.anywhere {
		control := append([]byte(nil), b.control[i][:b.in[i].Controllen]...)
		w.control = control[:min(source(control), len(control))]
	}
	return w
}

func (w back) String() string { return w.peer.String() }

func (w back) send(answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	_, _, err := w.conn.WriteMsgUDPAddrPort(answer, w.control, w.peer)
	return err
}
