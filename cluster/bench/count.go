package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// count asks the kernel for the chains and rules of all nftables tables of the node; iptables on nftables has its own there
// too. Answers are counted as they come and not kept: 20,000 Services may be half a million rules.
func (r *rig) count() (chains, rules int, err error) {
	if chains, err = r.dump(unix.NFT_MSG_GETCHAIN); err == nil {
		rules, err = r.dump(unix.NFT_MSG_GETRULE)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("count chains and rules: %w", err)
	}
	return chains, rules, nil
}

func (r *rig) dump(kind uint16) (n int, err error) {
	fd := -1
	err = r.node.Do(func() error {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// A netlink header, then netfilter's own: the family (0: all), version and table number.
	ask := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(ask[0:], uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for {
		size, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:size])
		if err != nil {
			return n, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return n, nil
			case unix.NLMSG_ERROR:
				return n, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			default:
				n++
			}
		}
	}
}
