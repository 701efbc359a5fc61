package controller

import (
	"cmp"
	"maps"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"

	"kubarium.dev/api"
)

// seat is a node as the scheduler sees it.
type seat struct {
	node    *corev1.Node
	lodgers map[string]*lodger // that have not ended, by name
	social  map[string]*lodger // of those, the ones with wishes about other pods

	live     int               // lodgers that are not on their way out
	byOwner  map[types.UID]int // of those, by controller
	ports    map[string]int    // host ports in use: "TCP/0.0.0.0/80"
	reserved amounts           // what all lodgers request
	weight   amounts           // the same, with a guess for those that request nothing
}

// lodger is a pod on a node, with what it takes there.
type lodger struct {
	pod      *corev1.Pod
	ports    []string
	requests amounts
	weight   amounts
}

// amounts are quantities as whole numbers: thousandths of a core, units of all else.
type amounts map[corev1.ResourceName]int64

func (a amounts) add(b amounts, times int64) {
	for name, n := range b {
		a[name] += times * n
	}
}

func newLodger(pod *corev1.Pod) *lodger {
	l := &lodger{pod: pod, ports: hostPorts(pod), requests: requestsOf(pod)}
	l.weight = maps.Clone(l.requests)
	for name, guess := range guessed {
		if l.requests[name] == 0 {
			if l.weight == nil {
				l.weight = guessed
				break
			}
			l.weight[name] = guess
		}
	}
	return l
}

// guessed is what a pod that requests nothing is taken to use when nodes are compared, as in Kubernetes.
var guessed = amounts{corev1.ResourceCPU: 100, corev1.ResourceMemory: 200 << 20}

// requestsOf is what a pod asks of its node, or still has there while that is more; nil for nothing.
func requestsOf(pod *corev1.Pod) amounts {
	if !asks(&pod.Spec) {
		return nil
	}
	list := resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true})
	sum := amounts{}
	for name := range list {
		if n := whole(list, name); n > 0 {
			sum[name] = n
		}
	}
	return sum
}

// asks tells whether a pod requests anything: most do not, and need no sums.
func asks(spec *corev1.PodSpec) bool {
	if len(spec.Overhead) > 0 || spec.Resources != nil {
		return true
	}
	for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range list {
			if len(list[i].Resources.Requests) > 0 {
				return true
			}
		}
	}
	return false
}

// whole reads a quantity as amounts have it.
func whole(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q := list[name]
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// newSeat seats pods on a node.
func newSeat(node *corev1.Node, pods []*corev1.Pod) *seat {
	s := &seat{
		node: node, lodgers: map[string]*lodger{}, social: map[string]*lodger{}, byOwner: map[types.UID]int{}, ports: map[string]int{},
		reserved: amounts{}, weight: amounts{},
	}
	for _, pod := range pods {
		if !podEnded(pod) {
			s.take(pod)
		}
	}
	return s
}

// take seats a pod.
func (s *seat) take(pod *corev1.Pod) {
	name := api.Name(pod)
	s.leave(name)
	l := newLodger(pod)
	s.lodgers[name] = l
	if a := pod.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		s.social[name] = l
	}
	s.count(l, 1)
}

// leave frees a pod's seat, if it has one here.
func (s *seat) leave(name string) {
	if l := s.lodgers[name]; l != nil {
		s.count(l, -1)
		delete(s.lodgers, name)
		delete(s.social, name)
	}
}

// count adds a lodger, or takes it off. A terminating pod holds what it has, but new pods need not keep away from it.
func (s *seat) count(l *lodger, times int) {
	for _, p := range l.ports {
		if s.ports[p] += times; s.ports[p] == 0 {
			delete(s.ports, p)
		}
	}
	s.reserved.add(l.requests, int64(times))
	if l.pod.DeletionTimestamp != nil {
		return
	}
	s.weight.add(l.weight, int64(times))
	s.live += times
	if owner := controllerUID(l.pod); owner != "" {
		if s.byOwner[owner] += times; s.byOwner[owner] == 0 {
			delete(s.byOwner, owner)
		}
	}
}

// refresh takes up a pod's new state; most changes are of its status and change nothing here. It tells whether the pod takes less now.
func (s *seat) refresh(pod *corev1.Pod) (less bool) {
	l := s.lodgers[api.Name(pod)]
	if l != nil && l.pod.UID == pod.UID && l.pod.Generation == pod.Generation && controllerUID(l.pod) == controllerUID(pod) &&
		(l.pod.DeletionTimestamp == nil) == (pod.DeletionTimestamp == nil) && maps.Equal(l.requests, requestsOf(pod)) {
		l.pod = pod
		return false
	}
	s.take(pod)
	for name, now := range s.lodgers[api.Name(pod)].requests {
		less = less || l != nil && now < l.requests[name]
	}
	return less
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

// holds tells whether a host port is taken, on the same address or on all of them.
func (s *seat) holds(port string) bool {
	if s.ports[port] > 0 {
		return true
	}
	parts := strings.Split(port, "/")
	if parts[1] != "0.0.0.0" {
		return s.ports[parts[0]+"/0.0.0.0/"+parts[2]] > 0
	}
	for held := range s.ports {
		if h := strings.Split(held, "/"); h[0] == parts[0] && h[len(h)-1] == parts[2] {
			return true
		}
	}
	return false
}
