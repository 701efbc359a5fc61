package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
)

// Chains whose rules follow the prefix lengths in use.
const (
	chainRanges    = "ranges"
	chainBlocksIn  = "blocks-in"
	chainBlocksOut = "blocks-out"
	chainPermit    = "permit"
)

// lengths is the prefix lengths in use, by their number.
type lengths [129]bool

// prefixes is what prefixes the table has to look for: CIDRs by length, and port ranges by length (at most 16).
type prefixes struct{ Ranges, Blocks, Ports lengths }

// A CIDR is one element of a hash, its address with its length, so that neither the kernel's work for a change nor ours grows
// with their number. The chain tries the lengths in use, the longest first; the mark says which.

// prefixChains are the chains that look for prefixes.
func prefixChains(f family, s shapes) []chain {
	return []chain{
		{name: chainRanges, rules: append(rangeRules(f, s.Ranges), rule{text: "drop", exprs: verdict(expr.VerdictDrop, "")})},
		{name: chainBlocksIn, rules: blockRules(f, s.Blocks, "saddr")},
		{name: chainBlocksOut, rules: blockRules(f, s.Blocks, "daddr")},
		{name: chainPermit, rules: permitRules(s.Ports)},
	}
}

func setMarkTo(n int) rule {
	return rule{text: fmt.Sprintf("meta mark set %d", n), exprs: join(immediate(uint32(n)), setMark())}
}

func immediate(v uint32) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: reg1, Data: native(v)}}
}

// rangeRules return for a source that a guarded load-balancer port lets in.
func rangeRules(f family, used lengths) []rule {
	var out []rule
	for bits := len(used) - 1; bits >= 0; bits-- {
		if !used[bits] {
			continue
		}
		text, load := f.maskedAddress("saddr", word1, bits)
		out = append(out, setMarkTo(bits), rule{
			text: fmt.Sprintf("ct mark . %s . meta mark @%s return", text, mapRanges),
			exprs: join(loadCtMark(reg1), load, loadMark(f.after(1)), isIn(mapRanges),
				verdict(expr.VerdictReturn, "")),
		})
	}
	return out
}

// maskedAddress loads the first bits of an address, as text and as expressions.
func (f family) maskedAddress(word string, reg uint32, bits int) (string, []expr.Any) {
	offset := f.source()
	if word == "daddr" {
		offset = f.destination()
	}
	text := f.String() + " " + word
	if bits == int(8*f.size()) {
		return text, f.load(reg, offset)
	}
	mask := f.mask(bits)
	a, _ := netip.AddrFromSlice(mask)
	return fmt.Sprintf("%s & %s", text, a), join(f.load(reg, offset), masked(reg, mask))
}

func loadPriority(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg}}
}

func setPriority() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: reg1}}
}

func noPriority() []expr.Any { return join(loadPriority(reg1), compare(expr.CmpOpEq, native(0))) }

// blockRules give a peer that is no pod the class of the longest block that holds it.
func blockRules(f family, used lengths, word string) []rule {
	var out []rule
	for bits := len(used) - 1; bits >= 0; bits-- {
		if !used[bits] {
			continue
		}
		text, load := f.maskedAddress(word, word0, bits)
		out = append(out, setMarkTo(bits), rule{
			text:  fmt.Sprintf("meta priority none meta priority set %s . meta mark map @%s", text, mapBlocks),
			exprs: join(noPriority(), load, loadMark(f.after(0)), mapped(mapBlocks), setPriority()),
		})
	}
	return out
}

