package bench

import "context"

// The layouts' names, as the results have them.
const (
	LayoutLegacy   = "iptables-legacy"
	LayoutIptables = "iptables"
	LayoutChains   = "nft chains"
	LayoutOurs     = "kubarium"
)

// Explain says in a few words what a layout is.
func Explain(layout string) string {
	return map[string]string{
		LayoutLegacy:   "kube-proxy's iptables rules in the kernel's old tables",
		LayoutIptables: "kube-proxy's iptables rules, by the machine's iptables",
		LayoutChains:   "kube-proxy's nftables mode: a chain for each Service and endpoint",
		LayoutOurs:     "this program's proxy: shared chains, map elements for the rest",
	}[layout]
}

// layouts are all that are compared. The old tables are a layout of their own where the machine's iptables speaks to the new ones.
func layouts(ctx context.Context) []layout {
	needs := func(names ...string) func() error {
		return func() error {
			for _, name := range names {
				if _, err := tool(name); err != nil {
					return err
				}
			}
			return nil
		}
	}
	rules := func(name string) layout {
		return layout{
			name: name, check: needs(name, name+"-restore"),
			open: func(ctx context.Context, r *rig, n int) (table, error) {
				t := iptables{rig: r, prefix: name, held: n}
				if legacyTables(ctx, name) {
					return &legacy{t}, nil
				}
				return &t, nil
			},
		}
	}
	all := []layout{
		rules(LayoutIptables),
		{name: LayoutChains, check: needs("nft"), open: func(_ context.Context, r *rig, n int) (table, error) { return &chains{r, n}, nil }},
		{name: LayoutOurs, check: needs(), open: openOurs},
	}
	if old := rules(LayoutLegacy); old.check() == nil && !legacyTables(ctx, LayoutIptables) {
		all = append([]layout{old}, all...)
	}
	return all
}
