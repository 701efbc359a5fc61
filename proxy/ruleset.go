package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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
	podCIDR, serviceCIDR netip.Prefix
	dns                  netip.Addr // zero: none
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

// Registers: 1 and 2 are sixteen bytes wide; 9, 10 and 11 are the second to fourth word of register 1.
const (
	reg1  = unix.NFT_REG_1
	reg2  = unix.NFT_REG_2
	word1 = 9
	word2 = 10
)

// Offsets in the IPv4 and in any transport header.
const (
	offsetSource      = 12
	offsetDestination = 16
	offsetPort        = 2
)

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

func loadIP(reg, offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

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

func and(mask []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{
		SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4),
	}}
}

// bits matches a register of flags: any of them set (CmpOpNeq) or none (CmpOpEq).
func bits(mask uint32, op expr.CmpOp) []expr.Any {
	return join(and(native(mask)), compare(op, native(0)))
}

func prefix(p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return join(and(mask), compare(op, p.Masked().Addr().AsSlice()))
}

func translated(op expr.CmpOp) []expr.Any {
	return join([]expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1}}, bits(ctStatusDNAT, op))
}

func isNew() []expr.Any {
	return join([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: reg1}}, bits(expr.CtStateBitNEW, expr.CmpOpNeq))
}

func isLocalVariant() []expr.Any { return join(loadCtMark(reg1), bits(localBit, expr.CmpOpNeq)) }

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

func rejectReset() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

// rejectPort is port unreachable, ICMP code 3.
func rejectPort() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}}
}

