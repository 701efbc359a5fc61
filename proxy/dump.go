package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpBuffer is the size of one read in bytes. The kernel makes its answers as large as the largest read it has seen, up to
// 32 KiB, and for each answer it walks the map again from the start, counting off what it sent before: reading n elements
// costs n squared over the size of an answer. The usual library reads 4 KiB at a time, and looks at each answer twice.
const dumpBuffer = 64 << 10

// dumpTries bounds the repetitions of a dump that a change ran into.
const dumpTries = 10

// Attributes that x/sys/unix does not have are the same on every kernel.
const (
	attrTypeMask = 0x3fff // without the flags nested and net-byte-order
	nlaHeader    = 4
	nfgenmsg     = 4
	udataComment = 0
)

var errDumpInterrupted = errors.New("the table kept changing while it was read")

// dumpElements adds all elements of a map to out.
func dumpElements(conn *netlink.Conn, f family, d mapDef, out elements) error {
	for range dumpTries {
		found, err := dumpOnce(conn, f, d)
		if errors.Is(err, errDumpInterrupted) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range found {
			out[e.elemKey] = e.elemValue
		}
		return nil
	}
	return errDumpInterrupted
}

func dumpOnce(conn *netlink.Conn, f family, d mapDef) ([]element, error) {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(tableName + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(d.name + "\x00")},
	})
	if err != nil {
		return nil, err
	}
	_, err = conn.Send(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{f.proto(), 0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	dump := &dump{def: d}
	buf := make([]byte, dumpBuffer)
	for !dump.done {
		n, err := receive(raw.Read, buf)
		if err != nil {
			return nil, err
		}
		if err := dump.messages(buf[:n]); err != nil {
			return nil, err
		}
	}
	if dump.interrupted {
		return nil, errDumpInterrupted
	}
	return dump.found, nil
}

// receive reads one answer.
func receive(read func(func(fd uintptr) bool) error, buf []byte) (int, error) {
	var n int
	var failed error
	err := read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
		return failed != unix.EAGAIN
	})
	if err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, fmt.Errorf("read an answer: %w", failed)
	}
	return n, nil
}

// dump collects the elements of a map from the kernel's answers.
type dump struct {
	def               mapDef
	found             []element
	done, interrupted bool
}

var errShort = errors.New("a netlink message is cut short")

func (d *dump) messages(b []byte) error {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return errShort
		}
		if err := d.message(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[unix.SizeofNlMsghdr:size]); err != nil {
			return err
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}

func (d *dump) message(kind, flags uint16, body []byte) error {
	d.interrupted = d.interrupted || flags&unix.NLM_F_DUMP_INTR != 0
	switch kind {
	case unix.NLMSG_DONE, unix.NLMSG_ERROR:
		d.done = true
		if len(body) < 4 {
			return errShort
		}
		if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
			return syscall.Errno(-code)
		}
		return nil
	}
	if len(body) < nfgenmsg {
		return errShort
	}
	return attributes(body[nfgenmsg:], func(kind uint16, list []byte) error {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return attributes(list, func(_ uint16, elem []byte) error { return d.element(elem) })
	})
}

func (d *dump) element(b []byte) error {
	e := element{elemKey: elemKey{Map: d.def.name}}
	err := attributes(b, func(kind uint16, data []byte) error {
		var err error
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key, err = value(data)
		case unix.NFTA_SET_ELEM_DATA:
			e.Value, err = value(data)
		case unix.NFTA_SET_ELEM_USERDATA:
			e.Comment = commentOf(data)
		}
		return err
	})
	d.found = append(d.found, e)
	return err
}

// value is the bytes of a datum, or, for a verdict, the name of the chain jumped to.
func value(b []byte) (string, error) {
	out := ""
	err := attributes(b, func(kind uint16, data []byte) error {
		if kind == unix.NFTA_DATA_VALUE {
			out = string(data)
			return nil
		}
		return attributes(data, func(kind uint16, data []byte) error {
			if kind == unix.NFTA_VERDICT_CHAIN {
				out = cString(data)
			}
			return nil
		})
	})
	return out, err
}

// attributes calls fn for each netlink attribute in b.
func attributes(b []byte, fn func(kind uint16, data []byte) error) error {
	for len(b) >= nlaHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < nlaHeader || size > len(b) {
			return errShort
		}
		if err := fn(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[nlaHeader:size]); err != nil {
			return err
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}

// commentOf finds the comment in an element's user data: type, length and bytes, one after the other.
func commentOf(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == udataComment {
			return cString(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

func cString(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		return string(b[:n-1])
	}
	return string(b)
}
