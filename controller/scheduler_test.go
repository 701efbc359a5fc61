package controller

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// N-4
func TestAPodGoesWhereItFitsOrIsToldWhyNot(t *testing.T) {
	t.Parallel()
	seats := func(edit ...func(*corev1.Node)) func() []*seat {
		return func() []*seat {
			var all []*seat
			for i, e := range edit {
				n := node("n" + string(rune('1'+i)))
				if e != nil {
					e(n)
				}
				all = append(all, newSeat(n, nil))
			}
			return all
		}
	}
	busy := func(name string, owner string) *corev1.Pod {
		p := running(name, "")
		if owner != "" {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{UID: "uid-" + "x", Name: owner, Controller: &yes}}
		}
		return p
	}
	taint := func(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Value: value, Effect: effect}} }
	}
	cordon := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	down := func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
	hostPort := func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostPort = 8080 }
	for _, tc := range []struct {
		name  string
		pod   func(*corev1.Pod)
		seats func() []*seat
		want  string
	}{
		{"no nodes", nil, seats(), "no nodes available to schedule pods"},
		{"two alike: the first", nil, seats(nil, nil), "n1"},
		{"fewest pods", nil, func() []*seat { s := seats(nil, nil)(); s[0].take(busy("a", "")); return s }, "n2"},
		{"fewest of the same owner before fewest of all", func(p *corev1.Pod) { p.OwnerReferences = busy("", "x").OwnerReferences }, func() []*seat {
			s := seats(nil, nil)()
			s[0].take(busy("a", "x"))
			s[1].take(busy("b", ""))
			s[1].take(busy("c", ""))
			return s
		}, "n2"},
		{"cordoned and not ready", nil, seats(cordon, down), "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{"nodeSelector", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n2"} }, seats(nil, nil), "n2"},
		{"nodeSelector that no node has", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }, seats(nil, nil), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{"required node affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpNotIn, Values: []string{"n1"}}}}},
			}}}
		}, seats(nil, nil), "n2"},
		{"a taint", nil, seats(taint("gpu", "yes", corev1.TaintEffectNoSchedule), nil), "n2"},
		{"a taint everywhere", nil, seats(taint("gpu", "yes", corev1.TaintEffectNoExecute)), "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"a preference is no taint", nil, seats(taint("gpu", "yes", corev1.TaintEffectPreferNoSchedule)), "n1"},
		{"a toleration", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}}
		}, seats(taint("gpu", "yes", corev1.TaintEffectNoSchedule)), "n1"},
		{"a toleration of everything", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }, seats(down), "n1"},
		{"a toleration of another value", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Value: "no"}} }, seats(taint("gpu", "yes", corev1.TaintEffectNoSchedule)), "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"a host port in use", hostPort, func() []*seat {
			s := seats(nil, nil)()
			s[0].take(but(busy("a", ""), hostPort))
			s[1].take(busy("b", ""))
			s[1].take(busy("c", ""))
			return s
		}, "n2"},
		{"a host port in use everywhere", hostPort, func() []*seat { s := seats(nil)(); s[0].take(but(busy("a", ""), hostPort)); return s }, "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"full", nil, seats(func(n *corev1.Node) {
			n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}
		}), "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pod := running("new", "")
			pod.Spec.NodeName = ""
			if tc.pod != nil {
				tc.pod(pod)
			}
			best, _, got := place(pod, hall{seats: tc.seats(), labels: func(string) labels.Set { return nil }})
			if best != nil {
				got = best.node.Name
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// N-4, N-12: a pod that fits nowhere is Pending with the reason, and goes as soon as a node takes it.
func TestAStrandedPodIsPlacedWhenANodeOpens(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := but(running("lone", ""), func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status, p.UID = "", corev1.PodStatus{Phase: corev1.PodPending}, ""
	})
	c.create(pod)
	scheduled := func() corev1.PodCondition {
		p, err := store.Get[*corev1.Pod](c.store, api.Pods, "dev", "lone")
		if err != nil {
			t.Fatal(err)
		}
		if got := podCondition(p, corev1.PodScheduled); got != nil {
			return *got
		}
		return corev1.PodCondition{}
	}
	if got := scheduled(); got.Status != corev1.ConditionFalse || got.Reason != corev1.PodReasonUnschedulable || got.Message != "no nodes available to schedule pods" {
		t.Errorf("without nodes: got %+v", got)
	}
	n := node("n1")
	n.Spec.Unschedulable = true
	c.create(n)
	if got := scheduled(); got.Message != "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling." {
		t.Errorf("cordoned: got %+v", got)
	}
	reasons := map[string]bool{}
	for _, ev := range list[*corev1.Event](c, api.Events) {
		reasons[ev.Type+" "+ev.Reason+" "+ev.Message] = true
	}
	if !reasons["Warning FailedScheduling 0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."] {
		t.Errorf("events: got %v", reasons)
	}
	c.write(func(tx *store.Tx) error {
		n, err := store.Get[*corev1.Node](tx, api.Nodes, "", "n1")
		if err != nil {
			return err
		}
		n = api.Copy(n)
		n.Spec.Unschedulable = false
		return tx.Update(n)
	})
	if got := scheduled(); got.Status != corev1.ConditionTrue {
		t.Errorf("uncordoned: got %+v, want scheduled", got)
	}
}

// A pod that names its node is not the scheduler's, nor is one with a scheduler of its own.
func TestTheSchedulerLeavesOthersPodsAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.kubelet.set(c, holdReady, true)
	fixed := but(running("fixed", ""), func(p *corev1.Pod) { p.Spec.NodeName = "n2" })
	foreign := but(running("foreign", ""), func(p *corev1.Pod) { p.Spec.NodeName, p.Spec.SchedulerName = "", "mine" })
	c.create(fixed)
	c.create(foreign)
	got := map[string]string{}
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		got[p.Name] = p.Spec.NodeName
	}
	if want := map[string]string{"fixed": "n2", "foreign": ""}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestThePodsOfARemovedNodeAreReplacedElsewhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.create(deployment("web", 4))
	c.until("web is rolled out", c.rolledOut("web"))
	c.write(func(tx *store.Tx) error { return tx.Delete(api.Nodes, "", "n1", store.DeleteOptions{}) })
	c.until("web is whole again", c.rolledOut("web"))
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		if p.Spec.NodeName != "n2" {
			t.Errorf("pod %s is on %q, want n2", p.Name, p.Spec.NodeName)
		}
	}
}

func TestHostPortsCollideOnTheSameAddressOrOnAll(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		held, asked string
		want        bool
	}{
		{"TCP/0.0.0.0/80", "TCP/0.0.0.0/80", true},
		{"TCP/0.0.0.0/80", "TCP/10.0.0.1/80", true},
		{"TCP/10.0.0.1/80", "TCP/0.0.0.0/80", true},
		{"TCP/10.0.0.1/80", "TCP/10.0.0.2/80", false},
		{"TCP/0.0.0.0/80", "UDP/0.0.0.0/80", false},
		{"TCP/0.0.0.0/80", "TCP/0.0.0.0/8080", false},
	} {
		s := &seat{ports: map[string]int{tc.held: 1}}
		if got := s.holds(tc.asked); got != tc.want {
			t.Errorf("%s beside %s: got %v, want %v", tc.asked, tc.held, got, tc.want)
		}
	}
	if !strings.HasPrefix(hostPorts(but(running("a", ""), func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostPort = 5 }))[0], "TCP/0.0.0.0/5") {
		t.Error("a host port without an address is on all of them")
	}
}
