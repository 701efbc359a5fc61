package node

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func milli(n int64) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(n, resource.DecimalSI)}
}

func (b *bench) resizeTo(pod *corev1.Pod, list corev1.ResourceList) {
	b.t.Helper()
	b.change(pod, func(p *corev1.Pod) {
		for name, q := range list {
			p.Spec.Containers[0].Resources.Requests[name] = q
		}
	})
}

func conditionOf(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// given is how many thousandths of a core a pod's first container has, by both fields that tell it.
func given(pod *corev1.Pod) int64 {
	s := pod.Status.ContainerStatuses[0]
	if s.Resources == nil || !s.Resources.Requests.Cpu().Equal(*s.AllocatedResources.Cpu()) {
		return -1
	}
	return s.AllocatedResources.Cpu().MilliValue()
}

// N-6, N-12: a resize that the machine has no room for waits, also over a loss of power, keeps what it has, says so in kubelet's words, and
// is done as soon as others go, without a restart.
func TestAResizeWaitsForRoom(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	total := b.resources.Cpu().MilliValue()
	big, small := webPod("big"), webPod("small")
	big.Spec.Containers[0].Resources.Requests, small.Spec.Containers[0].Resources.Requests = milli(total-500), milli(300)
	for _, pod := range []*corev1.Pod{big, small} {
		b.create(pod)
		b.awaitReady(pod)
	}
	b.resizeTo(small, milli(800))
	deferred := func(p *corev1.Pod) bool { return conditionOf(p, corev1.PodResizePending) != nil && isReady(p) }
	got := b.await(small, "deferred", deferred)
	want := fmt.Sprintf("Node didn't have enough resource: cpu, requested: 800, used: %d, capacity: %d", total-500, total)
	if c := conditionOf(got, corev1.PodResizePending); c.Status != corev1.ConditionTrue || c.Reason != "Deferred" || c.Message != want ||
		c.ObservedGeneration != got.Generation || given(got) != 300 || got.Status.ObservedGeneration != got.Generation {
		t.Errorf("got %+v, %dm, want %q", c, given(got), want)
	}
	const says = `Pod resize Deferred: {"containers":[{"name":"web","resources":{"requests":{"cpu":"800m"}}}],"generation":2,"error":"`
	if m := b.message(small, "ResizeDeferred"); m != says+want+`"}` {
		t.Errorf("got %q, want %q", m, says+want+`"}`)
	}
	b.stop()
	b.boot()
	got = b.await(small, "deferred after a loss of power", func(p *corev1.Pod) bool { return deferred(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if given(got) != 300 {
		t.Errorf("after a loss of power it has %dm", given(got))
	}
	b.remove(big, 0)
	got = b.await(small, "resized", func(p *corev1.Pod) bool { return given(p) == 800 })
	if conditionOf(got, corev1.PodResizePending) != nil || conditionOf(got, corev1.PodResizeInProgress) != nil || got.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("got %+v", got.Status)
	}
	if r := b.reasons(small); r["ResizeStarted"] != 1 || r["ResizeCompleted"] != 1 || r["ResizeDeferred"] != 1 {
		t.Errorf("got %v", r)
	}
	if m := b.message(small, "ResizeCompleted"); m != `Pod resize completed: {"containers":[{"name":"web","resources":{"requests":{"cpu":"800m"}}}],"generation":2}` {
		t.Errorf("got %q", m)
	}
}

// N-6: who takes a resize back that waits has what he had, and nobody hears of it any more.
func TestAResizeIsTakenBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	total := b.resources.Cpu().MilliValue()
	pod := webPod("web")
	pod.Spec.Containers[0].Resources.Requests = milli(300)
	b.create(pod)
	b.awaitReady(pod)
	b.resizeTo(pod, milli(total+1))
	b.await(pod, "deferred", func(p *corev1.Pod) bool { return conditionOf(p, corev1.PodResizePending) != nil })
	b.resizeTo(pod, milli(300))
	got := b.await(pod, "as before", func(p *corev1.Pod) bool {
		return conditionOf(p, corev1.PodResizePending) == nil && p.Status.ObservedGeneration == 3
	})
	if given(got) != 300 || b.reasons(pod)["ResizeStarted"] != 0 {
		t.Errorf("it has %dm; events %v", given(got), b.reasons(pod))
	}
}

// N-6, N-12: resizePolicy says which amounts are changed by a restart; the resize is over when that is, and what the container then
// sees of its own amounts is the new ones.
func TestAResizePolicyRestartsTheContainer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sh", "-c", "echo $MEMORY; "+stay)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	c := &pod.Spec.Containers[0]
	c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("16Mi")}
	c.ResizePolicy = []corev1.ContainerResizePolicy{
		{ResourceName: "cpu", RestartPolicy: corev1.NotRequired}, {ResourceName: "memory", RestartPolicy: corev1.RestartContainer},
	}
	c.Env = []corev1.EnvVar{{Name: "MEMORY", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.memory"}}}}
	b.create(pod)
	b.awaitReady(pod)
	b.resizeTo(pod, milli(200))
	got := b.await(pod, "resized", func(p *corev1.Pod) bool { return given(p) == 200 })
	if n := got.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("another amount of cpu: %d restarts", n)
	}
	b.resizeTo(pod, corev1.ResourceList{"memory": resource.MustParse("32Mi")})
	b.await(pod, "started again", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) && conditionOf(p, corev1.PodResizeInProgress) == nil
	})
	if m := b.message(pod, "Killing"); m != "Container main resize requires restart" {
		t.Errorf("got %q", m)
	}
	b.until("its new amount", func() bool { return strings.TrimSpace(b.logs(pod, LogRequest{})) == "33554432" })
	if r := b.reasons(pod); r["ResizeStarted"] != 2 || r["ResizeCompleted"] != 2 {
		t.Errorf("got %v", r)
	}
}

