package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is our table's name; nothing outside it is ever touched.
const tableName = "kubarium"

// affinitySize bounds the remembered choices; past it a client is balanced anew each time.
const affinitySize = 65535

// network is what the chains have to know of the node.
type network struct {
	family
	podCIDR, serviceCIDR netip.Prefix
	dns                  netip.Addr // zero: none
	masqueradeAll        bool
}

// chain is one chain: its hook as nft writes it ("" for a chain that is jumped to) and its rules.
type chain struct {
	name  string
	hook  *hook
	rules []rule
}

// hook is where a base chain is hooked in.
type hook struct {
	text     string
	kind     nftables.ChainType
	num      *nftables.ChainHook
	priority int32
}

// rule is one rule, as text and as the kernel's expressions. That both say the same is held by a test that loads the text
// with nft and compares the listings.
type rule struct {
	text  string
	exprs []expr.Any
	// anonymous is the set that a Lookup among exprs refers to; nil for none.
	anonymous []nftables.SetElement
}

// Registers: the four-byte words of the register file are numbered from word0; reg1 is the first four of them, reg3 begins at
// the ninth.
const (
	reg1  = unix.NFT_REG_1
	reg3  = unix.NFT_REG_3
	word0 = unix.NFT_REG32_00
	word1 = word0 + 1
	word2 = word0 + 2
)

// after is the register of the i-th word behind an address that begins at word0.
func (f family) after(i uint32) uint32 { return word0 + f.size()/4 + i }

// offsetPort is that of the destination port in any transport header.
const offsetPort = 2

// dynsetDelete is NFT_DYNSET_OP_DELETE, which x/sys/unix does not have.
const dynsetDelete = 2

// ctStatusDNAT is the conntrack status bit of a translated destination (IPS_DST_NAT).
const ctStatusDNAT = 1 << 5

func join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func (f family) load(reg, offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size()}}
}

func (f family) loadSource(reg uint32) []expr.Any { return f.load(reg, f.source()) }

func (f family) loadDestination(reg uint32) []expr.Any { return f.load(reg, f.destination()) }

func loadPort(reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offsetPort, Len: 2}}
}

func loadProto(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}}
}

func loadMark(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}}
}

func loadCtMark(reg uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: reg}}
}

func setMark() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1}}
}

func setCtMark() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: reg1}}
}

func isIn(set string) []expr.Any { return []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: set}} }

func mapped(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: name}}
}

func verdictOf(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: name}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func compare(op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: op, Register: reg1, Data: value}}
}

func and(mask []byte) []expr.Any { return masked(reg1, mask) }

// masked keeps the bits of a mask in a register.
func masked(reg uint32, mask []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{
		SourceRegister: reg, DestRegister: reg, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
	}}
}

// bits matches a register of flags: any of them set (CmpOpNeq) or none (CmpOpEq).
func bits(mask uint32, op expr.CmpOp) []expr.Any {
	return join(and(native(mask)), compare(op, native(0)))
}

func prefix(p netip.Prefix, op expr.CmpOp) []expr.Any {
	f := ipv4
	if p.Addr().Is6() {
		f = ipv6
	}
	return join(masked(reg1, f.mask(p.Bits())), compare(op, p.Masked().Addr().AsSlice()))
}

// mask is the network mask of a prefix length.
func (f family) mask(bits int) []byte {
	ones, _ := pick(f, netip.AddrFrom4([4]byte{255, 255, 255, 255}), netip.AddrFrom16([16]byte(bytes.Repeat([]byte{255}, 16)))).Prefix(bits)
	return ones.Addr().AsSlice()
}

func translated(op expr.CmpOp) []expr.Any {
	return join([]expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1}}, bits(ctStatusDNAT, op))
}

func isNew() []expr.Any {
	return join([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: reg1}}, bits(expr.CtStateBitNEW, expr.CmpOpNeq))
}

func isLocalVariant() []expr.Any { return join(loadCtMark(reg1), bits(localBit, expr.CmpOpNeq)) }

// masquerade keeps the client's port where it can. A port drawn at random may be one of those that the endpoint keeps for a minute
// after it closed a connection, while the node forgets it after a second: its kernel takes the SYN for a part of the old connection.
func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func rejectReset() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

// rejectPort is port unreachable: code 3 of ICMP, 4 of ICMPv6.
func (f family) rejectPort() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: pick[uint8](f, 3, 4)}}
}

