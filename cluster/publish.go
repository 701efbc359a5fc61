package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/node"
	"kubarium.dev/store"
)

// Published is one row of the table of what the host's loopback leads to.
type Published struct {
	Service  string         `json:"service"`  // namespace/name:port
	Protocol string         `json:"protocol"` // TCP or UDP
	Host     netip.AddrPort `json:"host"`     // where the host reaches it
	Target   netip.AddrPort `json:"target"`   // where `outside` reaches it
	Problem  string         `json:"problem,omitempty"`
}

// publisher keeps one forwarder on the host's loopback for the ingress and every NodePort of every node, and for every port of
// every load-balancer address. A forwarder dials from the `outside` namespace, so that what comes through it enters the cluster
// as a client from outside does.
type publisher struct {
	reader   store.Reader
	log      *slog.Logger
	networks Networks
	block    block
	dial     node.DialFunc // from `outside`
	first    uint16        // port that may be bound on the host
	progress store.Progress

	nodes    map[string]publishedNode // by name; Run's own
	services map[types.NamespacedName]*corev1.Service

	mu   sync.Mutex // guards rows
	rows map[publishKey]*forward
}

// publishedNode pairs a node's address with its loopback address.
type publishedNode struct{ loopback, node netip.Addr }

type publishKey struct {
	protocol string
	host     netip.AddrPort
}

// forward is one published port; with a Problem in its row nothing runs that stop could stop.
type forward struct {
	row  Published
	stop func()
}

func newPublisher(c *Cluster) *publisher {
	return &publisher{
		reader: c.store.Ahead(), log: c.o.Log, networks: c.o.Config.Networks, block: c.block, dial: c.Outside, first: UnprivilegedFrom(),
		nodes: map[string]publishedNode{}, services: map[types.NamespacedName]*corev1.Service{}, rows: map[publishKey]*forward{},
	}
}

// Run follows the nodes and Services until ctx ends, then closes every forwarder and waits for it.
func (p *publisher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer p.stopAll()

	f := store.Follow(p.reader, api.Services, api.Nodes)
	defer f.Close()
	for {
		batch, err := f.Next(ctx)
		if err != nil {
			return endOf(ctx, fmt.Errorf("publish: %w", err))
		}
		if batch.Fresh {
			p.renew(ctx, batch.Events, &running)
		} else {
			for _, e := range batch.Events {
				p.change(ctx, e, &running)
			}
		}
		p.progress.Reach(batch.Revision)
	}
}

// renew publishes what there is, and nothing else any more.
func (p *publisher) renew(ctx context.Context, all []store.Event, running *sync.WaitGroup) {
	clear(p.nodes)
	clear(p.services)
	for _, e := range all {
		switch obj := e.Object.(type) {
		case *corev1.Service:
			p.services[nameOf(obj)] = obj
		case *corev1.Node:
			if n, ok := p.placeOf(obj); ok {
				p.nodes[obj.Name] = n
			}
		}
	}
	before, after := map[publishKey]Published{}, map[publishKey]Published{}
	for _, row := range p.Table() {
		row.Problem = ""
		before[publishKey{row.Protocol, row.Host}] = row
	}
	for _, n := range p.nodes {
		maps.Copy(after, p.ingressOf(n))
	}
	for _, svc := range p.services {
		maps.Copy(after, p.wanted(svc, p.nodes))
	}
	p.replace(ctx, before, after, running)
}

// change closes what is published no longer and opens what is newly so.
func (p *publisher) change(ctx context.Context, e store.Event, running *sync.WaitGroup) {
	switch obj := e.Object.(type) {
	case *corev1.Service:
		name := nameOf(obj)
		before := p.wanted(p.services[name], p.nodes)
		if e.Type == store.Deleted {
			delete(p.services, name)
		} else {
			p.services[name] = obj
		}
		p.replace(ctx, before, p.wanted(p.services[name], p.nodes), running)
	case *corev1.Node:
		was := p.nodes[obj.Name]
		is, ok := p.placeOf(obj)
		if e.Type == store.Deleted {
			is, ok = publishedNode{}, false
		}
		if was == is {
			return // its status moves often, its address never
		}
		p.replace(ctx, p.wantedOf(obj.Name, was), p.wantedOf(obj.Name, is), running)
		if delete(p.nodes, obj.Name); ok {
			p.nodes[obj.Name] = is
		}
	}
}