// ruleset is every chain of the table for what is in use.
func ruleset(n network, s shapes) []chain {
	var out []chain
	for i := 1; i <= s.Indexes; i++ {
		out = append(out, drawChain(i))
	}
	for _, seconds := range s.Timeouts {
		if seconds != 0 {
			out = append(out, remember(seconds))
		}
	}
	out = append(out, chain{name: "balance", rules: balanceRules()}, chain{name: "deliver", rules: deliverRules()},
		chain{name: "dispatch", rules: dispatchRules()}, chain{name: "refuse", rules: refuseRules(n)})
	out = append(out, translation(n)...)
	out = append(out, refusal()...)
	if n.dns.IsValid() {
		out = append(out, untracked(n.dns)...)
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
func onAffinity(op, seconds uint32) []expr.Any {
	return join(loadIP(reg1, offsetSource), loadCtMark(word1), loadMark(reg2), []expr.Any{&expr.Dynset{
		SrcRegKey: reg1, SrcRegData: reg2, SetName: mapAffinity, Operation: op, Timeout: time.Duration(seconds) * time.Second,
	}})
}

// remember notes the handle in the mark, or, when one is noted, begins its time anew: nft's update never changes the data of an
// element. So forget first when the data changes, and only then: a deleted element stays in its hash chain until the kernel
// clears up, once a second, and a chain of sixteen takes no more.
func remember(seconds uint32) chain {
	return chain{name: rememberChain(seconds), rules: []rule{{
		text:  fmt.Sprintf("update @affinity { ip saddr . ct mark timeout %ds : meta mark }", seconds),
		exprs: onAffinity(unix.NFT_DYNSET_OP_UPDATE, seconds),
	}}}
}

// balanceRules choose an endpoint, the remembered one first, and deliver to it. deliver comes back when the endpoint is gone: each look-up reads the newest
// generation of the table, and a Service may change between two of them. Then slot 0 is tried, which exists while any does,
// and last the number of endpoints is read once more.
func balanceRules() []rule {
	forget := rule{text: "delete @affinity { ip saddr . ct mark : meta mark }", exprs: onAffinity(dynsetDelete, 0)}
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
			text:  "meta mark set ip saddr . ct mark map @affinity",
			exprs: join(loadIP(reg1, offsetSource), loadCtMark(word1), mapped(mapAffinity), setMark()),
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

func deliverRules() []rule {
	protocols := []nftables.SetElement{{Key: []byte{protoTCP}}, {Key: []byte{protoUDP}}, {Key: []byte{protoSCTP}}}
	return []rule{
		{
			text:  "meta mark & 0xf0000000 vmap @timeouts",
			exprs: join(loadMark(reg1), and(native(classMask)), verdictOf(mapTimeouts)),
		},
		{
			text:      "meta l4proto { tcp, udp, sctp } dnat ip to meta mark map @endpoints",
			anonymous: protocols,
			exprs: join(loadProto(reg1), isIn(""), loadMark(reg1), mapped(mapEndpoints), []expr.Any{&expr.NAT{
				Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
				RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: word1, RegProtoMax: word1,
			}}),
		},
	}
}

// dispatchRules find the service-port id of a new connection.
func dispatchRules() []rule {
	address := join(loadIP(reg1, offsetDestination), loadProto(word1), loadPort(word2))
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
			text:  "ct mark set ip daddr . meta l4proto . th dport map @services",
			exprs: join(address, mapped(mapServices), setCtMark()),
		},
		found(expr.VerdictGoto),
		{
			text:  "ct mark set ip daddr . meta l4proto . th dport map @external",
			exprs: join(address, mapped(mapExternal), setCtMark()),
		},
		{
			text: "ip daddr @nodeaddrs ct mark set meta l4proto . th dport map @nodeports",
			exprs: join(loadIP(reg1, offsetDestination), isIn(mapNodeAddrs), loadProto(reg1), loadPort(word1),
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
	originalTo := []expr.Any{&expr.Ct{Key: expr.CtKeyDSTIP, Register: reg1, Direction: expr.CtDirOriginal}}
	return []rule{
		{text: "ct status ! dnat return", exprs: join(translated(expr.CmpOpEq), verdict(expr.VerdictReturn, ""))},
		{
			text:  "ip saddr . ip daddr @hairpin masquerade fully-random",
			exprs: join(loadIP(reg1, offsetSource), loadIP(word1, offsetDestination), isIn(mapHairpin), masquerade()),
		},
		{text: "ct mark & 0x80000000 != 0 return", exprs: join(isLocalVariant(), verdict(expr.VerdictReturn, ""))},
		{
			text:  fmt.Sprintf("ip saddr != %s masquerade fully-random", n.podCIDR),
			exprs: join(loadIP(reg1, offsetSource), prefix(n.podCIDR, expr.CmpOpNeq), masquerade()),
		},
		{
			text:  fmt.Sprintf("ct original ip daddr != %s masquerade fully-random", n.serviceCIDR),
			exprs: join(originalTo, prefix(n.serviceCIDR, expr.CmpOpNeq), masquerade()),
		},
	}
}

// refuseRules answer new connections that found no endpoint.
func refuseRules(n network) []rule {
	var out []rule
	out = append(out,
		rule{text: "ct status dnat return", exprs: join(translated(expr.CmpOpNeq), verdict(expr.VerdictReturn, ""))},
		rule{text: "ct mark & 0x80000000 != 0 drop", exprs: join(isLocalVariant(), verdict(expr.VerdictDrop, ""))})
	if n.dns.IsValid() {
		out = append(out, rule{
			text: fmt.Sprintf("ip daddr %s return", n.dns),
			exprs: join(loadIP(reg1, offsetDestination), compare(expr.CmpOpEq, n.dns.AsSlice()),
				verdict(expr.VerdictReturn, "")),
		})
	}
	for _, set := range []string{mapClusterIPs, mapExternalIPs} {
		here := join(loadIP(reg1, offsetDestination), isIn(set))
		out = append(out,
			rule{
				text:  "ip daddr @" + set + " meta l4proto tcp reject with tcp reset",
				exprs: join(here, loadProto(reg1), compare(expr.CmpOpEq, []byte{protoTCP}), rejectReset()),
			},
			rule{text: "ip daddr @" + set + " reject", exprs: join(here, rejectPort())})
	}
	return append(out, rule{
		text: fmt.Sprintf("ip daddr %s drop", n.serviceCIDR),
		exprs: join(loadIP(reg1, offsetDestination), prefix(n.serviceCIDR, expr.CmpOpEq),
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
	return []chain{
		{"refuse-input", filter("input", nftables.ChainHookInput), []rule{{
			text:  "ct state new ct status ! dnat ct mark & 0x80000000 != 0 drop",
			exprs: join(isNew(), translated(expr.CmpOpEq), isLocalVariant(), verdict(expr.VerdictDrop, "")),
		}}},
		{"refuse-forward", filter("forward", nftables.ChainHookForward), refuse},
		{"refuse-output", filter("output", nftables.ChainHookOutput), refuse},
	}
}

// untracked keeps conntrack out of what goes to and from the cluster DNS address, which the node holds itself: no translation,
// and no entry for a question.
func untracked(dns netip.Addr) []chain {
	raw := func(name string, num *nftables.ChainHook) *hook {
		return &hook{"type filter hook " + name + " priority raw", nftables.ChainTypeFilter, num, -300}
	}
	match := func(word string, offset uint32) rule {
		return rule{
			text:  fmt.Sprintf("ip %s %s notrack", word, dns),
			exprs: join(loadIP(reg1, offset), compare(expr.CmpOpEq, dns.AsSlice()), []expr.Any{&expr.Notrack{}}),
		}
	}
	rules := []rule{match("daddr", offsetDestination), match("saddr", offsetSource)}
	return []chain{
		{"untracked-in", raw("prerouting", nftables.ChainHookPrerouting), rules},
		{"untracked-out", raw("output", nftables.ChainHookOutput), rules},
	}
}
