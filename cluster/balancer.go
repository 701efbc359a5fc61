package cluster

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// balancer is the load balancer that stands in `outside` (P-60): it spreads connections to load-balancer addresses over the nodes
// that are Ready and whose proxy does what is known, those of a Service under the Local policy over the nodes whose health check answers. A Service with ClientIP
// affinity has one of them for its address: a node remembers its own choices only.
type balancer struct {
	reader   store.Reader
	log      *slog.Logger
	network  netip.Prefix
	steer    steerer
	progress store.Progress

	mu       sync.Mutex      // guards all below
	ready    map[string]bool // nodes, as the API says
	healthy  map[string]bool // nodes whose proxy does what is known: one that got its power back has no rules at first
	services map[types.NamespacedName]balanced
	well     map[types.NamespacedName]map[string]bool // nodes whose health check answers
}

// steerer is outside's routes.
type steerer interface {
	LeadTo(nodes []string) error
	LeadAddress(a netip.Addr, nodes []string) error
}

// balanced is a Service whose addresses do not simply lead to all nodes.
type balanced struct {
	addresses     []netip.Addr
	local, sticky bool
}

func newBalancer(reader store.Reader, log *slog.Logger, network netip.Prefix, steer steerer) *balancer {
	return &balancer{
		reader: reader, log: log, network: network, steer: steer,
		ready: map[string]bool{}, healthy: map[string]bool{}, services: map[types.NamespacedName]balanced{}, well: map[types.NamespacedName]map[string]bool{},
	}
}

// Run follows the nodes and Services until ctx ends.
func (b *balancer) Run(ctx context.Context) error {
	f := store.Follow(b.reader, api.Nodes, api.Services)
	defer f.Close()
	for {
		batch, err := f.Next(ctx)
		if err != nil {
			return endOf(ctx, fmt.Errorf("load balancer: %w", err))
		}
		b.take(batch)
		b.progress.Reach(batch.Revision)
	}
}

func (b *balancer) take(batch store.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if batch.Fresh {
		b.forget(batch.Events)
	}
	moved := false
	for _, e := range batch.Events {
		switch obj := e.Object.(type) {
		case *corev1.Node:
			fit := e.Type != store.Deleted && fitForLoad(obj)
			moved = moved || fit != b.ready[obj.Name]
			if delete(b.ready, obj.Name); fit {
				b.ready[obj.Name] = true
			}
		case *corev1.Service:
			b.takeService(obj, e.Type == store.Deleted)
		}
	}
	if moved || batch.Fresh {
		b.leadAll()
	}
}

func (b *balancer) leadAll() {
	b.tell(b.steer.LeadTo(b.readyOf(b.ready)))
	for name := range b.services {
		b.lead(name)
	}
}

// forget drops what a list does not hold any more.
func (b *balancer) forget(all []store.Event) {
	there := map[types.NamespacedName]bool{}
	for _, e := range all {
		there[nameOf(e.Object)] = true
	}
	clear(b.ready)
	for name, s := range b.services {
		if !there[name] {
			b.release(s.addresses)
			delete(b.services, name)
		}
	}
}

// fitForLoad tells whether a load balancer may send to a node, as Kubernetes' service controller has it.
func fitForLoad(n *corev1.Node) bool {
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (b *balancer) takeService(svc *corev1.Service, gone bool) {
	name, next := nameOf(svc), balanced{}
	if !gone && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		next.local = svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
		next.sticky = svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
	}
	if next.local || next.sticky {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(in.IP); err == nil && b.network.Contains(a) {
				next.addresses = append(next.addresses, a)
			}
		}
	}
	b.release(slices.DeleteFunc(slices.Clone(b.services[name].addresses), func(a netip.Addr) bool {
		return slices.Contains(next.addresses, a)
	}))
	if delete(b.services, name); len(next.addresses) > 0 {
		b.services[name] = next
		b.lead(name)
	}
}

func (b *balancer) release(addresses []netip.Addr) {
	for _, a := range addresses {
		b.tell(b.steer.LeadAddress(a, nil))
	}
}

// Health takes what a node's health check of a Service under the Local policy answers now, or, with the zero name, whether its proxy
// does what is known. It takes effect before it returns.
func (b *balancer) Health(service types.NamespacedName, node string, answers bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if service == (types.NamespacedName{}) {
		b.healthy[node] = answers
		b.leadAll()
		return
	}
	if b.well[service] == nil {
		b.well[service] = map[string]bool{}
	}
	if answers {
		b.well[service][node] = true
	} else {
		delete(b.well[service], node)
	}
	if len(b.well[service]) == 0 {
		delete(b.well, service)
	}
	b.lead(service)
}

// lead leads the addresses of a Service to the nodes that they belong to; when there are none, to all: a packet is dropped there, as
// the policy wants it.
func (b *balancer) lead(name types.NamespacedName) {
	s := b.services[name]
	nodes := b.ready
	if s.local {
		nodes = b.well[name]
	}
	fit := b.readyOf(nodes)
	for _, a := range s.addresses {
		to := fit
		if s.sticky && len(fit) > 0 {
			to = []string{favourite(a, fit)}
		}
		b.tell(b.steer.LeadAddress(a, to))
	}
}

// readyOf are those of the nodes that are Ready and healthy, in order.
func (b *balancer) readyOf(nodes map[string]bool) []string {
	all := []string{}
	for n := range nodes {
		if b.ready[n] && b.healthy[n] {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// favourite is the node that an address has for its own: the highest by a hash of both, so that it stays while others come and go.
func favourite(a netip.Addr, nodes []string) string {
	weight := func(node string) uint64 {
		h := fnv.New64a()
		fmt.Fprint(h, a, node)
		return h.Sum64()
	}
	return slices.MaxFunc(nodes, func(x, y string) int {
		if weight(x) > weight(y) {
			return 1
		}
		return -1
	})
}

func (b *balancer) tell(err error) {
	if err != nil {
		b.log.Error("the load balancer's routes are not as they should be", "error", err)
	}
}