// ruleset is every chain of the table for what is in use.
func ruleset(n network, s shapes) []chain {
	var out []chain
	for i := 1; i <= s.Indexes; i++ {
		out = append(out, drawChain(i))
	}
	for _, seconds := range s.Timeouts {
		if seconds != 0 {
			out = append(out, n.remember(seconds))
		}
	}
	out = append(out, chain{name: "balance", rules: n.balanceRules()}, chain{name: "deliver", rules: n.deliverRules()},
		chain{name: "dispatch", rules: n.dispatchRules()}, chain{name: "refuse", rules: refuseRules(n)})
	out = append(out, prefixChains(n.family, s)...)
	out = append(out, policyChains(n.family)...)
	out = append(out, translation(n)...)
	out = append(out, refusal()...)
	if n.dns.IsValid() {
		out = append(out, untracked(n)...)
	}
	return out
}

// drawChain draws one of n indexes.
func drawChain(n int) chain {
	if n == 1 {
		return chain{name: indexChain(1), rules: []rule{clearMark()}}
	}
	draw := []expr.Any{&expr.Numgen{Register: reg1, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}}
	return chain{name: indexChain(n), rules: []rule{
		{text: fmt.Sprintf("meta mark set numgen random mod %d", n), exprs: join(draw, setMark())},
	}}
}

func clearMark() rule {
	return rule{text: "meta mark set 0", exprs: join([]expr.Any{&expr.Immediate{Register: reg1, Data: native(0)}}, setMark())}
}

// onAffinity is a dynset expression on the remembered choice of the client and the id; the mark holds the handle.
func (f family) onAffinity(op, seconds uint32) []expr.Any {
	return join(f.loadSource(reg1), loadCtMark(f.after(0)), loadMark(reg3), []expr.Any{&expr.Dynset{
		SrcRegKey: reg1, SrcRegData: reg3, SetName: mapAffinity, Operation: op, Timeout: time.Duration(seconds) * time.Second,
	}})
}

// remember notes the handle in the mark, or, when one is noted, begins its time anew: nft's update never changes the data of an
// element. So forget first when the data changes, and only then: a deleted element stays in its hash chain until the kernel
// clears up, once a second, and a chain of sixteen takes no more.
func (f family) remember(seconds uint32) chain {
	return chain{name: rememberChain(seconds), rules: []rule{{
		text:  fmt.Sprintf("update @affinity { %s saddr . ct mark timeout %ds : meta mark }", f, seconds),
		exprs: f.onAffinity(unix.NFT_DYNSET_OP_UPDATE, seconds),
	}}}
}

// balanceRules choose an endpoint, the remembered one first, and deliver to it. deliver comes back when the endpoint is gone: each look-up reads the newest
// generation of the table, and a Service may change between two of them. Then slot 0 is tried, which exists while any does,
// and last the number of endpoints is read once more.
func (f family) balanceRules() []rule {
	forget := rule{text: fmt.Sprintf("delete @affinity { %s saddr . ct mark : meta mark }", f), exprs: f.onAffinity(dynsetDelete, 0)}
	deliver := rule{text: "jump deliver", exprs: verdict(expr.VerdictJump, "deliver")}
	slot := rule{
		text:  "meta mark set ct mark . meta mark map @slots",
		exprs: join(loadCtMark(reg1), loadMark(word1), mapped(mapSlots), setMark()),
	}
	draw := []rule{
		clearMark(),
		{text: "meta mark set ct mark map @sizes", exprs: join(loadCtMark(reg1), mapped(mapSizes), setMark())},
		{text: "meta mark vmap @draws", exprs: join(loadMark(reg1), verdictOf(mapDraws))},
		slot, deliver,
	}
	out := []rule{
		clearMark(),
		{
			text:  fmt.Sprintf("meta mark set %s saddr . ct mark map @affinity", f),
			exprs: join(f.loadSource(reg1), loadCtMark(f.after(0)), mapped(mapAffinity), setMark()),
		},
		{
			text:  "meta mark != 0 jump deliver",
			exprs: join(loadMark(reg1), compare(expr.CmpOpNeq, native(0)), verdict(expr.VerdictJump, "deliver")),
		},
		{
			text:  "meta mark != 0 " + forget.text,
			exprs: join(loadMark(reg1), compare(expr.CmpOpNeq, native(0)), forget.exprs),
		},
	}
	out = append(out, draw...)
	out = append(out, forget, clearMark(), slot, deliver, forget)
	return append(out, draw...)
}