// permitRules take the mark away from what the pair of classes permits. With no element for the pair, the mark stays the
// target's class, whose own permissions are those for everyone.
func permitRules(used lengths) []rule {
	clear := join(immediate(0), setMark())
	out := []rule{
		{
			text:  fmt.Sprintf("meta mark set meta mark . meta priority map @%s", mapPairs),
			exprs: join(loadMark(reg1), loadPriority(word1), mapped(mapPairs), setMark()),
		},
		{text: fmt.Sprintf("meta mark @%s meta mark set 0", mapPermitAll), exprs: join(loadMark(reg1), isIn(mapPermitAll), clear)},
		{
			text:  fmt.Sprintf("meta mark . meta l4proto @%s meta mark set 0", mapPermitProtocol),
			exprs: join(loadMark(reg1), loadProto(word1), isIn(mapPermitProtocol), clear),
		},
	}
	for bits := 16; bits > 0; bits-- {
		if !used[bits] {
			continue
		}
		port, load := "th dport", loadPort(word0+3)
		if bits < 16 {
			mask := uint16(0xffff) << (16 - bits)
			port = fmt.Sprintf("th dport & %d", mask)
			load = join(load, masked(word0+3, binary.BigEndian.AppendUint16(nil, mask)))
		}
		out = append(out,
			rule{text: fmt.Sprintf("meta priority set %s", classid(bits)), exprs: join(immediate(uint32(bits)), setPriority())},
			rule{
				text: fmt.Sprintf("meta mark . meta priority . meta l4proto . %s @%s meta mark set 0", port, mapPermitPort),
				exprs: join(loadMark(reg1), loadPriority(word1), loadProto(word2), load, isIn(mapPermitPort),
					clear),
			})
	}
	return out
}

// classid is a number as nft writes the packet's priority, which the policies use as their second register.
func classid(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("%x:%x", uint32(n)>>16, uint16(n))
}

// policyChains judge new connections of this node's isolated pods, what they begin first. Traffic of the node itself takes no
// part: Kubernetes always lets a pod's node through. A pod that reaches itself is let through too.
func policyChains(f family) []chain {
	isolated := func(word, name, to string, load func(uint32) []expr.Any) []rule {
		return []rule{clearMark(), {
			text:  fmt.Sprintf("meta mark set %s %s map @%s", f, word, name),
			exprs: join(load(reg1), mapped(name), setMark()),
		}, {
			text:  "meta mark != 0 jump " + to,
			exprs: join(loadMark(reg1), compare(expr.CmpOpNeq, native(0)), verdict(expr.VerdictJump, to)),
		}}
	}
	judge := func(target, peer, name, blocks string, loadTarget, loadPeer func(uint32) []expr.Any) []rule {
		return []rule{
			{text: "meta priority set none", exprs: join(immediate(0), setPriority())},
			{
				text:  fmt.Sprintf("meta priority set %s %s map @%s", f, peer, mapPeers),
				exprs: join(loadPeer(reg1), mapped(mapPeers), setPriority()),
			},
			{text: "meta priority none jump " + blocks, exprs: join(noPriority(), verdict(expr.VerdictJump, blocks))},
			{
				text:  fmt.Sprintf("meta mark set %s %s map @%s", f, target, name),
				exprs: join(loadTarget(reg1), mapped(name), setMark()),
			},
			{text: "jump " + chainPermit, exprs: verdict(expr.VerdictJump, chainPermit)},
			{text: "meta priority set none", exprs: join(immediate(0), setPriority())},
			{text: "meta mark != 0 drop", exprs: join(loadMark(reg1), compare(expr.CmpOpNeq, native(0)), verdict(expr.VerdictDrop, ""))},
		}
	}
	all := []rule{{
		text:  fmt.Sprintf("%[1]s saddr . %[1]s daddr @%[2]s return", f, mapHairpin),
		exprs: join(f.loadSource(reg1), f.loadDestination(f.after(0)), isIn(mapHairpin), verdict(expr.VerdictReturn, "")),
	}}
	all = append(all, isolated("saddr", mapIsolatedOut, "policy-out", f.loadSource)...)
	all = append(all, isolated("daddr", mapIsolatedIn, "policy-in", f.loadDestination)...)
	return []chain{
		{name: "policies", rules: all},
		{name: "policy-out", rules: judge("saddr", "daddr", mapIsolatedOut, chainBlocksOut, f.loadSource, f.loadDestination)},
		{name: "policy-in", rules: judge("daddr", "saddr", mapIsolatedIn, chainBlocksIn, f.loadDestination, f.loadSource)},
	}
}
