// Package bench compares ways to do Services in the kernel, and holds the benchmarks behind docs/figures.md.
//
//	result, err := bench.Services(ctx, bench.Options{Services: []int{1000, 5000}})
//	result.SVG(file)
//
// Services builds the same Services with the same endpoints several times: as iptables rules and as nftables chains in the
// layouts of kube-proxy, and with this program's own proxy; each in network namespaces of its own, with a client and a
// listener, so that what is measured is seen to work. It needs to be allowed to make namespaces, touches nothing of the
// host's, and leaves nothing when it returns, whether it ended or its context did.
//
// It does not measure the API, DNS or the controllers: the package's benchmarks do, over a whole cluster.
package bench