func (f family) deliverRules() []rule {
	protocols := []nftables.SetElement{{Key: []byte{protoTCP}}, {Key: []byte{protoUDP}}, {Key: []byte{protoSCTP}}}
	return []rule{
		{
			text:  "meta mark & 0xf0000000 vmap @timeouts",
			exprs: join(loadMark(reg1), and(native(classMask)), verdictOf(mapTimeouts)),
		},
		{
			text:      fmt.Sprintf("meta l4proto { tcp, udp, sctp } dnat %s to meta mark map @endpoints", f),
			anonymous: protocols,
			exprs: join(loadProto(reg1), isIn(""), loadMark(reg1), mapped(mapEndpoints), []expr.Any{&expr.NAT{
				Type: expr.NATTypeDestNAT, Family: uint32(f.proto()), Specified: true,
				RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: f.after(0), RegProtoMax: f.after(0),
			}}),
		},
	}
}

// dispatchRules find the service-port id of a new connection.
func (f family) dispatchRules() []rule {
	address := join(f.loadDestination(reg1), loadProto(f.after(0)), loadPort(f.after(1)))
	found := func(to expr.VerdictKind) rule {
		return rule{
			text:  "ct mark != 0 goto balance",
			exprs: join(loadCtMark(reg1), compare(expr.CmpOpNeq, native(0)), verdict(to, "balance")),
		}
	}
	cluster := join(loadCtMark(reg1), and(native(^uint32(localBit))), setCtMark())
	fib := []expr.Any{&expr.Fib{Register: reg1, FlagSADDR: true, ResultADDRTYPE: true}}
	return []rule{
		{
			text:  fmt.Sprintf("ct mark set %s daddr . meta l4proto . th dport map @services", f),
			exprs: join(address, mapped(mapServices), setCtMark()),
		},
		found(expr.VerdictGoto),
		{
			text:  fmt.Sprintf("ct mark set %s daddr . meta l4proto . th dport map @external", f),
			exprs: join(address, mapped(mapExternal), setCtMark()),
		},
		{
			text:  fmt.Sprintf("%s daddr . meta l4proto . th dport @guarded jump ranges", f),
			exprs: join(address, isIn(mapGuarded), verdict(expr.VerdictJump, chainRanges)),
		},
		{
			text: fmt.Sprintf("%s daddr @nodeaddrs ct mark set meta l4proto . th dport map @nodeports", f),
			exprs: join(f.loadDestination(reg1), isIn(mapNodeAddrs), loadProto(reg1), loadPort(word1),
				mapped(mapNodePorts), setCtMark()),
		},
		{
			text: `iifname "pod*" ct mark set ct mark & 0x7fffffff`,
			exprs: join([]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}},
				compare(expr.CmpOpEq, []byte("pod")), cluster),
		},
		{
			text:  "fib saddr type local ct mark set ct mark & 0x7fffffff",
			exprs: join(fib, compare(expr.CmpOpEq, native(unix.RTN_LOCAL)), cluster),
		},
		found(expr.VerdictGoto),
	}
}

// translation are the base chains of address translation.
func translation(n network) []chain {
	dispatch := []rule{{text: "jump dispatch", exprs: verdict(expr.VerdictJump, "dispatch")}}
	nat := func(name, priority string, num *nftables.ChainHook, p int32) *hook {
		return &hook{"type nat hook " + name + " priority " + priority, nftables.ChainTypeNAT, num, p}
	}
	return []chain{
		{"prerouting", nat("prerouting", "dstnat", nftables.ChainHookPrerouting, -100), dispatch},
		{"output", nat("output", "-100", nftables.ChainHookOutput, -100), dispatch},
		{"postrouting", nat("postrouting", "srcnat", nftables.ChainHookPostrouting, 100), postroutingRules(n)},
	}
}

