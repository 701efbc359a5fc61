package proxy

import (
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// wire carries google/nftables' messages over a socket of ours. On its own socket the library asks with pselect whether there is an
// answer, and panics when the socket's descriptor is 1,024 or more, as it is in a process that serves hundreds of pods. The way in is
// the library's dial function for tests, which gets the requests, and is then asked for answers until it has none.
type wire struct {
	conn   *netlink.Conn
	number uint32 // that the library takes for its socket's
	failed error  // of the last sending, told in place of an answer
}

// newWire makes the library speak over conn, whose buffers are set and which stays its owner's to close.
func newWire(conn *netlink.Conn) (*nftables.Conn, error) {
	w := &wire{conn: conn}
	return nftables.New(nftables.AsLasting(), nftables.WithTestDial(w.exchange))
}

// exchange sends requests, or, without any, returns what the kernel has answered so far.
func (w *wire) exchange(requests []netlink.Message) ([]netlink.Message, error) {
	if len(requests) > 0 {
		sent := slices.Clone(requests)
		for i := range sent {
			w.number, sent[i].Header.PID = sent[i].Header.PID, 0 // conn puts its own there
		}
		_, w.failed = w.conn.SendMessages(sent)
		return nil, nil
	}
	if err := w.failed; err != nil {
		w.failed = nil
		return nil, err
	}
	if ready, err := answered(w.conn); err != nil || !ready {
		return nil, err
	}
	answers, err := w.conn.Receive()
	for i := range answers {
		answers[i].Header.PID = w.number
	}
	if n := len(answers); n > 0 && answers[n-1].Header.Flags&netlink.Multi != 0 {
		done := netlink.Header{Type: netlink.Done, Flags: netlink.Multi, Sequence: answers[n-1].Header.Sequence, PID: w.number}
		answers = append(answers, netlink.Message{Header: done}) // Receive takes it off, and the library waits for it
	}
	return answers, err
}

// answered tells whether something can be received at once. The kernel has dealt with a request when its sending returns.
func answered(c *netlink.Conn) (ready bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for failed = unix.EINTR; failed == unix.EINTR; {
			_, failed = unix.Poll(poll, 0)
		}
		ready = poll[0].Revents != 0
	})
	if err == nil {
		err = failed
	}
	return ready, err
}
