package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
)

// ranked is a pod of a priority that asks for so many thousandths of a core.
func ranked(name string, priority, milli int32, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name, Labels: map[string]string{"app": name}}}
	p.Spec.Priority = &priority
	p.Spec.Containers = []corev1.Container{{Name: "work", Image: "web:1", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(int64(milli), resource.DecimalSI)}}}}
	for _, fn := range edit {
		fn(p)
	}
	return p
}

// oneCore gives nodes a core each.
func (l *lab) oneCore(names ...string) {
	for _, n := range names {
		l.changeNode(n, func(n *corev1.Node) {
			n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		})
	}
}

// places lists the pods as "name@node", with "-" before those on their way out and "?" for what waits for its node.
func (l *lab) places() string {
	var all []string
	for _, p := range list[*corev1.Pod](l.testCluster, api.Pods) {
		line := p.Name + "@" + p.Spec.NodeName
		if p.DeletionTimestamp != nil {
			line = "-" + line
		}
		if p.Spec.NodeName == "" && p.Status.NominatedNodeName != "" {
			line += "?" + p.Status.NominatedNodeName
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (l *lab) wantPlaces(when, want string) {
	l.t.Helper()
	if got := l.places(); got != want {
		l.t.Errorf("%s: got %q, want %q", when, got, want)
	}
}

// N-4: a pod of higher priority has others leave, waits for their graceful end, and nobody of less priority takes the room.
func TestAnImportantPodHasOthersLeave(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.oneCore("n1")
		l.create(ranked("batch", 0, 600))
		l.create(ranked("small", 5, 300))
		l.pass(time.Second)
		l.kubelet.set(l.testCluster, holdEnds, true)
		l.create(ranked("shop", 1000, 500))
		l.pass(time.Second)
		l.wantPlaces("while the victim ends", "-batch@n1 shop@?n1 small@n1")
		l.create(ranked("thief", 500, 500))
		l.pass(time.Second)
		l.wantPlaces("another waits", "-batch@n1 -small@n1 shop@?n1 thief@?n1")
		for _, p := range list[*corev1.Pod](l.testCluster, api.Pods) {
			c := podCondition(p, corev1.DisruptionTarget)
			if p.Name == "batch" && (c == nil || c.Reason != "PreemptionByScheduler" || c.Message != "default-scheduler: preempting to accommodate a higher priority pod") {
				t.Errorf("the victim's condition: got %v", c)
			}
			if p.Name == "shop" && l.told()[fmt.Sprintf("Normal Preempted Preempted by pod %s on node n1", p.UID)] != 1 {
				t.Errorf("events: got %v, want Preempted", l.told())
			}
		}
		l.kubelet.set(l.testCluster, holdEnds, false)
		l.pass(time.Second)
		l.wantPlaces("at the end", "shop@n1 thief@n1")
	}, "n1")
}

// N-4: a pod that may not preempt waits, and a more important one's room is not taken by a less important one that comes by.
func TestRoomThatIsMadeIsKept(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.oneCore("n1")
		l.create(ranked("batch", 0, 900))
		l.pass(time.Second)
		l.kubelet.set(l.testCluster, holdEnds, true)
		never := corev1.PreemptNever
		l.create(ranked("polite", 2000, 900, func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &never }))
		l.wantPlaces("one that may not", "batch@n1 polite@")
		l.delete(api.Pods, "polite", metav1.DeletePropagationBackground)
		l.create(ranked("shop", 1000, 500))
		l.create(ranked("tiny", 0, 600))
		l.pass(time.Second)
		l.wantPlaces("two wait", "-batch@n1 shop@?n1 tiny@")
		l.kubelet.set(l.testCluster, holdEnds, false)
		l.pass(time.Second)
		l.wantPlaces("the room goes to the one it was made for", "shop@n1 tiny@")
		l.delete(api.Pods, "shop", metav1.DeletePropagationBackground)
		l.pass(time.Second)
		l.wantPlaces("and then to the other", "tiny@n1")
	}, "n1")
}

