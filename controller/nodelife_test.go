package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// taints are a node's as "key:effect", in order.
func taints(n *corev1.Node) []string {
	var all []string
	for _, taint := range n.Spec.Taints {
		all = append(all, taint.Key+":"+string(taint.Effect))
	}
	slices.Sort(all)
	return all
}

// N-1, N-3: a node that renews its lease no longer is NotReady after the grace, with Kubernetes' words and taints; its endpoints
// leave at once and its pods after the toleration; they are replaced elsewhere and stay Terminating until the node is back.
func TestASilentNodeLosesItsEndpointsAndThenItsPods(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		l.create(service("web", map[string]string{"app": "web"}))
		l.create(deployment("web", 4))
		l.pass(time.Second)
		if n := l.readyEndpoints("web"); n != 4 {
			t.Fatalf("ready endpoints: got %d, want 4", n)
		}
		l.pass(5 * time.Minute)
		if !nodeReady(l.node("n1")) {
			t.Fatal("a node that renews its lease is not ready")
		}
		l.hush("n1", true)
		l.pass(35 * time.Second) // since its last word at most 35 s, at least 25 s
		if n := l.readyEndpoints("web"); n != 4 {
			t.Errorf("within the grace: got %d ready endpoints, want 4", n)
		}
		l.pass(10 * time.Second)
		n1 := l.node("n1")
		for _, c := range n1.Status.Conditions {
			if c.Status != corev1.ConditionUnknown {
				t.Errorf("%s is %s, want Unknown", c.Type, c.Status)
			}
		}
		ready := nodeCondition(n1, corev1.NodeReady)
		if ready.Reason != "NodeStatusUnknown" || ready.Message != "Kubelet stopped posting node status." {
			t.Errorf("Ready: %+v", ready)
		}
		want := []string{"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"}
		if d := cmp.Diff(want, taints(n1)); d != "" {
			t.Error(d)
		}
		if n := l.readyEndpoints("web"); n != 2 {
			t.Errorf("after the grace: got %d ready endpoints, want 2", n)
		}
		if live, _ := l.podsOn("n1"); len(live) != 2 {
			t.Errorf("within the toleration %d pods stay, want 2", len(live))
		}
		l.pass(301 * time.Second)
		live, ending := l.podsOn("n1")
		others, _ := l.podsOn("n2")
		if len(live) != 0 || len(ending) != 2 || len(others) != 4 || l.readyEndpoints("web") != 4 {
			t.Errorf("after the toleration: %d live and %d Terminating on n1, %d on n2, %d ready endpoints", len(live), len(ending), len(others), l.readyEndpoints("web"))
		}
		told := l.told()
		for _, want := range []string{
			"Normal NodeNotReady Node n1 status is now: NodeNotReady", "Warning NodeNotReady Node is not ready",
			"Normal TaintManagerEviction Marking for deletion Pod dev/" + ending[0].Name,
		} {
			if told[want] == 0 {
				t.Errorf("no event %q in %v", want, told)
			}
		}
		c := podCondition(ending[0], corev1.DisruptionTarget)
		if c == nil || c.Reason != "DeletionByTaintManager" {
			t.Errorf("the condition DisruptionTarget: %+v", c)
		}
		l.pass(time.Hour)
		if _, ending := l.podsOn("n1"); len(ending) != 2 {
			t.Errorf("%d pods stay Terminating on the lost node, want 2", len(ending))
		}
	}, "n1", "n2")
}

// N-3: a node that is heard of again is Ready without taints, and the pods that ran on are endpoints again; nobody was evicted.
func TestANodeThatIsHeardOfAgainTakesItsPodsBack(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		l.create(service("web", map[string]string{"app": "web"}))
		l.create(deployment("web", 4))
		l.pass(time.Second)
		for _, p := range list[*corev1.Pod](l.testCluster, api.Pods) {
			change(l.testCluster, api.Pods, p.Name, func(p *corev1.Pod) {
				setPodCondition(p, corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}, time.Now())
			})
		}
		l.hush("n1", true)
		l.pass(time.Minute)
		if n := l.readyEndpoints("web"); n != 2 {
			t.Fatalf("silent: got %d ready endpoints, want 2", n)
		}
		l.hush("n1", false)
		l.pass(11 * time.Second)
		n1 := l.node("n1")
		if c := nodeCondition(n1, corev1.NodeReady); c.Status != corev1.ConditionTrue || c.Reason != "KubeletReady" {
			t.Errorf("Ready: %+v", c)
		}
		if len(n1.Spec.Taints) != 0 || l.readyEndpoints("web") != 4 {
			t.Errorf("taints %v, %d ready endpoints, want none and 4", taints(n1), l.readyEndpoints("web"))
		}
		l.pass(10 * time.Minute)
		if live, _ := l.podsOn("n1"); len(live) != 2 {
			t.Errorf("%d pods on n1, want 2: their deletion is cancelled", len(live))
		}
		told := l.told()
		if told["Normal NodeReady Node n1 status is now: NodeReady"] != 1 {
			t.Errorf("events: %v", told)
		}
	}, "n1", "n2")
}

