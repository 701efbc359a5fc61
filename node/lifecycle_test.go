package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: "jump", Command: []string{"sh", "-c", script}}
}

// stay is the end of a script that runs until SIGTERM.
const stay = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"

func waitingReason(s corev1.ContainerStatus) string {
	if s.State.Waiting == nil {
		return ""
	}
	return s.State.Waiting.Reason
}

func condition(pod *corev1.Pod, t corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.PodCondition{}
}

// N-6, N-7: one after another, the sidecar stays, and the others wait.
func TestInitContainersRunInOrderAndASidecarStays(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	sidecar := shell("sidecar", "echo side; "+stay)
	sidecar.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/up"}}}}
	pod.Spec.InitContainers = []corev1.Container{shell("first", "echo first"), sidecar, shell("last", "echo last")}
	b.create(pod)
	got := b.await(pod, "waiting for the sidecar", func(p *corev1.Pod) bool {
		return len(p.Status.InitContainerStatuses) == 3 && p.Status.InitContainerStatuses[1].State.Running != nil
	})
	if s := got.Status; s.Phase != corev1.PodPending || waitingReason(s.ContainerStatuses[0]) != "PodInitializing" ||
		waitingReason(s.InitContainerStatuses[2]) != "PodInitializing" || !s.InitContainerStatuses[0].Ready {
		t.Errorf("got %+v", s)
	}
	want := "containers with incomplete status: [sidecar last]"
	if c := condition(got, corev1.PodInitialized); c.Status != corev1.ConditionFalse || c.Message != want {
		t.Errorf("got %+v, want %s", c, want)
	}
	if _, err := b.execIn(pod, "sidecar", "touch", "/tmp/up"); err != nil {
		t.Fatal(err)
	}
	got = b.awaitReady(pod)
	if c := condition(got, corev1.PodInitialized); c.Status != corev1.ConditionTrue {
		t.Errorf("got %+v", c)
	}
	if s := got.Status.InitContainerStatuses; s[2].State.Terminated == nil || s[1].State.Running == nil || !s[1].Ready || !*s[1].Started {
		t.Errorf("got %+v", s)
	}
	for name, want := range map[string]string{"first": "first\n", "sidecar": "side\n", "last": "last\n"} {
		if log := b.logs(pod, LogRequest{Container: name}); log != want {
			t.Errorf("%s logged %q", name, log)
		}
	}
}

// N-7: a sidecar that ends is started again, and nobody else is.
func TestASidecarIsStartedAgainAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	sidecar := shell("sidecar", stay)
	sidecar.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
	pod.Spec.InitContainers = []corev1.Container{sidecar}
	b.create(pod)
	b.awaitReady(pod)
	b.execIn(pod, "sidecar", "kill", "1")
	got := b.await(pod, "running a new sidecar", func(p *corev1.Pod) bool {
		return isReady(p) && p.Status.InitContainerStatuses[0].RestartCount == 1
	})
	if n := got.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("the application was started again %d times", n)
	}
	b.remove(pod, 30)
	b.awaitGone(pod)
}

// N-7
func TestAFailingInitContainerBacksOffOrFailsThePod(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	again, never := webPod("again"), webPod("never")
	for _, pod := range []*corev1.Pod{again, never} {
		pod.Spec.InitContainers = []corev1.Container{shell("init", "exit 3")}
	}
	never.Spec.RestartPolicy = corev1.RestartPolicyNever
	b.create(again)
	b.create(never)
	got := b.await(again, "backing off", func(p *corev1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return len(s) > 0 && waitingReason(s[0]) == "CrashLoopBackOff"
	})
	if got.Status.Phase != corev1.PodPending || got.Status.InitContainerStatuses[0].RestartCount != 1 {
		t.Errorf("got %+v", got.Status)
	}
	err := b.Logs(t.Context(), LogRequest{Namespace: "dev", Pod: "again"})
	if want := `container "web" in pod "again" is waiting to start: PodInitializing`; err == nil || err.Error() != want {
		t.Errorf("its log: got %v, want %s", err, want)
	}
	_, err = b.execIn(again, "web", "true")
	if want := `Internal error occurred: unable to upgrade connection: container not found ("web")`; err == nil || err.Error() != want {
		t.Errorf("a command in it: got %v, want %s", err, want)
	}
	got = b.await(never, "Failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := got.Status.ContainerStatuses[0]; waitingReason(s) != "PodInitializing" || got.Status.PodIP == "" {
		t.Errorf("got %+v, address %q", s, got.Status.PodIP)
	}
}

