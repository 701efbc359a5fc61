package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// groupNFTables is the multicast group in which the kernel tells of every change of tables (NFNLGRP_NFTABLES).
const groupNFTables = 7

// portIDOffset is where a netlink header carries the sender's port.
const portIDOffset = 12

// listen opens a socket on which the kernel tells of changes that others than own make to tables of the namespace. A filter in
// the kernel keeps our own from it: they may be hundreds of thousands.
func listen(own []uint32) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.SetBPF(notFrom(own)), c.JoinGroup(groupNFTables)); err != nil {
		return nil, errors.Join(fmt.Errorf("follow changes of tables: %w", err), c.Close())
	}
	return c, nil
}

// notFrom is a filter that drops messages of some senders.
func notFrom(own []uint32) []bpf.RawInstruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: portIDOffset, Size: 4}}
	for _, id := range own {
		wire := binary.BigEndian.Uint32(native(id)) // a filter loads in network order
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: wire, SkipTrue: 1}, bpf.RetConstant{Val: 0})
	}
	raw, _ := bpf.Assemble(append(program, bpf.RetConstant{Val: 1 << 20})) // it fails for programs that cannot be written
	return raw
}

// portID is a socket's number, which the kernel puts on all that it says of the socket's doings.
func portID(c *netlink.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var id uint32
	var failed error
	err = raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, failed = unix.Getsockname(int(fd)); failed == nil {
			id = sa.(*unix.SockaddrNetlink).Pid
		}
	})
	return id, errors.Join(err, failed)
}

// intruded waits until somebody else changes our table.
func (k *linux) intruded(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = k.others.SetReadDeadline(time.Unix(1, 0)) }) // wakes the reader
	defer stop()
	for ctx.Err() == nil {
		messages, err := k.others.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return nil // too much to tell of: it may have been ours
		}
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		for _, m := range messages {
			if k.ours(m) {
				return nil
			}
		}
	}
	return ctx.Err()
}

// ours tells whether a message speaks of our table. All but the last of a change, which only numbers it, begin with the name.
func (k *linux) ours(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenmsg || m.Data[0] != k.family.proto() {
		return false
	}
	found := false
	_ = attributes(m.Data[nfgenmsg:], func(kind uint16, data []byte) error {
		found = found || kind == unix.NFTA_TABLE_NAME && cString(data) == tableName
		return nil
	})
	return found && uint8(m.Header.Type) != unix.NFT_MSG_NEWGEN
}

// guard mends the table when others change it, until ctx ends.
func (p *Proxy) guard(ctx context.Context, k *linux) {
	for {
		if err := k.intruded(ctx); err != nil {
			if ctx.Err() == nil {
				p.log.Error("changes by others are not noticed any more", "node", p.cfg.Node, "error", err)
			}
			return
		}
		if !p.programmed() {
			continue
		}
		p.log.Warn("somebody else changed our table; comparing the whole of it", "node", p.cfg.Node)
		delay := retryFirst
		for attempt := 0; p.reconcile(attempt >= resetAfter) != nil; attempt++ {
			if !pause(ctx, delay) {
				return
			}
			delay = min(2*delay, retryMax)
		}
	}
}

// programmed counts an intrusion, unless nothing was written yet that could be intruded upon.
func (p *Proxy) programmed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sides[0].planner == nil {
		return false
	}
	p.stats.Intrusions++
	return true
}

// pause waits; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-wait.Done()
	return ctx.Err() == nil
}
