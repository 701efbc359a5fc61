package controller

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	loadBalancerComponent = "service-controller"
	// LoadBalancerClass is the spec.loadBalancerClass of Services that this controller serves, besides those without one.
	LoadBalancerClass = "kubarium.dev/vip"
	// loadBalancerFinalizer keeps a Service until its address is free again.
	loadBalancerFinalizer = "service.kubernetes.io/load-balancer-cleanup"
)

// loadBalancers gives each Service of type LoadBalancer one address of each of its families (P-28, P-48). Work is named by the
// Service. Who has which address stands in the Services' status and nowhere else.
type loadBalancers struct {
	pools   []*pool
	waiting map[string]bool // Services that found no free address
}

// pool is a range of addresses.
type pool struct {
	prefix netip.Prefix
	owner  map[netip.Addr]string
	next   netip.Addr // nothing below it is free
}

func newLoadBalancers(prefixes []netip.Prefix) *loadBalancers {
	c := &loadBalancers{waiting: map[string]bool{}}
	for _, p := range prefixes {
		p = p.Masked()
		c.pools = append(c.pools, &pool{prefix: p, owner: map[netip.Addr]string{}, next: p.Addr().Next()})
	}
	return c
}

// free finds the lowest address that nobody has. The range's own address and, in IPv4, its broadcast address are never given.
func (p *pool) free() (netip.Addr, bool) {
	for a := p.next; p.usable(a); a = a.Next() {
		if p.owner[a] == "" {
			p.next = a
			return a, true
		}
		p.next = a.Next()
	}
	return netip.Addr{}, false
}

func (p *pool) usable(a netip.Addr) bool {
	if !p.prefix.Contains(a) || a == p.prefix.Addr() {
		return false
	}
	return a.Is6() || p.prefix.Contains(a.Next())
}

func (p *pool) release(a netip.Addr, name string) {
	if p.owner[a] != name {
		return
	}
	delete(p.owner, a)
	if a.Less(p.next) && p.usable(a) {
		p.next = a
	}
}

func (c *loadBalancers) pool(a netip.Addr) *pool {
	i := slices.IndexFunc(c.pools, func(p *pool) bool { return p.prefix.Contains(a) })
	if i < 0 {
		return nil
	}
	return c.pools[i]
}

func (c *loadBalancers) touched(t *turn, ev store.Event) {
	if ev.Kind != api.Services || len(c.pools) == 0 {
		return
	}
	name, svc := api.Name(ev.Object), ev.Object.(*corev1.Service)
	had := balanced(svc)
	if was, ok := ev.Old.(*corev1.Service); ok {
		had = append(had, balanced(was)...)
	}
	for _, a := range had {
		if p := c.pool(a); p != nil {
			p.release(a, name)
		}
	}
	if ev.Type == store.Deleted {
		delete(c.waiting, name)
	} else {
		c.keep(svc, name)
		if t.by != controller(c) {
			t.todo(c, name)
		}
	}
	freed := func(a netip.Addr) bool { p := c.pool(a); return p != nil && p.owner[a] == "" }
	if slices.ContainsFunc(had, freed) {
		for other := range c.waiting {
			t.todo(c, other)
		}
	}
}

// keep books what a Service's status says that it has, unless another was first.
func (c *loadBalancers) keep(svc *corev1.Service, name string) {
	for _, a := range balanced(svc) {
		if p := c.pool(a); p != nil && p.owner[a] == "" {
			p.owner[a] = name
		}
	}
}

// balanced lists the load-balancer addresses in a Service's status.
func balanced(svc *corev1.Service) []netip.Addr {
	var all []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			all = append(all, a)
		}
	}
	return all
}

func (c *loadBalancers) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	svc, ok := find[*corev1.Service](t, api.Services, namespace, plain)
	if !ok {
		return nil
	}
	mine := svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == LoadBalancerClass)
	if !mine || svc.DeletionTimestamp != nil {
		delete(c.waiting, name)
		return c.forsake(t, svc)
	}
	want, trouble := c.allocate(svc, name)
	delete(c.waiting, name)
	if trouble != "" {
		c.waiting[name] = true
		h := happening{component: loadBalancerComponent, warning: true, reason: "SyncLoadBalancerFailed", message: "Error syncing load balancer: " + trouble}
		if err := t.record(svc, h); err != nil {
			return err
		}
	}
	next := api.Copy(svc)
	if !slices.Contains(next.Finalizers, loadBalancerFinalizer) {
		next.Finalizers = append(next.Finalizers, loadBalancerFinalizer)
	}
	if slices.Equal(want, balanced(svc)) {
		return t.update(next)
	}
	next.Status.LoadBalancer.Ingress = nil
	for _, a := range want {
		mode := corev1.LoadBalancerIPModeVIP
		next.Status.LoadBalancer.Ingress = append(next.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	if err := t.update(next); err != nil || len(want) == 0 {
		return err
	}
	return t.record(svc, happening{component: loadBalancerComponent, reason: "EnsuredLoadBalancer", message: "Ensured load balancer"})
}

// forsake takes the addresses and the finalizer from a Service that needs no load balancer of ours any more.
func (c *loadBalancers) forsake(t *turn, svc *corev1.Service) error {
	i := slices.Index(svc.Finalizers, loadBalancerFinalizer)
	if i < 0 {
		return nil
	}
	next := api.Copy(svc)
	next.Finalizers = slices.Delete(next.Finalizers, i, i+1)
	next.Status.LoadBalancer.Ingress = nil
	return t.update(next)
}

// allocate lists the addresses that a Service is to have, and says what it cannot have. What someone else wrote into the status,
// an address outside our ranges or a host name, is theirs and stays.
func (c *loadBalancers) allocate(svc *corev1.Service, name string) (want []netip.Addr, trouble string) {
	have := balanced(svc)
	foreign := func(a netip.Addr) bool { return c.pool(a) == nil }
	if len(have) != len(svc.Status.LoadBalancer.Ingress) || slices.ContainsFunc(have, foreign) {
		return have, ""
	}
	var asked netip.Addr
	if svc.Spec.LoadBalancerIP != "" {
		var err error
		if asked, err = netip.ParseAddr(svc.Spec.LoadBalancerIP); err != nil || foreign(asked) {
			return nil, fmt.Sprintf("requested address %s is not in the range of load balancers", svc.Spec.LoadBalancerIP)
		}
	}
	for _, family := range families(svc) {
		a, why := c.one(name, family == "IPv4", asked, have)
		if why != "" {
			trouble = why
			continue
		}
		want = append(want, a)
	}
	return want, trouble
}

// one is an address of one family: the one asked for, the one it has, or a free one.
func (c *loadBalancers) one(name string, v4 bool, asked netip.Addr, have []netip.Addr) (netip.Addr, string) {
	if asked.IsValid() && asked.Is4() == v4 {
		if p := c.pool(asked); p.owner[asked] != "" && p.owner[asked] != name || !p.usable(asked) {
			return netip.Addr{}, fmt.Sprintf("requested address %s is in use or reserved", asked)
		}
		return asked, ""
	}
	why := "there is no range of load balancers for IPv6"
	if v4 {
		why = "there is no range of load balancers for IPv4"
	}
	for _, p := range c.pools {
		if p.prefix.Addr().Is4() != v4 {
			continue
		}
		if i := slices.IndexFunc(have, func(a netip.Addr) bool { return p.prefix.Contains(a) && p.owner[a] == name }); i >= 0 {
			return have[i], ""
		}
		if a, ok := p.free(); ok {
			return a, ""
		}
		why = fmt.Sprintf("no address is free in %s", p.prefix)
	}
	return netip.Addr{}, why
}
