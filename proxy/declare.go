package proxy

import (
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The maps are declared by messages of our own: google/nftables has no word for the byte order of a map's values, and without
// it nft prints them byte-swapped.

// Byte orders as nft writes them into a map's user data.
const (
	orderHost    = 1
	orderNetwork = 2
)

// Attributes and flags that x/sys/unix does not have.
const (
	nftSetConcat      = 0x80
	nftaSetDescConcat = 2
	nftaSetExpr       = 0x11
)

// declareMaps adds the table and all its maps in one batch; what is there already stays, unless reset.
func declareMaps(conn *netlink.Conn, f family, reset bool) error {
	b := &builder{family: f}
	b.control(unix.NFNL_MSG_BATCH_BEGIN)
	if reset {
		b.table(unix.NFT_MSG_NEWTABLE)
		b.table(unix.NFT_MSG_DELTABLE)
	}
	b.table(unix.NFT_MSG_NEWTABLE)
	for i, d := range mapDefs {
		b.declare(d, uint32(i+1))
	}
	b.control(unix.NFNL_MSG_BATCH_END)
	if b.err != nil {
		return b.err
	}
	if _, err := conn.SendMessages(b.messages); err != nil {
		return err
	}
	return pendingError(conn)
}

// pendingError reads the answers to a batch: the kernel has dealt with it when the sending returned, and answers only what
// failed.
func pendingError(conn *netlink.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var first error
	buf := make([]byte, dumpBuffer)
	for {
		n, err := receive(now(raw), buf)
		if errors.Is(err, unix.EAGAIN) {
			return first
		}
		if err != nil {
			return err
		}
		if err := (&dump{}).messages(buf[:n]); err != nil && first == nil {
			first = err
		}
	}
}

// now lets receive look once instead of waiting.
func now(raw syscall.RawConn) func(func(fd uintptr) bool) error {
	return func(fn func(fd uintptr) bool) error { return raw.Control(func(fd uintptr) { fn(fd) }) }
}

// builder collects messages, and the first error.
type builder struct {
	family   family
	messages []netlink.Message
	err      error
}

func (b *builder) control(kind netlink.HeaderType) {
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	})
}

func (b *builder) add(kind netlink.HeaderType, attrs []netlink.Attribute) {
	flags := netlink.Request
	if kind == unix.NFT_MSG_NEWTABLE || kind == unix.NFT_MSG_NEWSET {
		flags |= netlink.Create
	}
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: flags},
		Data:   append([]byte{b.family.proto(), unix.NFNETLINK_V0, 0, 0}, b.marshal(attrs)...),
	})
}

func (b *builder) marshal(attrs []netlink.Attribute) []byte {
	out, err := netlink.MarshalAttributes(attrs)
	if err != nil && b.err == nil {
		b.err = err
	}
	return out
}

func (b *builder) table(kind netlink.HeaderType) {
	b.add(kind, []netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: []byte(tableName + "\x00")}})
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func (b *builder) declare(d mapDef, id uint32) {
	key := kernelType(b.family, d.key)
	var flags uint32
	var udata []byte
	if len(d.key) > 1 {
		flags |= nftSetConcat
	} else {
		udata = userdata.AppendUint32(udata, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, byteOrder(d.key[0]))
	}
	attrs := []netlink.Attribute{
		{Type: unix.NFTA_SET_TABLE, Data: []byte(tableName + "\x00")},
		{Type: unix.NFTA_SET_NAME, Data: []byte(d.name + "\x00")},
		{Type: unix.NFTA_SET_KEY_TYPE, Data: be32(key.GetNFTMagic())},
		{Type: unix.NFTA_SET_KEY_LEN, Data: be32(key.Bytes)},
		{Type: unix.NFTA_SET_ID, Data: be32(id)},
	}
	switch {
	case d.verdicts:
		flags |= unix.NFT_SET_MAP
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_SET_DATA_TYPE, Data: be32(unix.NFT_DATA_VERDICT)})
	case d.data != nil:
		flags |= unix.NFT_SET_MAP
		data := kernelType(b.family, d.data)
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_SET_DATA_TYPE, Data: be32(data.GetNFTMagic())},
			netlink.Attribute{Type: unix.NFTA_SET_DATA_LEN, Data: be32(data.Bytes)})
		if len(d.data) == 1 {
			udata = userdata.AppendUint32(udata, userdata.NFTNL_UDATA_SET_DATABYTEORDER, byteOrder(d.data[0]))
		}
	}
	if d.remembers {
		flags |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	}
	attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_SET_FLAGS, Data: be32(flags)})
	if desc := b.describe(d); len(desc) > 0 {
		attrs = append(attrs, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_SET_DESC, Data: desc})
	}
	if len(udata) > 0 {
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_SET_USERDATA, Data: udata})
	}
	if d.counter {
		attrs = append(attrs, netlink.Attribute{Type: unix.NLA_F_NESTED | nftaSetExpr, Data: b.marshal([]netlink.Attribute{
			{Type: unix.NFTA_EXPR_NAME, Data: []byte("counter\x00")},
			{Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA},
		})})
	}
	b.add(unix.NFT_MSG_NEWSET, attrs)
}

// describe gives the size bound and the lengths of the parts of a key; nft cannot list a concatenation without them.
func (b *builder) describe(d mapDef) []byte {
	var attrs []netlink.Attribute
	if d.remembers {
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_SET_DESC_SIZE, Data: be32(affinitySize)})
	}
	if len(d.key) > 1 {
		var parts []netlink.Attribute
		for _, f := range d.key {
			length := b.marshal([]netlink.Attribute{{Type: 1, Data: be32(fieldType(b.family, f).Bytes)}})
			parts = append(parts, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: length})
		}
		attrs = append(attrs, netlink.Attribute{Type: unix.NLA_F_NESTED | nftaSetDescConcat, Data: b.marshal(parts)})
	}
	if len(attrs) == 0 {
		return nil
	}
	return b.marshal(attrs)
}

func byteOrder(f field) uint32 {
	if f == fieldMark || f == fieldClass {
		return orderHost
	}
	return orderNetwork
}

func fieldType(f family, x field) nftables.SetDatatype {
	switch x {
	case fieldAddr:
		return pick(f, nftables.TypeIPAddr, nftables.TypeIP6Addr)
	case fieldProto:
		return nftables.TypeInetProto
	case fieldPort:
		return nftables.TypeInetService
	case fieldClass:
		return nftables.TypeClassID
	}
	return nftables.TypeMark
}

func kernelType(f family, fields []field) nftables.SetDatatype {
	if len(fields) == 1 {
		return fieldType(f, fields[0])
	}
	types := make([]nftables.SetDatatype, len(fields))
	for i, x := range fields {
		types[i] = fieldType(f, x)
	}
	return nftables.MustConcatSetType(types...)
}
