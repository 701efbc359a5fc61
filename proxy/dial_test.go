package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

// patience is how long a packet that should be answered may take; silence is how long one that should not be is waited for.
const (
	patience = 5 * time.Second
	silence  = 300 * time.Millisecond
)

// dial connects from a namespace, from a port of its choice (0: any).
func dial(ns *netns.NS, network, address string, d time.Duration) (net.Conn, error) {
	return dialFrom(ns, network, address, d, 0)
}

func dialFrom(ns *netns.NS, network, address string, d time.Duration, port int) (net.Conn, error) {
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	to := netip.MustParseAddrPort(address)
	fd := -1
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), address)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil && port != 0 {
		return nil, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if errors.Is(err, unix.EINPROGRESS) {
		err = connected(fd, d)
	}
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := net.FileConn(f)
	if err == nil {
		c.SetDeadline(time.Now().Add(d))
	}
	return c, err
}

func connected(fd int, d time.Duration) error {
	for until := time.Now().Add(d); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(time.Until(until).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return context.DeadlineExceeded
		default:
			code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && code != 0 {
				err = syscall.Errno(code)
			}
			return err
		}
	}
}

// try asks once: the answer is "pod:port client".
func try(ns *netns.NS, network, address string, d time.Duration) (string, error) {
	c, err := dial(ns, network, address, d)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return exchange(c)
}

func exchange(c net.Conn) (string, error) {
	if _, udp := c.(*net.UDPConn); udp {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}
