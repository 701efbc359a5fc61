package cluster

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

// WhyPacket says which rules the first packet of a connection would meet, at the node where it enters them.
type WhyPacket struct {
	Protocol string       `json:"protocol"`
	Source   netip.Addr   `json:"source"`
	To       string       `json:"to"` // address and port
	Node     string       `json:"node"`
	Steps    []proxy.Step `json:"steps"`
}

// WhyPacket explains a packet from a place of Dialer's to an address and port. Errors: BadRequest, NotFound.
func (c *Cluster) WhyPacket(from, namespace, protocol, to string) (WhyPacket, error) {
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		return WhyPacket{}, apierrors.NewBadRequest(fmt.Sprintf("%q is no address with a port, like 10.96.0.1:443", to))
	}
	k := proxy.Packet{Protocol: corev1.Protocol(strings.ToUpper(protocol)), To: at, Inside: true}
	switch k.Protocol {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		return WhyPacket{}, apierrors.NewBadRequest(fmt.Sprintf("%q is no protocol of Services: tcp, udp or sctp", protocol))
	}
	m, err := c.originOf(from, namespace, &k)
	if err != nil {
		return WhyPacket{}, err
	}
	for _, other := range c.machines() {
		if other.address == at.Addr() && other != m { // its own node's rules let it pass
			m, k.Inside = other, false
		}
	}
	w := WhyPacket{Protocol: string(k.Protocol), Source: k.Source, To: at.String(), Node: m.Name}
	if w.Steps, err = m.proxy.Path(k); err != nil {
		return w, apierrors.NewBadRequest(err.Error())
	}
	return w, nil
}

// originOf finds the node that a packet comes to first, and fills in where it comes from.
func (c *Cluster) originOf(from, namespace string, k *proxy.Packet) (*machine, error) {
	kind, name, _ := strings.Cut(from, "/")
	switch {
	case from == "":
		m := c.anyMachine()
		k.Source = m.address
		return m, nil
	case from == placeOutside:
		k.Source, k.Inside = c.o.Config.Networks.Nodes.Masked().Addr().Next(), false
		return c.anyMachine(), nil
	case kind == "node" && name != "":
		m, err := c.machine(name)
		if err == nil {
			k.Source = m.address
		}
		return m, err
	case kind == "pod" && name != "":
		if ns, pod, ok := strings.Cut(name, "/"); ok {
			namespace, name = ns, pod
		}
		pod, err := store.Get[*corev1.Pod](c.store, api.Pods, namespace, name)
		if err != nil {
			return nil, err
		}
		if k.Source, err = netip.ParseAddr(pod.Status.PodIP); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %q has no address yet", name))
		}
		return c.machine(pod.Spec.NodeName)
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("unknown place %q: write pod/NAME, node/NAME or outside", from))
}