func postroutingRules(n network) []rule {
	originalTo := []expr.Any{&expr.Ct{Key: pick(n.family, expr.CtKeyDSTIP, expr.CtKeyDSTIP6), Register: reg1, Direction: expr.CtDirOriginal}}
	out := []rule{
		{text: "ct status ! dnat return", exprs: join(translated(expr.CmpOpEq), verdict(expr.VerdictReturn, ""))},
		{
			text:  fmt.Sprintf("%[1]s saddr . %[1]s daddr @hairpin masquerade", n.family),
			exprs: join(n.loadSource(reg1), n.loadDestination(n.after(0)), isIn(mapHairpin), masquerade()),
		},
	}
	if n.masqueradeAll {
		out = append(out, rule{text: "masquerade", exprs: masquerade()})
	}
	return append(out,
		rule{text: "ct mark & 0x80000000 != 0 return", exprs: join(isLocalVariant(), verdict(expr.VerdictReturn, ""))},
		rule{
			text:  fmt.Sprintf("%s saddr != %s masquerade", n.family, n.podCIDR),
			exprs: join(n.loadSource(reg1), prefix(n.podCIDR, expr.CmpOpNeq), masquerade()),
		},
		rule{
			text:  fmt.Sprintf("ct original %s daddr != %s masquerade", n.family, n.serviceCIDR),
			exprs: join(originalTo, prefix(n.serviceCIDR, expr.CmpOpNeq), masquerade()),
		})
}

// refuseRules answer new connections that found no endpoint.
func refuseRules(n network) []rule {
	var out []rule
	out = append(out,
		rule{text: "ct status dnat return", exprs: join(translated(expr.CmpOpNeq), verdict(expr.VerdictReturn, ""))},
		rule{text: "ct mark & 0x80000000 != 0 drop", exprs: join(isLocalVariant(), verdict(expr.VerdictDrop, ""))})
	if n.dns.IsValid() {
		out = append(out, rule{
			text: fmt.Sprintf("%s daddr %s return", n.family, n.dns),
			exprs: join(n.loadDestination(reg1), compare(expr.CmpOpEq, n.dns.AsSlice()),
				verdict(expr.VerdictReturn, "")),
		})
	}
	for _, set := range []string{mapClusterIPs, mapExternalIPs} {
		here := join(n.loadDestination(reg1), isIn(set))
		out = append(out,
			rule{
				text:  n.String() + " daddr @" + set + " meta l4proto tcp reject with tcp reset",
				exprs: join(here, loadProto(reg1), compare(expr.CmpOpEq, []byte{protoTCP}), rejectReset()),
			},
			rule{text: n.String() + " daddr @" + set + " reject", exprs: join(here, n.rejectPort())})
	}
	return append(out, rule{
		text: fmt.Sprintf("%s daddr %s drop", n.family, n.serviceCIDR),
		exprs: join(n.loadDestination(reg1), prefix(n.serviceCIDR, expr.CmpOpEq),
			verdict(expr.VerdictDrop, "")),
	})
}

// refusal are the base chains that lead to refuse. A NodePort that found no endpoint ends at the node's own sockets, which
// refuse it; only the Local variant is dropped there.
func refusal() []chain {
	filter := func(name string, num *nftables.ChainHook) *hook {
		return &hook{"type filter hook " + name + " priority filter", nftables.ChainTypeFilter, num, 0}
	}
	refuse := []rule{{text: "ct state new jump refuse", exprs: join(isNew(), verdict(expr.VerdictJump, "refuse"))}}
	policed := rule{text: "ct state new jump policies", exprs: join(isNew(), verdict(expr.VerdictJump, "policies"))}
	return []chain{
		{"refuse-input", filter("input", nftables.ChainHookInput), []rule{{
			text:  "ct state new ct status ! dnat ct mark & 0x80000000 != 0 drop",
			exprs: join(isNew(), translated(expr.CmpOpEq), isLocalVariant(), verdict(expr.VerdictDrop, "")),
		}}},
		{"refuse-forward", filter("forward", nftables.ChainHookForward), append(slices.Clone(refuse), policed)},
		{"refuse-output", filter("output", nftables.ChainHookOutput), refuse},
	}
}

// untracked keeps conntrack out of what goes to and from the cluster DNS address, which the node holds itself: no translation,
// and no entry for a question.
func untracked(n network) []chain {
	raw := func(name string, num *nftables.ChainHook) *hook {
		return &hook{"type filter hook " + name + " priority raw", nftables.ChainTypeFilter, num, -300}
	}
	match := func(word string, offset uint32) rule {
		return rule{
			text:  fmt.Sprintf("%s %s %s notrack", n.family, word, n.dns),
			exprs: join(n.load(reg1, offset), compare(expr.CmpOpEq, n.dns.AsSlice()), []expr.Any{&expr.Notrack{}}),
		}
	}
	rules := []rule{match("daddr", n.destination()), match("saddr", n.source())}
	return []chain{
		{"untracked-in", raw("prerouting", nftables.ChainHookPrerouting), rules},
		{"untracked-out", raw("output", nftables.ChainHookOutput), rules},
	}
}