// N-7: a Job's pod ends though its sidecar would not.
func TestSidecarsEndAfterTheOthersLastFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("job", "sh", "-c", "echo done")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, name := range []string{"one", "two"} {
		c := shell(name, "echo up; "+strings.Replace(stay, "exit 0", "date +%s%N; exit 0", 1))
		c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
		// It has to be listening for SIGTERM before the job is over.
		c.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"pgrep", "sleep"}}}}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	b.create(pod)
	got := b.await(pod, "Succeeded", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded &&
			p.Status.InitContainerStatuses[0].State.Terminated != nil
	})
	one, two := b.logs(pod, LogRequest{Container: "one"}), b.logs(pod, LogRequest{Container: "two"})
	if !strings.HasPrefix(one, "up\n") || two >= one || len(one) < 10 || len(two) < 10 {
		t.Errorf("one ended at %q, two at %q", one, two)
	}
	if c := condition(got, corev1.PodReady); c.Reason != "PodCompleted" {
		t.Errorf("got %+v", c)
	}
}

// N-9, N-14
func TestAGRPCProbeAsksTheHealthService(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1,
		ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 80, Service: ptr("shop")}}}
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	if _, err := b.get(ip, "/readyz?set=false"); err != nil {
		t.Fatal(err)
	}
	b.await(pod, "unready", func(p *corev1.Pod) bool { return !isReady(p) })
	if m := b.message(pod, "Unhealthy"); !strings.Contains(m, `service unhealthy (responded with "NOT_SERVING")`) {
		t.Errorf("got %q", m)
	}
}

// N-9
func TestEachKindOfProbeFailsWithKubeletsWords(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for name, c := range map[string]struct {
		handler corev1.ProbeHandler
		want    string
	}{
		"http": {corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/status/500", Port: intstr.FromInt32(80)}}, "HTTP probe failed with statuscode: 500"},
		"tcp":  {corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(81)}}, "connection refused"},
		"exec": {corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo ill >&2; false"}}}, "ill"},
		"grpc": {corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 81}}, "failed to connect service"},
	} {
		pod := webPod(name)
		pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: c.handler, FailureThreshold: 1, PeriodSeconds: 60, TimeoutSeconds: 10}
		b.create(pod)
		b.awaitEvent(pod, "Unhealthy")
		if m := b.message(pod, "Unhealthy"); !strings.HasPrefix(m, "Readiness probe failed: ") || !strings.Contains(m, c.want) {
			t.Errorf("%s: got %q, want %q", name, m, c.want)
		}
	}
}

// N-9
func TestAStartupProbeHoldsTheOthersBackAndRestartsWhenItGivesUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	c := &pod.Spec.Containers[0]
	c.StartupProbe, c.LivenessProbe = httpProbe("/status/500"), httpProbe("/status/500")
	c.StartupProbe.FailureThreshold = 2
	b.create(pod)
	b.await(pod, "restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	if m := b.message(pod, "Unhealthy"); !strings.HasPrefix(m, "Startup probe failed") {
		t.Errorf("got %q", m)
	}
	if m := b.message(pod, "Killing"); m != "Container web failed startup probe, will be restarted" {
		t.Errorf("got %q", m)
	}
}

// N-6, N-12: what cannot be started is told as such, and was never started.
func TestACommandThatIsNotThereIsAStartError(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, tty := range []bool{false, true} {
		once, again := commandPod(fmt.Sprint("once-", tty), "no-such-program"), commandPod(fmt.Sprint("again-", tty), "/no/such")
		once.Spec.RestartPolicy = corev1.RestartPolicyNever
		once.Spec.Containers[0].TTY, again.Spec.Containers[0].TTY = tty, tty
		b.create(once)
		b.create(again)
		got := b.await(once, "Failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		const says = `exec: "no-such-program": executable file not found in $PATH`
		if e := got.Status.ContainerStatuses[0].State.Terminated; e == nil || e.Reason != "StartError" || e.ExitCode != 128 || e.Message != says {
			t.Errorf("got %+v", e)
		}
		if r := b.reasons(once); r["Created"] != 1 || r["Started"] != 0 || b.message(once, "Failed") != "Error: "+says {
			t.Errorf("got %v, %q", r, b.message(once, "Failed"))
		}
		b.await(again, "backing off", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) > 0 && waitingReason(p.Status.ContainerStatuses[0]) == "CrashLoopBackOff"
		})
	}
}

