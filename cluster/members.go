package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"kubarium.dev/api"
	"kubarium.dev/apiserver"
	"kubarium.dev/controller"
	"kubarium.dev/node"
	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

// member is a node that belongs to the cluster. Its number, from 0, decides its addresses.
type member struct {
	NodeConfig
	number int
}

const (
	defaultNodes = 2
	maxNodes     = 200
)

// members are the nodes to start: those of the store, and those that the options name or count beyond them.
func (c *Cluster) members(ctx context.Context) ([]member, error) {
	list, err := c.store.List(ctx, api.Nodes, store.Query{})
	if err != nil {
		return nil, err
	}
	var all []member
	for _, n := range store.All[*corev1.Node](list.Items) {
		if number, ok := c.o.Config.Networks.nodeNumber(n); ok {
			all = append(all, member{NodeConfig{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone], Labels: n.Labels}, number})
		}
	}
	want := c.o.Nodes
	if want == 0 && len(all) == 0 {
		want = defaultNodes
	}
	for _, n := range c.o.Config.Nodes {
		if named(all, n.Name) < 0 {
			all = append(all, member{n, vacant(all)})
		}
	}
	for len(c.o.Config.Nodes) == 0 && len(all) < want {
		number := vacant(all)
		all = append(all, member{NodeConfig{Name: defaultNodeName(number)}, number})
	}
	slices.SortFunc(all, func(a, b member) int { return a.number - b.number })
	return all, nil
}

func defaultNodeName(number int) string { return fmt.Sprintf("n%d", number+1) }

func named(all []member, name string) int {
	return slices.IndexFunc(all, func(m member) bool { return m.Name == name })
}

// vacant is the lowest number that no member has.
func vacant(all []member) int {
	number := 0
	for slices.ContainsFunc(all, func(m member) bool { return m.number == number }) {
		number++
	}
	return number
}

// nodeNumber is what a Node's address says of its number; false for an address that is not in the nodes' range.
func (n Networks) nodeNumber(node *corev1.Node) (int, bool) {
	for _, a := range node.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if i, ok := number(n.Nodes, ip); ok && i >= firstNode && i < firstNode+maxNodes {
			return i - firstNode, true
		}
	}
	return 0, false
}

// join puts a member on the wire. Nothing runs on it yet.
func (c *Cluster) join(ctx, run context.Context, is member) (*machine, error) {
	nets := c.o.Config.Networks
	m := &machine{
		member: is, address: nets.nodeAddress(is.number), loopback: c.block.node(is.number), pods: nets.podRange(is.number),
	}
	m.belongs, m.remove = context.WithCancel(run)
	labels := map[string]string{corev1.LabelHostname: is.Name, corev1.LabelOSStable: "linux"}
	if is.Zone != "" {
		labels[corev1.LabelTopologyZone] = is.Zone
	}
	for k, v := range is.Labels {
		labels[k] = v
	}
	log := c.o.Log.With("node", is.Name)
	var err error
	m.Node, err = c.fabric.AddNode(ctx, node.NodeConfig{
		Name: is.Name, Address: m.address, PodCIDR: m.pods, Labels: labels,
		Store: c.store, Log: log, ClusterDNS: nets.DNS, ClusterDomain: c.o.Config.ClusterDomain,
		Programmed: c.terminationBarrier(), Isolated: c.isolation(is.Name), StateDir: c.o.StateDir, Images: c.images, Now: c.o.Now,
		Lease: time.Duration(c.o.Config.NodeGrace), HostPaths: c.o.Config.HostPaths,
		Token: func(ctx context.Context, r node.TokenRequest) (string, error) {
			return c.api.Token(ctx, apiserver.TokenRequest(r))
		},
	})
	if err != nil {
		return nil, err
	}
	m.proxy, err = proxy.New(proxy.Config{
		Node: is.Name, NS: m.NS(), NodeAddresses: []netip.Addr{m.address}, NodePortAddresses: c.o.Config.NodePortAddresses,
		PodCIDR: nets.Pods, ServiceCIDR: nets.Services,
		DNSAddress: nets.DNS, Reader: heard{c.store.Ahead(), m.Connected}, Log: log,
		OnHealth: func(service types.NamespacedName, answers bool) { c.balancer.Health(service, is.Name, answers) },
	})
	if err != nil {
		return nil, errors.Join(err, c.fabric.RemoveNode(m.Node))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(slices.Clone(c.nodes), m)
	slices.SortFunc(c.nodes, func(a, b *machine) int { return a.number - b.number })
	return m, nil
}

// run begins a machine's membership: its life, and its pods.
func (c *Cluster) run(ctx context.Context, m *machine) error {
	if err := c.switchOn(ctx, m); err != nil {
		return err
	}
	m.ran = make(chan struct{})
	c.group.Go(func() error {
		defer close(m.ran)
		return endOf(m.belongs, m.Run(m.belongs))
	})
	return nil
}

// AddNode adds a node and returns when it is Ready; without a name it gets the next of n1, n2, ... It stays through restarts.
// Errors: a name that is no DNS label or is taken, and too many nodes.
func (c *Cluster) AddNode(ctx context.Context, n NodeConfig) (NodeStatus, error) {
	c.membership.Lock()
	defer c.membership.Unlock()
	var all []member
	for _, m := range c.machines() {
		all = append(all, m.member)
	}
	number := vacant(all)
	for i := number; n.Name == ""; i++ {
		if named(all, defaultNodeName(i)) < 0 {
			n.Name = defaultNodeName(i)
		}
	}
	if msgs := validation.IsDNS1123Label(n.Name); len(msgs) > 0 {
		return NodeStatus{}, apierrors.NewBadRequest(fmt.Sprintf("node name %q: %s", n.Name, msgs[0]))
	}
	if named(all, n.Name) >= 0 {
		return NodeStatus{}, apierrors.NewAlreadyExists(api.Nodes.GroupResource(), n.Name)
	}
	if len(all) >= maxNodes {
		return NodeStatus{}, apierrors.NewBadRequest(fmt.Sprintf("the cluster has %d nodes, and cannot have more", maxNodes))
	}
	m, err := c.join(ctx, c.life, member{n, number})
	if err != nil {
		return NodeStatus{}, err
	}
	if err := c.run(ctx, m); err != nil {
		return NodeStatus{}, errors.Join(err, c.drop(ctx, m))
	}
	if err := m.Registered(ctx); err != nil {
		return NodeStatus{}, err
	}
	if err := c.tellAddresses(ctx); err != nil {
		return NodeStatus{}, err
	}
	return c.nodeStatus(ctx, m)
}

// RemoveNode takes a node away for good, as after a power cut, and its Node object with it: controllers replace its pods. The last
// node stays.
func (c *Cluster) RemoveNode(ctx context.Context, name string) error {
	c.membership.Lock()
	defer c.membership.Unlock()
	m, err := c.machine(name)
	if err != nil {
		return err
	}
	if len(c.machines()) == 1 {
		return apierrors.NewBadRequest("node " + name + " is the last one; take the cluster down instead")
	}
	if err := c.drop(ctx, m); err != nil {
		return err
	}
	_, err = c.store.Update(ctx, func(tx *store.Tx) error {
		for _, k := range []struct {
			kind      *api.Kind
			namespace string
		}{{api.Nodes, ""}, {api.Leases, corev1.NamespaceNodeLease}} {
			obj, err := tx.Get(k.kind, k.namespace, name)
			if err == nil {
				err = tx.Remove(obj)
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, c.tellAddresses(ctx))
}

// drop ends what runs on a machine and takes it off the wire.
func (c *Cluster) drop(_ context.Context, m *machine) error {
	c.mu.Lock()
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(other *machine) bool { return other == m })
	c.mu.Unlock()
	m.remove()
	c.switchOff(m)
	if m.ran != nil {
		<-m.ran
	}
	return c.fabric.RemoveNode(m.Node)
}

// StopNode takes a node's power away: its pods die without a word, and nobody reaches it. A node without power stays so.
func (c *Cluster) StopNode(ctx context.Context, name string) error {
	return c.change(ctx, name, func(m *machine) error {
		if m.life == nil {
			return nil
		}
		err := m.Stop()
		c.switchOff(m)
		return err
	})
}

// StartNode gives a node its power back; it returns when the node has registered again.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	return c.change(ctx, name, func(m *machine) error {
		if m.life != nil {
			return nil
		}
		if err := m.Start(); err != nil {
			return err
		}
		return c.switchOn(ctx, m)
	})
}

