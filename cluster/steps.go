package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/apiserver"
	"kubarium.dev/controller"
	"kubarium.dev/dns"
	"kubarium.dev/node"
	"kubarium.dev/node/image"
	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

// step is one stage of the start. ctx bounds the stage; run is the life of what it starts.
type step struct {
	name string
	do   func(ctx, run context.Context) error
}

func (c *Cluster) steps() []step {
	return []step{
		{"store", c.openStore},
		{"certificates", c.makeCertificates},
		{"network", c.wireNetwork},
		{"nodes", c.addNodes},
		{"initial objects", c.giveBirth},
		{"API server", c.serveAPI},
		{"controllers, DNS, proxies", c.runRoles},
		{"ingress", c.serveIngress},
		{"loopback", c.publishAll},
		{"programmed", c.awaitUsable},
	}
}

func (c *Cluster) openStore(_, _ context.Context) error {
	if err := os.MkdirAll(c.o.StateDir, 0o700); err != nil {
		return err
	}
	s, err := store.Open(filepath.Join(c.o.StateDir, "cluster.db"), store.Options{Now: c.o.Now})
	if err != nil {
		return err
	}
	c.store = s
	c.onClose(s.Close)
	return c.openImages()
}

// openImages takes up what was loaded before, and the configuration's rules.
func (c *Cluster) openImages() error {
	var err error
	if c.images, err = image.Open(filepath.Join(c.o.StateDir, "images")); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	var rules []image.Rule
	for _, r := range c.o.Config.Images {
		rules = append(rules, image.Rule(r))
	}
	c.images.SetRules(rules)
	return nil
}

// makeCertificates claims the loopback block first: the server's certificate names its address.
func (c *Cluster) makeCertificates(_, run context.Context) error {
	path := filepath.Join(c.o.StateDir, "block")
	b, ln, err := claimBlock(readBlock(path))
	if err != nil {
		return err
	}
	c.block = b
	c.onClose(func() error { ln.Close(); return nil })
	if err := os.WriteFile(path, []byte(strconv.Itoa(int(b))), 0o600); err != nil {
		return err
	}
	hosts := []string{b.api().Addr().String(), nth(c.o.Config.Networks.Services, 1).String()}
	for i := range c.o.Config.Nodes {
		hosts = append(hosts, c.o.Config.Networks.nodeAddress(i).String())
	}
	c.authority, err = apiserver.LoadOrCreateAuthority(c.o.StateDir, hosts...)
	if err != nil {
		return err
	}
	c.apiListeners = append(c.apiListeners, ln)
	return nil
}

func readBlock(path string) block {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || n < firstBlock || n > lastBlock {
		return 0
	}
	return block(n)
}

func (c *Cluster) wireNetwork(ctx, _ context.Context) error {
	n := c.o.Config.Networks
	f, err := node.NewFabric(ctx, node.FabricConfig{
		Nodes: n.Nodes, Services: n.Services, DNS: n.DNS, Log: c.o.Log,
	})
	if err != nil {
		return err
	}
	c.fabric = f
	c.onClose(f.Close)
	return nil
}

func (c *Cluster) addNodes(ctx, _ context.Context) error {
	for i := range c.o.Config.Nodes {
		if err := c.addNode(ctx, i); err != nil {
			return fmt.Errorf("node %s: %w", c.o.Config.Nodes[i].Name, err)
		}
	}
	return nil
}

func (c *Cluster) addNode(ctx context.Context, i int) error {
	nets, nc := c.o.Config.Networks, c.o.Config.Nodes[i]
	m := &machine{name: nc.Name, address: nets.nodeAddress(i), loopback: c.block.node(i), pods: nets.podRange(i)}
	labels := map[string]string{"kubernetes.io/hostname": nc.Name, "kubernetes.io/os": "linux"}
	if nc.Zone != "" {
		labels["topology.kubernetes.io/zone"] = nc.Zone
	}
	for k, v := range nc.Labels {
		labels[k] = v
	}
	var err error
	m.Node, err = c.fabric.AddNode(ctx, node.NodeConfig{
		Name: nc.Name, Address: m.address, PodCIDR: m.pods, Labels: labels,
		Store: c.store, Log: c.o.Log.With("node", nc.Name), ClusterDNS: nets.DNS, ClusterDomain: c.o.Config.ClusterDomain,
		Programmed: c.terminationBarrier(), Executable: c.o.Program, StateDir: c.o.StateDir, Images: c.images, Now: c.o.Now,
	})
	if err != nil {
		return err
	}
	m.proxy, err = proxy.New(proxy.Config{
		Node: nc.Name, NS: m.NS(), NodeAddresses: []netip.Addr{m.address}, PodCIDR: nets.Pods, ServiceCIDR: nets.Services,
		DNSAddress: nets.DNS, Reader: c.store, Log: c.o.Log.With("node", nc.Name),
	})
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, m)
	return nil
}

