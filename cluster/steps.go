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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/apiserver"
	"kubarium.dev/controller"
	"kubarium.dev/node"
	"kubarium.dev/node/image"
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
		{"controllers and servers", c.runRoles},
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
func (c *Cluster) makeCertificates(ctx, _ context.Context) error {
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
	if c.first, err = c.members(ctx); err != nil {
		return err
	}
	for _, m := range c.first {
		hosts = append(hosts, c.o.Config.Networks.nodeAddress(m.number).String())
	}
	c.authority, err = apiserver.LoadOrCreateAuthority(c.o.StateDir, hosts...)
	if err != nil {
		return err
	}
	c.apiListener = ln
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
		Nodes: n.Nodes, Services: n.Services, DNS: n.DNS, LoadBalancers: n.LoadBalancers, Log: c.o.Log, Executable: c.o.Program,
	})
	if err != nil {
		return err
	}
	c.fabric = f
	c.balancer = newBalancer(c.store.Ahead(), c.o.Log, n.LoadBalancers, f)
	c.onClose(f.Close)
	return nil
}

func (c *Cluster) addNodes(ctx, run context.Context) error {
	c.life = run
	for _, m := range c.first {
		if _, err := c.join(ctx, run, m); err != nil {
			return fmt.Errorf("node %s: %w", m.Name, err)
		}
	}
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
	if err := c.tellAddresses(ctx); err != nil {
		return err
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		for _, obj := range apiserver.StandingObjects(c.o.Config.Networks.Services) {
			if err := tx.Create(obj); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
		return nil
	})
	return err
}

func (c *Cluster) serveAPI(_, run context.Context) error {
	var err error
	c.api, err = apiserver.New(apiserver.Config{
		Store: c.store, Authority: c.authority, Log: c.o.Log, Services: c.o.Config.Networks.Services, Version: c.o.Version,
		Exec: c, Logs: c, Attach: c, Forward: c, Dial: c.dialFromNode, Extra: c.extra(), Now: c.o.Now, MountTokens: true,
		Toleration: controller.Toleration(time.Duration(c.o.Config.NodeGrace)),
	})
	if err != nil {
		return err
	}
	c.group.Go(func() error { return c.api.Serve(run, c.apiListener, c.authority.ServerTLS()) })
	return nil
}

func (c *Cluster) runRoles(ctx, run context.Context) error {
	c.manager = controller.New(controller.Config{
		Store: c.store, Log: c.o.Log, Now: c.o.Now, ClusterDomain: c.o.Config.ClusterDomain, NodeGrace: time.Duration(c.o.Config.NodeGrace),
		LoadBalancers: []netip.Prefix{c.o.Config.Networks.LoadBalancers}, RootCA: string(c.authority.CA),
		MountTokens: true, Admit: apiserver.Admit,
	})
	c.serveNames(run)
	c.group.Go(func() error { return c.manager.Run(run) })

	c.serveIngress(run)
	c.consumers = append(c.consumers, consumer{"the load balancer", &c.balancer.progress})
	c.group.Go(func() error { return c.balancer.Run(run) })
	for _, m := range c.machines() {
		if err := c.run(ctx, m); err != nil {
			return fmt.Errorf("node %s: %w", m.Name, err)
		}
	}
	return nil
}

// publishAll leads the host's loopback to the nodes' ports.
func (c *Cluster) publishAll(_, run context.Context) error {
	c.publish = newPublisher(c)
	c.consumers = append(c.consumers, consumer{"the loopback forwarders", &c.publish.progress})
	c.group.Go(func() error { return c.publish.Run(run) })
	return nil
}

// awaitUsable returns when what is in the store is in effect: from a pod's place a name resolves, and its Service answers.
func (c *Cluster) awaitUsable(ctx, _ context.Context) error {
	for _, m := range c.machines() {
		if err := m.Registered(ctx); err != nil {
			return fmt.Errorf("node %s: %w", m.Name, err)
		}
	}
	if err := c.Programmed(ctx, c.store.Revision()); err != nil {
		return err
	}
	return c.anyMachine().FromPod(ctx, func(dial node.DialFunc) error {
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
