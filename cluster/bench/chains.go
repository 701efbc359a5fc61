package bench

import (
	"context"
	"fmt"
	"strings"
)

// chains is kube-proxy's nftables mode: a verdict map (service-ips) leads to a chain for each Service, and that to one for each
// endpoint. It is loaded by nft, which kube-proxy runs too.
type chains struct {
	rig *rig
	n   int
}

const chainsTable = "kube-proxy"

// chainsFrame is what there is without any Service.
const chainsFrame = `
add table ip kube-proxy
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add chain ip kube-proxy services
add chain ip kube-proxy masquerading
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority srcnat ; }
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy mark-for-masquerade meta mark set meta mark or 0x4000
add rule ip kube-proxy masquerading meta mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading meta mark set meta mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
`

func (t *chains) load(ctx context.Context) error {
	var b rules
	b.WriteString(chainsFrame)
	for i := range t.n {
		t.service(&b, i)
	}
	return t.rig.run(ctx, b.Bytes(), "nft", "-f", "-")
}

func (t *chains) add(ctx context.Context, i int) error {
	var b rules
	t.service(&b, i)
	return t.rig.run(ctx, b.Bytes(), "nft", "-f", "-")
}

// service writes the chains and the elements of one Service.
func (t *chains) service(b *rules, i int) {
	at := t.rig.service(i)
	chain := fmt.Sprintf("service-%s-default/%s/tcp/", hash(serviceName(i))[:8], serviceName(i))
	targets := make([]string, t.rig.endpoints)
	for j := range targets {
		to := t.rig.endpoint(i, j)
		name := fmt.Sprintf("endpoint-%s-default/%s/tcp/__%s/%d", hash(to.String())[:8], serviceName(i), to.Addr(), to.Port())
		b.line("add chain ip %s %s", chainsTable, name)
		b.line("add rule ip %s %s ip saddr %s jump mark-for-masquerade", chainsTable, name, to.Addr())
		b.line("add rule ip %s %s meta l4proto tcp dnat to %s", chainsTable, name, to)
		targets[j] = fmt.Sprintf("%d : goto %s", j, name)
	}
	b.line("add chain ip %s %s", chainsTable, chain)
	b.line("add rule ip %s %s ip daddr %s tcp dport %d ip saddr != %s jump mark-for-masquerade", chainsTable, chain, at.Addr(), at.Port(), podsCIDR)
	b.line("add rule ip %s %s numgen random mod %d vmap { %s }", chainsTable, chain, len(targets), strings.Join(targets, ", "))
	b.line("add element ip %s cluster-ips { %s }", chainsTable, at.Addr())
	b.line("add element ip %s service-ips { %s . tcp . %d : goto %s }", chainsTable, at.Addr(), at.Port(), chain)
}