// N-4: victims are chosen as Kubernetes chooses them.
func TestTheCheapestVictimsAreChosen(t *testing.T) {
	t.Parallel()
	old := func(p *corev1.Pod) { at := metav1.Unix(1000, 0); p.Status.StartTime = &at }
	young := func(p *corev1.Pod) { at := metav1.Unix(2000, 0); p.Status.StartTime = &at }
	guard := func(app string, allowed int32) *policyv1.PodDisruptionBudget {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: app}}
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		b.Status.DisruptionsAllowed = allowed
		return b
	}
	for _, tc := range []struct {
		name    string
		n1, n2  []*corev1.Pod
		budgets []*policyv1.PodDisruptionBudget
		want    string
	}{
		{"only as many as must", []*corev1.Pod{ranked("a", 1, 500), ranked("b", 2, 500)}, nil, nil, "n1: a"},
		{"the lower priority", []*corev1.Pod{ranked("a", 5, 1000)}, []*corev1.Pod{ranked("b", 3, 1000)}, nil, "n2: b"},
		{"the lower sum", []*corev1.Pod{ranked("a", 5, 500), ranked("a2", 5, 600)}, []*corev1.Pod{ranked("b", 5, 500), ranked("b2", 3, 600)}, nil, "n2: b2"},
		{"fewer pods", []*corev1.Pod{ranked("a", -5, 300), ranked("a2", -5, 300), ranked("a3", 0, 400)}, []*corev1.Pod{ranked("b", -5, 1000)}, nil, "n2: b"},
		{"the younger", []*corev1.Pod{ranked("a", 5, 1000, old)}, []*corev1.Pod{ranked("b", 5, 1000, young)}, nil, "n2: b"},
		{"the older stays", []*corev1.Pod{ranked("a", 5, 500, young), ranked("b", 5, 500, old)}, nil, nil, "n1: a"},
		{"the first by name of equals", []*corev1.Pod{ranked("a", 5, 1000, old)}, []*corev1.Pod{ranked("b", 5, 1000, old)}, nil, "n1: a"},
		{"what no budget guards", []*corev1.Pod{ranked("a", 1, 1000)}, []*corev1.Pod{ranked("b", 9, 1000)}, []*policyv1.PodDisruptionBudget{guard("a", 0)}, "n2: b"},
		{"a guarded one when there is no other", []*corev1.Pod{ranked("a", 1, 1000)}, nil, []*policyv1.PodDisruptionBudget{guard("a", 0)}, "n1: a"},
		{"a budget with room", []*corev1.Pod{ranked("a", 1, 1000)}, []*corev1.Pod{ranked("b", 9, 1000)}, []*policyv1.PodDisruptionBudget{guard("a", 1)}, "n1: a"},
		{"nobody of the same priority", []*corev1.Pod{ranked("a", 10, 1000)}, nil, nil,
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"not enough by going", []*corev1.Pod{ranked("a", 10, 800), ranked("b", 1, 200)}, nil, nil,
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := hall{budgets: func() []*policyv1.PodDisruptionBudget { return tc.budgets }}
			for i, pods := range [][]*corev1.Pod{tc.n1, tc.n2} {
				n := node(fmt.Sprint("n", i+1))
				n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
				if pods != nil {
					h.seats = append(h.seats, newSeat(n, pods))
				}
			}
			_, room, got := place(ranked("new", 10, 400), h)
			if room != nil {
				got = room.seat.node.Name + ":"
				for _, v := range room.victims {
					got += " " + v.Name
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// N-3, N-4: budgets are preferred, and given up when nothing else helps.
func TestABudgetTurnsPreemptionElsewhere(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.oneCore("n1", "n2")
		l.create(ranked("kept", 0, 900, func(p *corev1.Pod) { p.Spec.NodeName = "n1" }))
		l.create(ranked("loose", 7, 900, func(p *corev1.Pod) { p.Spec.NodeName = "n2" }))
		all := intstr.FromString("100%")
		l.create(&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "keep"}, Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &all, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kept"}}}})
		l.pass(time.Second)
		l.create(ranked("shop", 1000, 500))
		l.pass(time.Second)
		l.wantPlaces("the unguarded one goes, important as it is", "kept@n1 shop@n2")
		l.create(ranked("more", 1000, 600))
		l.pass(time.Second)
		l.wantPlaces("then the guarded one", "more@n1 shop@n2")
	}, "n1", "n2")
}
