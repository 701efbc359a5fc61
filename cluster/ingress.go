package cluster

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/controller"
	"kubarium.dev/ingress"
	"kubarium.dev/store"
)

// The ports of the ingress, on every node's address.
const (
	httpPort  = 80
	httpsPort = 443
)

// serveIngress begins the ingress, which machines serve on their addresses. It reaches pods from a node.
func (c *Cluster) serveIngress(run context.Context) {
	var addresses []netip.Addr
	for _, m := range c.machines() {
		addresses = append(addresses, m.address)
	}
	c.ingress = ingress.New(ingress.Config{
		Reader: c.store.Ahead(), Store: c.store, Dial: c.dialFromNode, ServeClassless: true, Addresses: addresses,
		Trusted: []netip.Prefix{}, Log: c.o.Log, Now: c.o.Now,
		Service: metav1.NamespaceSystem + "/" + ingressService, SecurePorts: securePorts(UnprivilegedFrom()),
	})
	c.consumers = append(c.consumers, consumer{"the ingress", c.ingress.Progress()})
	c.group.Go(func() error { return c.ingress.Run(run) })
}

// ingressService is the Service that leads to the ingress, with a load-balancer address.
const ingressService = "ingress"

// securePorts is where https answers for who asks plainly at the host's loopback.
func securePorts(first uint16) map[string]string {
	plain := hostPort(httpPort, first)
	if plain == httpPort {
		return nil
	}
	return map[string]string{strconv.Itoa(int(plain)): strconv.Itoa(int(hostPort(httpsPort, first)))}
}

// tellIngress brings the ingress's Service up to date: its endpoints are the nodes.
func (c *Cluster) tellIngress(ctx context.Context, nodes []controller.BirthNode) error {
	svc, slice := ingressDoor(c.o.Config.Networks, nodes)
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Get(api.Services, svc.Namespace, svc.Name); apierrors.IsNotFound(err) {
			if err := tx.Create(svc); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		old, err := store.Get[*discoveryv1.EndpointSlice](tx, api.EndpointSlices, slice.Namespace, slice.Name)
		if apierrors.IsNotFound(err) {
			return tx.Create(slice)
		}
		if err != nil || equality.Semantic.DeepEqual(old.Endpoints, slice.Endpoints) {
			return err
		}
		fresh := api.Copy(old)
		fresh.Endpoints = slice.Endpoints
		return tx.Update(fresh)
	})
	return err
}

// ingressDoor is the Service and its slice. Its address follows DNS': in the part of the range that is never given out by itself.
func ingressDoor(nets Networks, nodes []controller.BirthNode) (*corev1.Service, *discoveryv1.EndpointSlice) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: ingressService}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ClusterIP: nets.DNS.Next().String(), ClusterIPs: []string{nets.DNS.Next().String()},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack),
		InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster), ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
		SessionAffinity: corev1.ServiceAffinityNone, AllocateLoadBalancerNodePorts: new(false),
	}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range []struct {
		name string
		port int32
	}{{"http", httpPort}, {"https", httpsPort}} {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
			Name: p.name, Protocol: corev1.ProtocolTCP, Port: p.port, TargetPort: intstr.FromInt32(p.port),
		})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(p.name), Protocol: new(corev1.ProtocolTCP), Port: new(p.port)})
	}
	for _, n := range nodes {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{n.Address.String()}, NodeName: new(n.Name),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
		})
	}
	return svc, slice
}

// ingressRows is how the host reaches a node's ingress: on its loopback address.
func ingressRows(n publishedNode, first uint16) []Published {
	var rows []Published
	for _, p := range []struct {
		name string
		port uint16
	}{{"http", httpPort}, {"https", httpsPort}} {
		rows = append(rows, Published{
			Service: "the ingress:" + p.name, Protocol: "TCP",
			Host: netip.AddrPortFrom(n.loopback, hostPort(p.port, first)), Target: netip.AddrPortFrom(n.node, p.port),
		})
	}
	return rows
}

// aboveReach is added to a port that this process may not bind on the host: 80 becomes 8080, 443 8443.
const aboveReach = 8000

func hostPort(port, first uint16) uint16 {
	if port < first {
		return port + aboveReach
	}
	return port
}

// UnprivilegedFrom is the first port that this process may bind on the host; 0 for root of the host's own user namespace.
func UnprivilegedFrom() uint16 {
	if ids, err := os.ReadFile("/proc/self/uid_map"); err == nil && strings.Fields(string(ids))[1] == "0" && os.Geteuid() == 0 {
		return 0
	}
	const usual = 1024
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 16)
	if err != nil {
		return usual
	}
	return uint16(n)
}