func nameOf(obj api.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// placeOf is where a node is; false for one that has no address in the nodes' range.
func (p *publisher) placeOf(n *corev1.Node) (publishedNode, bool) {
	number, ok := p.networks.nodeNumber(n)
	if !ok {
		return publishedNode{}, false
	}
	return publishedNode{loopback: p.block.node(number), node: p.networks.nodeAddress(number)}, true
}

func (p *publisher) ingressOf(n publishedNode) map[publishKey]Published {
	rows := map[publishKey]Published{}
	for _, row := range ingressRows(n, p.first) {
		rows[publishKey{row.Protocol, row.Host}] = row
	}
	return rows
}

// replace stops what is in before alone and starts what is in after alone.
func (p *publisher) replace(ctx context.Context, before, after map[publishKey]Published, running *sync.WaitGroup) {
	for key := range before {
		if after[key] != before[key] {
			p.stop(key)
		}
	}
	for key, row := range after {
		if after[key] != before[key] {
			p.start(ctx, key, row, running)
		}
	}
}

// wantedOf is what one node publishes: its ingress, and the NodePorts of all Services.
func (p *publisher) wantedOf(name string, n publishedNode) map[publishKey]Published {
	if !n.node.IsValid() {
		return nil
	}
	rows := p.ingressOf(n)
	for _, svc := range p.services {
		for key, row := range p.wanted(svc, map[string]publishedNode{name: n}) {
			if row.Target.Addr() == n.node {
				rows[key] = row
			}
		}
	}
	return rows
}

// wanted is what a Service publishes: each of its NodePorts on these nodes' loopback addresses, and each of its ports on those of its
// load-balancer addresses.
func (p *publisher) wanted(svc *corev1.Service, nodes map[string]publishedNode) map[publishKey]Published {
	if svc == nil {
		return nil
	}
	rows := map[publishKey]Published{}
	publish := func(port corev1.ServicePort, host, target netip.AddrPort) {
		rows[publishKey{string(port.Protocol), host}] = Published{
			Service:  nameOf(svc).String() + ":" + portName(port),
			Protocol: string(port.Protocol), Host: host, Target: target,
		}
	}
	for _, port := range svc.Spec.Ports {
		if port.Protocol == corev1.ProtocolSCTP {
			continue
		}
		for _, n := range nodes {
			if port.NodePort != 0 {
				publish(port, netip.AddrPortFrom(n.loopback, uint16(port.NodePort)), netip.AddrPortFrom(n.node, uint16(port.NodePort)))
			}
		}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			ip, err := netip.ParseAddr(in.IP)
			if i, ok := number(p.networks.LoadBalancers, ip); err == nil && ok && i < 256 {
				at := hostPort(uint16(port.Port), p.first)
				publish(port, netip.AddrPortFrom(p.block.loadBalancer(i), at), netip.AddrPortFrom(ip, uint16(port.Port)))
			}
		}
	}
	return rows
}

func portName(p corev1.ServicePort) string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Port))
}

func (p *publisher) start(ctx context.Context, key publishKey, row Published, running *sync.WaitGroup) {
	f := &forward{row: row}
	ctx, cancel := context.WithCancel(ctx)
	f.stop = cancel
	listener, run, err := listenForward(ctx, key.protocol, row, p.dial)
	if err != nil {
		f.row.Problem = err.Error()
		p.log.Warn("a port is not published on the host", "service", row.Service, "address", row.Host, "error", err)
	} else {
		running.Go(run)
		f.stop = func() {
			listener.Close() // at once: when the barrier is passed, nobody gets in any more
			cancel()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows[key] = f
}

func (p *publisher) stop(key publishKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.rows[key]; f != nil {
		f.stop()
	}
	delete(p.rows, key)
}

func (p *publisher) stopAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.rows {
		f.stop()
	}
}

// Table lists what is published, by address.
func (p *publisher) Table() []Published {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows := make([]Published, 0, len(p.rows))
	for _, f := range p.rows {
		rows = append(rows, f.row)
	}
	slices.SortFunc(rows, func(a, b Published) int { return a.Host.Compare(b.Host) })
	return rows
}