// N-3: with no node left that is ready nobody is evicted: there would be no place to go to.
func TestNobodyIsEvictedWhenEveryNodeIsLost(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		l.create(deployment("web", 4))
		l.pass(time.Second)
		l.hush("n1", true)
		l.hush("n2", true)
		l.pass(20 * time.Minute)
		live1, _ := l.podsOn("n1")
		live2, _ := l.podsOn("n2")
		if len(live1)+len(live2) != 4 {
			t.Errorf("%d pods stay, want 4", len(live1)+len(live2))
		}
		if d := cmp.Diff([]string{"node.kubernetes.io/unreachable:NoSchedule"}, taints(l.node("n1"))); d != "" {
			t.Error(d)
		}
	}, "n1", "n2")
}

// N-3: grace and toleration are adjustable, so that a lesson does not wait; who tolerates longer or shorter stays so long.
func TestALessonNeedNotWaitForALostNode(t *testing.T) {
	inLab(t, Config{NodeGrace: 11 * time.Second}, func(l *lab) { // and so a toleration of 83 s
		l.create(deployment("web", 2))
		longer := int64(100)
		for name, seconds := range map[string]*int64{"longer": &longer, "ever": nil} {
			l.create(but(running(name, ""), func(p *corev1.Pod) {
				p.UID, p.Spec.NodeName = "", "n1"
				p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
			}))
		}
		l.pass(time.Second)
		l.hush("n1", true)
		l.pass(97 * time.Second)
		_, ending := l.podsOn("n1")
		if len(ending) != 1 || len(list[*corev1.Pod](l.testCluster, api.Pods)) != 5 {
			t.Errorf("86 s after the loss: %d Terminating of %d pods, want the Deployment's one, replaced", len(ending), len(list[*corev1.Pod](l.testCluster, api.Pods)))
		}
		l.pass(16 * time.Second)
		live, ending := l.podsOn("n1")
		if len(ending) != 2 || len(live) != 1 || live[0].Name != "ever" {
			t.Errorf("102 s after the loss: %d Terminating, %d stay", len(ending), len(live))
		}
	}, "n1", "n2")
}

// N-3: pods of a lost node go when someone says that it is out of service, or when its object is deleted.
func TestPodsOfALostNodeGoWhenItIsGivenUp(t *testing.T) {
	for name, give := range map[string]func(*lab){
		"out of service": func(l *lab) {
			l.changeNode("n1", func(n *corev1.Node) {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
			})
		},
		"deleted": func(l *lab) {
			l.write(func(tx *store.Tx) error { return tx.Delete(api.Nodes, "", "n1", store.DeleteOptions{}) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, Config{}, func(l *lab) {
				l.create(deployment("web", 2))
				l.pass(time.Second)
				l.hush("n1", true)
				l.pass(time.Minute)
				give(l)
				live, ending := l.podsOn("n1")
				others, _ := l.podsOn("n2")
				if len(live)+len(ending) != 0 || len(others) != 2 {
					t.Errorf("%d live and %d Terminating on n1, %d on n2; want none and 2", len(live), len(ending), len(others))
				}
			}, "n1", "n2")
		})
	}
}

// N-3: a pod on a node that never was is removed, but not before the node could have come.
func TestAPodOnANodeThatNeverWasIsRemoved(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		for _, on := range []string{"n8", "n9"} {
			l.create(but(running("on-"+on, ""), func(p *corev1.Pod) { p.UID, p.Spec.NodeName = "", on }))
		}
		l.pass(30 * time.Second)
		l.create(node("n8"))
		l.pass(30 * time.Second)
		left := list[*corev1.Pod](l.testCluster, api.Pods)
		if len(left) != 1 || left[0].Name != "on-n8" {
			t.Errorf("left: %v", left)
		}
	})
}

