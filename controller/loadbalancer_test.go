package controller

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func balancing(name string, edit ...func(*corev1.Service)) *corev1.Service {
	svc := service(name, map[string]string{"app": name})
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	for _, fn := range edit {
		fn(svc)
	}
	return svc
}

func balancedCluster(t *testing.T, prefixes ...string) *testCluster {
	t.Helper()
	var o Config
	for _, p := range prefixes {
		o.LoadBalancers = append(o.LoadBalancers, netip.MustParsePrefix(p))
	}
	return newClusterOf(t, o, "n1")
}

// addressesOf prints the load-balancer addresses of a Service: "172.31.0.1 fd31::1".
func (c *testCluster) addressesOf(name string) string {
	c.t.Helper()
	svc, err := store.Get[*corev1.Service](c.store, api.Services, "dev", name)
	if err != nil {
		return "gone"
	}
	var all []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			c.t.Errorf("%s: ipMode of %s: got %v, want VIP", name, in.IP, in.IPMode)
		}
		all = append(all, in.IP)
	}
	return strings.Join(all, " ")
}

func (c *testCluster) wantAddresses(want map[string]string) {
	c.t.Helper()
	got := map[string]string{}
	for name := range want {
		got[name] = c.addressesOf(name)
	}
	if d := cmp.Diff(want, got); d != "" {
		c.t.Errorf("load-balancer addresses (-want +got):\n%s", d)
	}
}

// troubles lists the messages of warnings about an object.
func (c *testCluster) troubles(name string) (all []string) {
	for _, ev := range list[*corev1.Event](c, api.Events) {
		if ev.InvolvedObject.Name == name && ev.Type == corev1.EventTypeWarning {
			all = append(all, ev.Message)
		}
	}
	slices.Sort(all)
	return all
}

// P-28, P-32: each Service of type LoadBalancer gets an address with or without node ports, keeps it, and gives it back.
func TestALoadBalancerServiceGetsAnAddressAndGivesItBack(t *testing.T) {
	t.Parallel()
	c := balancedCluster(t, "172.31.0.0/24")
	no, other, ours := false, "example.com/else", LoadBalancerClass
	c.create(balancing("a"))
	c.create(balancing("b", func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = &no }))
	c.create(balancing("foreign", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other }))
	c.create(balancing("ours", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &ours }))
	c.create(service("inner", nil))
	c.wantAddresses(map[string]string{"a": "172.31.0.1", "b": "172.31.0.2", "foreign": "", "ours": "172.31.0.3", "inner": ""})
	svc, _ := store.Get[*corev1.Service](c.store, api.Services, "dev", "a")
	if want := []string{loadBalancerFinalizer}; !slices.Equal(svc.Finalizers, want) {
		t.Errorf("finalizers: got %v, want %v", svc.Finalizers, want)
	}
	c.delete(api.Services, "a", "")
	change(c, api.Services, "b", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	c.wantAddresses(map[string]string{"a": "gone", "b": ""})
	if b, _ := store.Get[*corev1.Service](c.store, api.Services, "dev", "b"); len(b.Finalizers) != 0 {
		t.Errorf("finalizers of a ClusterIP Service: got %v, want none", b.Finalizers)
	}
	c.create(balancing("again"))
	c.wantAddresses(map[string]string{"again": "172.31.0.1", "ours": "172.31.0.3"})
}

// P-28: spec.loadBalancerIP is honoured, or refused with an event until the address is free.
func TestARequestedLoadBalancerAddressIsHonouredOrRefused(t *testing.T) {
	t.Parallel()
	c := balancedCluster(t, "172.31.0.0/24")
	asking := func(ip string) func(*corev1.Service) { return func(s *corev1.Service) { s.Spec.LoadBalancerIP = ip } }
	c.create(balancing("a", asking("172.31.0.77")))
	c.create(balancing("b", asking("172.31.0.77")))
	c.create(balancing("c", asking("192.0.2.1")))
	c.wantAddresses(map[string]string{"a": "172.31.0.77", "b": "", "c": ""})
	if got, want := c.troubles("b"), []string{"Error syncing load balancer: requested address 172.31.0.77 is in use or reserved"}; !cmp.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
	if got, want := c.troubles("c"), []string{"Error syncing load balancer: requested address 192.0.2.1 is not in the range of load balancers"}; !cmp.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
	change(c, api.Services, "a", asking("172.31.0.78"))
	c.wantAddresses(map[string]string{"a": "172.31.0.78", "b": "172.31.0.77"})
}

// P-28: when all addresses are taken an event says so, and the first that comes free goes to who waits.
func TestExhaustedLoadBalancerAddressesAreToldAndWaitedFor(t *testing.T) {
	t.Parallel()
	c := balancedCluster(t, "172.31.0.0/30")
	for _, name := range []string{"a", "b", "late"} {
		c.create(balancing(name))
	}
	c.wantAddresses(map[string]string{"a": "172.31.0.1", "b": "172.31.0.2", "late": ""})
	if got, want := c.troubles("late"), []string{"Error syncing load balancer: no address is free in 172.31.0.0/30"}; !cmp.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
	c.delete(api.Services, "a", "")
	c.wantAddresses(map[string]string{"b": "172.31.0.2", "late": "172.31.0.1"})
}

// P-28, P-48: a dual-stack Service has an address of each family; a restart changes nothing; what others wrote into the status stays.
func TestLoadBalancerAddressesAreOfBothFamiliesAndOutliveARestart(t *testing.T) {
	t.Parallel()
	c := balancedCluster(t, "172.31.0.0/24", "fd31::/112")
	both := func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	}
	c.create(balancing("gone"))
	c.create(balancing("dual", both))
	c.create(balancing("byhand"))
	change(c, api.Services, "byhand", func(s *corev1.Service) {
		mode := corev1.LoadBalancerIPModeVIP
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9", IPMode: &mode}}
	})
	c.delete(api.Services, "gone", "")
	want := map[string]string{"dual": "fd31::1 172.31.0.2", "byhand": "192.0.2.9"}
	c.wantAddresses(want)
	e := newEngine(Config{Store: c.store, Now: c.manager.o.Now, Log: c.manager.o.Log, LoadBalancers: c.manager.o.LoadBalancers})
	events, err := e.everything(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if last, err := e.finish(context.Background(), events); err != nil || last != 0 {
		t.Errorf("a manager that starts over: wrote revision %d, error %v, want nothing written", last, err)
	}
	c.wantAddresses(want)
}