// N-10: preStop first, then SIGTERM; a postStart that fails ends the container.
func TestHooksRunAfterTheStartAndBeforeTheEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("hooked", "sh", "-c", strings.Replace(stay, "exit 0", "cat /tmp/hooks; exit 0", 1))
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo started >>/tmp/hooks"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo stopping >>/tmp/hooks; cp /tmp/hooks /dev/termination-log"}}},
	}
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"pgrep", "sleep"}}}}
	b.create(pod)
	b.awaitReady(pod)
	w := b.find("dev", "hooked")
	b.remove(pod, 30)
	b.awaitGone(pod)
	if got := w.containers[0].log(false).text(); got != "started\nstopping\n" {
		t.Errorf("got %q", got)
	}
	bad := webPod("bad")
	bad.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo broken; exit 1"}}}}
	b.create(bad)
	b.await(bad, "restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	if m := b.message(bad, "FailedPostStartHook"); m != "PostStartHook failed" {
		t.Errorf("got %q", m)
	}
}

// N-10: a hook that sleeps delays SIGTERM, and cannot outlive the grace by more than a moment.
func TestAPreStopHookIsCutShortWhenTheGraceIsOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("slow")
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1000}}}
	b.create(pod)
	b.awaitReady(pod)
	b.remove(pod, 1)
	b.awaitGone(pod)
	if m := b.message(pod, "FailedPreStopHook"); m != "" && m != "PreStopHook failed" {
		t.Errorf("got %q", m)
	}
}

// N-6: a pod has failed, and what it holds is free, when its containers have ended, and not before.
func TestAPodThatIsActiveForTooLongFails(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("late")
	pod.Spec.Containers = append(pod.Spec.Containers, shell("stubborn", "trap '' TERM; while :; do sleep 1; done"))
	pod.Spec.ActiveDeadlineSeconds, pod.Spec.TerminationGracePeriodSeconds = ptr[int64](1), ptr[int64](1)
	b.create(pod)
	got := b.await(pod, "ending", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 2 && p.Status.ContainerStatuses[0].State.Terminated != nil
	})
	if s := got.Status; s.Phase != corev1.PodRunning || s.Reason != "" || condition(got, corev1.PodReady).Reason != "PodFailed" || s.ContainerStatuses[1].State.Running == nil {
		t.Errorf("while it ends: got %+v", s)
	}
	got = b.await(pod, "Failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := got.Status.ContainerStatuses[1].State.Terminated; s == nil || s.ExitCode != 137 {
		t.Errorf("it has failed with %+v", got.Status.ContainerStatuses[1].State)
	}
	if diff := cmp.Diff("DeadlineExceeded", got.Status.Reason); diff != "" {
		t.Error(diff)
	}
	if _, ok := b.PodNS("dev", "late"); ok {
		t.Error("its network is still there")
	}
}

// N-11: an ephemeral container joins a running pod, and is not restarted.
func TestAnEphemeralContainerJoinsARunningPod(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	b.change(pod, func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debug", Image: "busybox", Command: []string{"sh", "-c", "curl -s http://127.0.0.1/ | head -1; exit 5"}}}}
	})
	got := b.await(pod, "debugged", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Terminated != nil
	})
	if s := got.Status.EphemeralContainerStatuses[0]; s.State.Terminated.ExitCode != 5 || s.RestartCount != 0 || !isReady(got) || got.Status.PodIP != ip {
		t.Errorf("got %+v", got.Status)
	}
	if log := b.logs(pod, LogRequest{Container: "debug"}); log != "pod: web-1\n" {
		t.Errorf("got %q", log)
	}
}

// N-6: what a container leaves in its termination log is its message; one that fails without is judged by its log.
func TestAContainersLastWordsAreItsMessage(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for name, c := range map[string]struct {
		script string
		policy corev1.TerminationMessagePolicy
		want   string
	}{
		"file":  {"echo why >/dev/termination-log; exit 1", corev1.TerminationMessageReadFile, "why\n"},
		"log":   {"echo so; exit 1", corev1.TerminationMessageFallbackToLogsOnError, "so\n"},
		"quiet": {"echo so; exit 1", corev1.TerminationMessageReadFile, ""},
	} {
		pod := commandPod(name, "sh", "-c", c.script)
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.Containers[0].TerminationMessagePath, pod.Spec.Containers[0].TerminationMessagePolicy = "/dev/termination-log", c.policy
		b.create(pod)
		got := b.await(pod, "Failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if m := got.Status.ContainerStatuses[0].State.Terminated.Message; m != c.want {
			t.Errorf("%s: got %q, want %q", name, m, c.want)
		}
	}
}

// awaitEvent returns when an event of the reason tells of the pod.
func (b *bench) awaitEvent(pod *corev1.Pod, reason string) {
	b.t.Helper()
	b.until("an event "+reason, func() bool { return b.reasons(pod)[reason] > 0 })
}

// until looks again and again.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("%s did not come", what)
		}
	}
}