// terminationBarrier is what a node waits for before it ends a pod's processes.
func (c *Cluster) terminationBarrier() func(context.Context, uint64) error {
	if c.o.Config.TerminationOrder == orderKubernetes {
		return func(context.Context, uint64) error { return nil }
	}
	return c.Programmed
}

func (c *Cluster) giveBirth(ctx, _ context.Context) error {
	nets := c.o.Config.Networks
	b := controller.BirthConfig{ServiceCIDR: nets.Services, DNSAddress: nets.DNS, APIPort: apiPort}
	for _, m := range c.nodes {
		b.Nodes = append(b.Nodes, controller.BirthNode{Name: m.name, Address: m.address})
	}
	if err := controller.Birth(ctx, c.store, b); err != nil {
		return err
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		for _, role := range apiserver.StandingRoles() {
			if err := tx.Create(role); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
		return nil
	})
	return err
}

func (c *Cluster) serveAPI(ctx, run context.Context) error {
	var err error
	c.api, err = apiserver.New(apiserver.Config{
		Store: c.store, Authority: c.authority, Log: c.o.Log, Services: c.o.Config.Networks.Services, Version: c.o.Version,
		Exec: c, Logs: c, Attach: c, Forward: c, Extra: c.extra(), Now: c.o.Now,
	})
	if err != nil {
		return err
	}
	for _, m := range c.nodes {
		ln, err := m.NS().Listen(ctx, "tcp4", netip.AddrPortFrom(m.address, apiPort).String())
		if err != nil {
			return err
		}
		c.apiListeners = append(c.apiListeners, ln)
	}
	for _, ln := range c.apiListeners {
		c.group.Go(func() error { return c.api.Serve(run, ln, c.authority.ServerTLS()) })
	}
	return nil
}

func (c *Cluster) runRoles(ctx, run context.Context) error {
	nets := c.o.Config.Networks
	c.manager = controller.New(controller.Config{Store: c.store, Log: c.o.Log, Now: c.o.Now, ClusterDomain: c.o.Config.ClusterDomain})
	c.dns = dns.New(dns.Config{
		Reader: c.store, Domain: c.o.Config.ClusterDomain, Reverse: []netip.Prefix{nets.Services, nets.Pods}, Log: c.o.Log,
	})
	c.consumers = append(c.consumers, consumer{"DNS", c.dns.Progress()})
	c.group.Go(func() error { return c.manager.Run(run) })
	c.group.Go(func() error { return c.dns.Run(run) })

	for _, m := range c.nodes {
		if err := c.serveDNS(ctx, run, m, nets.DNS); err != nil {
			return fmt.Errorf("DNS on node %s: %w", m.name, err)
		}
		c.group.Go(func() error { return m.proxy.Run(run) })
		c.group.Go(func() error { return m.Run(run) })
		c.consumers = append(c.consumers, consumer{"the ruleset of node " + m.name, m.proxy.Progress()})
	}
	return nil
}

// publishAll leads the host's loopback to the nodes' ports.
func (c *Cluster) publishAll(_, run context.Context) error {
	var nodes []publishedNode
	for _, m := range c.nodes {
		nodes = append(nodes, publishedNode{loopback: m.loopback, node: m.address})
	}
	c.publish = newPublisher(c.store, c.o.Log, nodes, c.Outside)
	c.publish.always = c.ingressRows()
	c.consumers = append(c.consumers, consumer{"the loopback forwarders", &c.publish.progress})
	c.group.Go(func() error { return c.publish.Run(run) })
	return nil
}

func (c *Cluster) serveDNS(ctx, run context.Context, m *machine, addr netip.Addr) error {
	at := netip.AddrPortFrom(addr, 53).String()
	pc, err := m.NS().ListenPacket(ctx, "udp4", at)
	if err != nil {
		return err
	}
	ln, err := m.NS().Listen(ctx, "tcp4", at)
	if err != nil {
		pc.Close()
		return err
	}
	c.group.Go(func() error { return c.dns.Serve(run, pc, ln) })
	return nil
}

// awaitUsable returns when what is in the store is in effect: from a pod's place a name resolves, and its Service answers.
func (c *Cluster) awaitUsable(ctx, _ context.Context) error {
	for _, m := range c.nodes {
		if err := m.Registered(ctx); err != nil {
			return fmt.Errorf("node %s: %w", m.name, err)
		}
	}
	if err := c.Programmed(ctx, c.store.Revision()); err != nil {
		return err
	}
	return c.nodes[0].FromPod(ctx, func(dial node.DialFunc) error {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, c.DNS().String())
		}}
		ips, err := r.LookupHost(ctx, "kubernetes.default.svc."+c.o.Config.ClusterDomain+".")
		if err != nil {
			return err
		}
		conn, err := dial(ctx, "tcp", net.JoinHostPort(ips[0], "443"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