// change does something to one node, and tells the rest where the API and DNS are reached now.
func (c *Cluster) change(ctx context.Context, name string, do func(*machine) error) error {
	c.membership.Lock()
	defer c.membership.Unlock()
	m, err := c.machine(name)
	if err != nil {
		return err
	}
	if err := do(m); err != nil {
		return err
	}
	return c.tellAddresses(ctx)
}

// Partition with one name cuts that node off from all others, from outside and from the control plane: its pods run on, and it hears of
// no change. With two names these nodes lose each other, and nothing else.
func (c *Cluster) Partition(ctx context.Context, names ...string) error {
	if len(names) == 2 {
		return c.fabric.Separate(names[0], names[1])
	}
	if len(names) != 1 {
		return apierrors.NewBadRequest("a partition is of one node or of two")
	}
	return c.change(ctx, names[0], func(m *machine) error {
		if err := c.fabric.Partition(names[0]); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		m.disconnect()
		return nil
	})
}

// Heal ends partitions: of two nodes that lost each other, or of all nodes that were cut off.
func (c *Cluster) Heal(ctx context.Context, names ...string) error {
	c.membership.Lock()
	defer c.membership.Unlock()
	if len(names) == 2 {
		return c.fabric.Reunite(names[0], names[1])
	}
	if err := c.fabric.Heal(); err != nil {
		return err
	}
	c.mu.Lock()
	for _, m := range c.nodes {
		m.connect()
	}
	c.mu.Unlock()
	return c.tellAddresses(ctx)
}

// tellAddresses brings the Services of the API and of DNS up to date with the nodes that are connected.
func (c *Cluster) tellAddresses(ctx context.Context) error {
	nets := c.o.Config.Networks
	b := controller.BirthConfig{ServiceCIDR: nets.Services, DNSAddress: nets.DNS, APIPort: apiPort}
	connected := c.connected()
	for _, m := range c.machines() {
		if connected[m] != nil || len(connected) == 0 {
			b.Nodes = append(b.Nodes, controller.BirthNode{Name: m.Name, Address: m.address})
		}
	}
	if err := controller.Birth(ctx, c.store, b); err != nil {
		return err
	}
	return c.tellIngress(ctx, b.Nodes)
}

// Config is the configuration in effect: defaults filled in, and the nodes of this moment.
func (c *Cluster) Config() Config {
	conf := c.o.Config
	conf.APIVersion, conf.Kind, conf.Nodes = configAPIVersion, configKind, nil
	for _, m := range c.machines() {
		conf.Nodes = append(conf.Nodes, NodeConfig{Name: m.Name, Zone: m.Zone, Labels: m.Labels})
	}
	return conf
}