// N-4, N-6: a pod that somebody puts on a machine without room for it fails there, in kubelet's words, and nothing of it is made.
func TestAPodWithoutRoomIsRejected(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	total := b.resources.Cpu().MilliValue()
	pod, after := webPod("web"), webPod("after")
	pod.Spec.Containers[0].Resources.Requests, after.Spec.Containers[0].Resources.Requests = milli(total+1), milli(total)
	b.create(pod)
	got := b.await(pod, "rejected", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	message := fmt.Sprintf("Node didn't have enough resource: cpu, requested: %d, used: 0, capacity: %d", total+1, total)
	if s := got.Status; s.Reason != "OutOfcpu" || s.Message != "Pod was rejected: "+message || s.PodIP != "" || len(s.ContainerStatuses) > 0 {
		t.Errorf("got %+v", s)
	}
	if m := b.message(pod, "OutOfcpu"); m != message {
		t.Errorf("got %q, want %q", m, message)
	}
	b.create(after) // what was not given is there for others
	b.awaitReady(after)
}

// N-6: of those who wait, who asks for no more goes first, then by priority, quality of service, and time; who fits passes who does not.
func TestResizesAreGrantedInOrder(t *testing.T) {
	t.Parallel()
	a := newAllocations(corev1.ResourceList{"cpu": resource.MustParse("1"), "pods": resource.MustParse("10")})
	nudged := map[types.UID]int{}
	of := func(uid string, cpu int64, priority int32, qos corev1.PodQOSClass) claim {
		return claim{uid: types.UID(uid), wants: amounts{"cpu": cpu}, priority: priority, qos: qos, nudge: func() { nudged[types.UID(uid)]++ }}
	}
	for _, uid := range []string{"late", "early", "guaranteed", "important"} {
		if lack := a.admit(of(uid, 100, 0, "")); lack != nil {
			t.Fatal(lack)
		}
	}
	if lack := a.admit(of("hog", 600, 0, "")); lack != nil {
		t.Fatal(lack)
	}
	asked := []claim{of("early", 200, 0, ""), of("late", 200, 0, ""), of("guaranteed", 200, 0, corev1.PodQOSGuaranteed), of("important", 200, 1, "")}
	for _, c := range asked {
		if a.ask(c) == nil {
			t.Errorf("%s was granted", c.uid)
		}
	}
	for i, want := range []types.UID{"important", "guaranteed", "early", "late"} {
		if lack := a.ask(of("hog", 500-100*int64(i), 0, "")); lack != nil {
			t.Errorf("less was refused: %v", lack)
		}
		if a.given[want].wants["cpu"] != 200 || len(a.waits) != 3-i {
			t.Errorf("%s was not the next: %v", want, a.given)
		}
	}
	for _, c := range asked {
		if nudged[c.uid] == 0 {
			t.Errorf("%s was not told", c.uid)
		}
	}
	a.release("hog")
	if a.used["cpu"] != 800 || len(a.given) != 4 {
		t.Errorf("got %v of %v", a.used, a.given)
	}
}
