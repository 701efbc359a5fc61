package proxy

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
)

// policies holds what NetworkPolicies, pods and namespaces say, and the elements that follow for each family's table.
//
// Pods that the same policies select share a target class, and peers that the same selectors and blocks match share a peer
// class. A pod is an element or three; who may reach whom is elements for pairs of classes, so that their number follows the
// policies and not the pods. A class is named by a hash of what it is made of: a restart finds the same numbers.
type policies struct {
	node       string
	policies   map[types.NamespacedName]*policy
	namespaces map[string]map[string]string // labels by name
	pods       map[types.NamespacedName]*corev1.Pod
	tables     [2]*policyTable // by family
}

// policy is a NetworkPolicy as read: nil rules mean that it does not isolate that way.
type policy struct {
	name   types.NamespacedName
	pods   labels.Selector
	in     []policyRule
	out    []policyRule
	isIn   bool
	isOut  bool
	object *networkingv1.NetworkPolicy
}

// policyRule allows ports from or to peers; no peers means everyone, no ports all.
type policyRule struct {
	peers []policyPeer
	ports []networkingv1.NetworkPolicyPort
}

// policyPeer is one selector of peers. term names it among all.
type policyPeer struct {
	term             string
	namespace        string          // with namespaces nil: the one whose pods are meant
	namespaces, pods labels.Selector // nil: not given
	cidr             netip.Prefix    // valid for a block
	except           []netip.Prefix
}

func newPolicies(node string) *policies {
	p := &policies{
		node: node, policies: map[types.NamespacedName]*policy{}, namespaces: map[string]map[string]string{},
		pods: map[types.NamespacedName]*corev1.Pod{},
	}
	for f := range p.tables {
		p.tables[f] = newPolicyTable(family(f), p)
	}
	return p
}

func (p *policies) of(f family) *policyTable { return p.tables[f] }

func (p *policies) takePolicy(obj *networkingv1.NetworkPolicy, deleted bool) {
	name := types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}
	held := p.policies[name]
	switch {
	case deleted && held == nil:
		return
	case deleted:
		delete(p.policies, name)
	case held != nil && reflect.DeepEqual(held.object.Spec, obj.Spec):
		return
	default:
		p.policies[name] = readPolicy(name, obj)
	}
	p.rebuild()
}

func (p *policies) takeNamespace(obj *corev1.Namespace, deleted bool) {
	if held, ok := p.namespaces[obj.Name]; ok && !deleted && maps.Equal(held, obj.Labels) {
		return
	}
	if deleted {
		delete(p.namespaces, obj.Name)
	} else {
		p.namespaces[obj.Name] = obj.Labels
	}
	if len(p.policies) > 0 {
		p.rebuild()
	}
}

func (p *policies) takePod(pod *corev1.Pod, deleted bool) {
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	old, known := p.pods[name]
	if deleted || !living(pod) {
		if !known {
			return
		}
		delete(p.pods, name)
	} else {
		if known && samePod(old, pod) {
			return
		}
		p.pods[name] = pod
	}
	for _, t := range p.tables {
		t.setPod(name, p.pods[name])
	}
}

// samePod tells whether nothing changed that a policy may look at.
func samePod(a, b *corev1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && a.Spec.NodeName == b.Spec.NodeName && a.Status.PodIP == b.Status.PodIP &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs)
}

func (p *policies) rebuild() {
	for f, old := range p.tables {
		next := newPolicyTable(family(f), p)
		next.replace(old)
		p.tables[f] = next
	}
}

func readPolicy(name types.NamespacedName, obj *networkingv1.NetworkPolicy) *policy {
	out := &policy{name: name, object: obj, pods: selector(&obj.Spec.PodSelector)}
	out.isIn = len(obj.Spec.PolicyTypes) == 0 || slices.Contains(obj.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
	out.isOut = len(obj.Spec.PolicyTypes) == 0 && len(obj.Spec.Egress) > 0 ||
		slices.Contains(obj.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	for _, r := range obj.Spec.Ingress {
		out.in = append(out.in, policyRule{readPeers(name.Namespace, r.From), r.Ports})
	}
	for _, r := range obj.Spec.Egress {
		out.out = append(out.out, policyRule{readPeers(name.Namespace, r.To), r.Ports})
	}
	return out
}

func readPeers(namespace string, peers []networkingv1.NetworkPolicyPeer) []policyPeer {
	var out []policyPeer
	for _, p := range peers {
		peer := policyPeer{namespace: namespace}
		if p.IPBlock != nil {
			peer.cidr, _ = netip.ParsePrefix(p.IPBlock.CIDR)
			peer.term = "block " + p.IPBlock.CIDR
			for _, s := range p.IPBlock.Except {
				if e, err := netip.ParsePrefix(s); err == nil {
					peer.except = append(peer.except, e.Masked())
					peer.term += " but " + s
				}
			}
			peer.cidr = peer.cidr.Masked()
			out = append(out, peer)
			continue
		}
		if p.NamespaceSelector != nil {
			peer.namespaces = selector(p.NamespaceSelector)
			peer.term = "namespaces {" + peer.namespaces.String() + "}"
		} else {
			peer.term = "namespace " + namespace
		}
		if p.PodSelector != nil {
			peer.pods = selector(p.PodSelector)
			peer.term += " pods {" + peer.pods.String() + "}"
		}
		out = append(out, peer)
	}
	return out
}

// selector reads a label selector; the API server took only ones that can be read.
func selector(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

// selects tells whether a pod, nil for none, at an address is meant by the peer.
func (e *policyPeer) selects(pod *corev1.Pod, ip netip.Addr, namespaces map[string]map[string]string) bool {
	if e.cidr.IsValid() {
		return e.cidr.Contains(ip) && !slices.ContainsFunc(e.except, func(x netip.Prefix) bool { return x.Contains(ip) })
	}
	switch {
	case pod == nil:
		return false
	case e.namespaces == nil && pod.Namespace != e.namespace:
		return false
	case e.namespaces != nil && !e.namespaces.Matches(labels.Set(namespaces[pod.Namespace])):
		return false
	}
	return e.pods == nil || e.pods.Matches(labels.Set(pod.Labels))
}

// number names a class: a hash of what it is made of, which another class that came first may hold.
func number(signature string, taken func(uint32) bool) uint32 {
	h := fnv.New32a()
	h.Write([]byte(signature))
	n := cmp.Or(h.Sum32()&^localBit, 1)
	for taken(n) {
		n = cmp.Or((n+1)&^localBit, 1)
	}
	return n
}

// namedPorts are a pod's container ports by name, "name/protocol", for the names given.
func namedPorts(pod *corev1.Pod, names map[string]struct{}) string {
	if pod == nil || len(names) == 0 {
		return ""
	}
	var out []string
	for _, c := range api.ServingContainers(pod) {
		for _, p := range c.Ports {
			if _, used := names[p.Name]; used && p.Name != "" {
				out = append(out, string(append([]byte(p.Name+"="), packNodePort(protocolNumber(p.Protocol), uint16(p.ContainerPort))...)))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