// N-3: a NoExecute taint that somebody puts on a node evicts at once whoever does not tolerate it; cordoning evicts nobody and shows
// as a taint.
func TestATaintThatExecutesEvicts(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		l.create(deployment("web", 2))
		l.pass(time.Second)
		l.changeNode("n1", func(n *corev1.Node) { n.Spec.Unschedulable = true })
		if d := cmp.Diff([]string{"node.kubernetes.io/unschedulable:NoSchedule"}, taints(l.node("n1"))); d != "" {
			t.Error(d)
		}
		if live, _ := l.podsOn("n1"); len(live) != 1 {
			t.Errorf("cordoned: %d pods, want 1", len(live))
		}
		l.changeNode("n1", func(n *corev1.Node) {
			n.Spec.Unschedulable = false
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "maintenance", Effect: corev1.TaintEffectNoExecute})
		})
		if d := cmp.Diff([]string{"maintenance:NoExecute"}, taints(l.node("n1"))); d != "" {
			t.Error(d)
		}
		l.pass(time.Second)
		others, _ := l.podsOn("n2")
		if live, ending := l.podsOn("n1"); len(live)+len(ending) != 0 || len(others) != 2 {
			t.Errorf("tainted: %d live, %d ending, %d elsewhere", len(live), len(ending), len(others))
		}
	}, "n1", "n2")
}

// N-3: the controllers' own start is no node's fault: each has the whole grace from there, and an old lease is no sign of life.
func TestANodeHasItsGraceFromTheControllersStart(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		l.hush("n1", true)
		l.pass(time.Hour)
		if nodeReady(l.node("n1")) {
			t.Fatal("n1 is ready after an hour of silence")
		}
		e := newEngine(New(Config{Store: l.store}).o)
		events, err := e.everything(l.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.finish(l.ctx, events); err != nil {
			t.Fatal(err)
		}
		if nodeReady(l.node("n1")) {
			t.Error("an old lease made a lost node ready")
		}
		if n2 := l.node("n2"); !nodeReady(n2) || len(n2.Spec.Taints) > 0 {
			t.Errorf("n2: %+v", n2.Status.Conditions)
		}
	}, "n1", "n2")
}

// N-3: for how long a pod stays beside taints.
func TestHowLongATaintIsTolerated(t *testing.T) {
	t.Parallel()
	since := time.Unix(1000, 0)
	lost := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	mine := corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute}
	tol := func(key string, seconds int64) corev1.Toleration {
		tl := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if seconds > -100 {
			tl.TolerationSeconds = &seconds
		}
		return tl
	}
	const ever = -100
	for _, tc := range []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		want        int64 // seconds; ever
	}{
		{"no taint", nil, nil, ever},
		{"no toleration", nil, []corev1.Taint{lost}, 0},
		{"for ever", []corev1.Toleration{tol(lost.Key, ever)}, []corev1.Taint{lost}, ever},
		{"for a while", []corev1.Toleration{tol(lost.Key, 300)}, []corev1.Taint{lost}, 300},
		{"negative is at once", []corev1.Toleration{tol(lost.Key, -5)}, []corev1.Taint{lost}, 0},
		{"the shortest of two", []corev1.Toleration{tol(lost.Key, 300), tol("", 20)}, []corev1.Taint{lost}, 20},
		{"one of two taints", []corev1.Toleration{tol(lost.Key, 300)}, []corev1.Taint{lost, mine}, 0},
		{"both", []corev1.Toleration{tol(lost.Key, 300), tol("mine", 30)}, []corev1.Taint{lost, mine}, 30},
	} {
		seen := map[corev1.Taint]time.Time{}
		for _, taint := range tc.taints {
			seen[taint] = since
		}
		at, leaves := leaveAt(&corev1.Pod{Spec: corev1.PodSpec{Tolerations: tc.tolerations}}, seen)
		got := int64(ever)
		if leaves {
			got = int64(at.Sub(since) / time.Second)
		}
		if got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}

// N-3: the time goes with the grace.
func TestTheTolerationGoesWithTheGrace(t *testing.T) {
	t.Parallel()
	for grace, want := range map[time.Duration]time.Duration{0: 300 * time.Second, 2 * time.Second: 15 * time.Second} {
		if got := Toleration(grace); got != want {
			t.Errorf("%v: got %v, want %v", grace, got, want)
		}
	}
}

// N-1, N-12: events tell of nodes that come and go, once.
func TestEventsTellOfNodesThatComeAndGo(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.pass(time.Minute)
		l.write(func(tx *store.Tx) error { return tx.Delete(api.Nodes, "", "n2", store.DeleteOptions{}) })
		l.pass(time.Second)
		for _, want := range []string{
			"Normal RegisteredNode Node n1 event: Registered Node n1 in Controller", "Normal RegisteredNode Node n2 event: Registered Node n2 in Controller",
			"Normal RemovingNode Node n2 event: Removing Node n2 from Controller",
		} {
			if l.told()[want] != 1 {
				t.Errorf("events: got %v, want %q once", l.told(), want)
			}
		}
	}, "n1", "n2")
}
