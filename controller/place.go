package controller

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// seat is a node as the scheduler sees it.
type seat struct {
	node    *corev1.Node
	pods    int               // that live on it
	byOwner map[types.UID]int // of those, by controller
	ports   map[string]bool   // host ports in use: "TCP/0.0.0.0/80"
}

// newSeat counts the pods of a node; those that end do not weigh.
func newSeat(node *corev1.Node, pods []*corev1.Pod) *seat {
	s := &seat{node: node, byOwner: map[types.UID]int{}, ports: map[string]bool{}}
	for _, pod := range pods {
		if !podEnded(pod) {
			s.take(pod)
		}
	}
	return s
}

// take seats a pod. A terminating pod still holds its host ports, but new pods need not keep away from it.
func (s *seat) take(pod *corev1.Pod) {
	for _, p := range hostPorts(pod) {
		s.ports[p] = true
	}
	if pod.DeletionTimestamp != nil {
		return
	}
	s.pods++
	s.byOwner[controllerUID(pod)]++
}

func controllerUID(pod *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return ref.UID
	}
	return ""
}

func hostPorts(pod *corev1.Pod) []string {
	var ports []string
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ip := cmp.Or(p.HostIP, "0.0.0.0")
				ports = append(ports, string(cmp.Or(p.Protocol, corev1.ProtocolTCP))+"/"+ip+"/"+strconv.Itoa(int(p.HostPort)))
			}
		}
	}
	return ports
}

// place picks the node for a pod: the one with the fewest pods of the same controller, then with the fewest pods, then the first
// by name. Nil with the reason, in Kubernetes' words, when the pod fits nowhere.
func place(pod *corev1.Pod, seats []*seat) (*seat, string) {
	if len(seats) == 0 {
		return nil, "no nodes available to schedule pods"
	}
	owner := controllerUID(pod)
	var best *seat
	refusals := map[string]int{}
	for _, s := range seats {
		if reason := refuse(pod, s); reason != "" {
			refusals[reason]++
			continue
		}
		if best == nil || cheaper(s, best, owner) {
			best = s
		}
	}
	if best != nil {
		return best, ""
	}
	reasons := make([]string, 0, len(refusals))
	for reason, n := range refusals {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(reasons)
	return nil, fmt.Sprintf("0/%d nodes are available: %s.", len(seats), strings.Join(reasons, ", "))
}

func cheaper(a, b *seat, owner types.UID) bool {
	same := 0
	if owner != "" {
		same = cmp.Compare(a.byOwner[owner], b.byOwner[owner])
	}
	return cmp.Or(same, cmp.Compare(a.pods, b.pods), strings.Compare(a.node.Name, b.node.Name)) < 0
}

// refuse says why a pod cannot go to a node; "" when it can.
func refuse(pod *corev1.Pod, s *seat) string {
	if taint, ok := untolerated(pod, s.node); ok {
		if taint.Key == corev1.TaintNodeUnschedulable {
			return "node(s) were unschedulable"
		}
		return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)
	}
	if fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(s.node); err != nil || !fits {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	for _, p := range hostPorts(pod) {
		if s.holds(p) {
			return "node(s) didn't have free ports for the requested pod ports"
		}
	}
	if most, limited := s.node.Status.Allocatable[corev1.ResourcePods]; limited && int64(s.pods) >= most.Value() {
		return "Too many pods"
	}
	return ""
}

// holds tells whether a host port is taken, on the same address or on all of them.
func (s *seat) holds(port string) bool {
	if s.ports[port] {
		return true
	}
	parts := strings.Split(port, "/")
	if parts[1] != "0.0.0.0" {
		return s.ports[parts[0]+"/0.0.0.0/"+parts[2]]
	}
	for held := range s.ports {
		if h := strings.Split(held, "/"); h[0] == parts[0] && h[len(h)-1] == parts[2] {
			return true
		}
	}
	return false
}

// untolerated finds a taint that keeps the pod away. A node that is cordoned or not ready counts as tainted so, whether or not
// anyone has written the taint.
func untolerated(pod *corev1.Pod, node *corev1.Node) (corev1.Taint, bool) {
	taints := node.Spec.Taints
	if node.Spec.Unschedulable {
		taints = append(slices.Clone(taints), corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	if !nodeReady(node) {
		taints = append(slices.Clone(taints), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, taint := range taints {
		if taint.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(tol corev1.Toleration) bool { return tolerates(tol, taint) }) {
			return taint, true
		}
	}
	return corev1.Taint{}, false
}

func tolerates(tol corev1.Toleration, taint corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != taint.Effect || tol.Key != "" && tol.Key != taint.Key {
		return false
	}
	return tol.Operator == corev1.TolerationOpExists || (tol.Operator == "" || tol.Operator == corev1.TolerationOpEqual) && tol.Value == taint.Value
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
