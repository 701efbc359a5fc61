package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// kin is a pod whose containers share their processes: a sidecar and a command that stay, and the built-in application.
func kin(name string) *corev1.Pod {
	pod := webPod(name)
	pod.Spec.ShareProcessNamespace = ptr(true)
	pod.Spec.Containers = append([]corev1.Container{shell("one", stay+" # first")}, pod.Spec.Containers...)
	side := shell("side", stay+" # beside")
	side.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
	pod.Spec.InitContainers = []corev1.Container{shell("prepare", "tr '\\0' ' ' </proc/1/cmdline"), side}
	return pod
}

func restarts(pod *corev1.Pod) string {
	var all []int32
	for _, s := range append(pod.Status.InitContainerStatuses[1:2:2], pod.Status.ContainerStatuses...) {
		all = append(all, s.RestartCount)
	}
	return fmt.Sprint(all)
}

func (b *bench) awaitRestarts(pod *corev1.Pod, want string) *corev1.Pod {
	b.t.Helper()
	return b.await(pod, "restarted "+want, func(p *corev1.Pod) bool { return restarts(p) == want && isReady(p) })
}

// N-5, N-21: with shareProcessNamespace the containers of a pod see and signal each other's processes, and reach each other's files,
// below a process 1 that is none of them; every container still ends and starts by itself.
func TestContainersOfAPodShareTheirProcesses(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := kin("kin")
	b.create(pod)
	b.awaitReady(pod)
	if log := b.logs(pod, LogRequest{Container: "prepare"}); strings.TrimSpace(log) != "/pause" {
		t.Errorf("an init container saw process 1 as %q", log)
	}
	b.expect(pod, "one", "touch /tmp/mine", "")
	for _, c := range []string{"side", "one", "web"} {
		b.expect(pod, c, "ps -o args= -p 1; pgrep -f '[#] first' | wc -l; pgrep -f '[#] beside' | wc -l; pgrep -fx '[s]hop:1.0' | wc -l; hostname",
			"/pause\n1\n1\n1\nkin")
	}
	b.expect(pod, "side", "ls /proc/$(pgrep -f '[#] first')/root/tmp", "mine")
	b.expect(pod, "web", "kill -9 $(pgrep -f '[#] first')", "")
	b.awaitRestarts(pod, "[0 1 0]")
	b.expect(pod, "one", "kill $(pgrep -fx '[s]hop:1.0')", "")
	got := b.awaitRestarts(pod, "[0 1 1]")
	if e := got.Status.ContainerStatuses[0].LastTerminationState.Terminated; e == nil || e.ExitCode != 137 {
		t.Errorf("got %+v, want exit code 137", e)
	}
	if _, err := b.get(got.Status.PodIP, "/healthz"); err != nil {
		t.Error(err)
	}
	b.remove(pod, 0)
	b.awaitGone(pod)
}

// N-16: what a container leaves behind ends with it, and so does the pod's whole company with the pause process; it is told of.
func TestNothingIsLeftOfAContainerThatSharesItsProcesses(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := kin("kin")
	pod.Spec.Containers[0] = shell("one", "for i in 1 2 3; do (setsid sh -c 'sleep 4711 & sleep 4711' &); done; "+stay+" # first")
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "side", "while test $(pgrep -fxc 'sleep 4711') -lt 6; do sleep .01; done; pkill -9 -f '[#] first'", "")
	b.awaitRestarts(pod, "[0 1 0]")
	b.expect(pod, "side", "while test $(pgrep -fxc 'sleep 4711') -lt 6; do sleep .01; done; pgrep -fxc 'sleep 4711'", "6")
	b.execIn(pod, "side", "kill", "1")
	b.await(pod, "started again", func(p *corev1.Pod) bool {
		s := p.Status
		return s.InitContainerStatuses[1].RestartCount == 1 && s.ContainerStatuses[1].RestartCount == 1
	})
	b.await(pod, "told of", func(*corev1.Pod) bool { return b.message(pod, "SandboxChanged") == sandboxChanged })
	b.remove(pod, 0)
	b.awaitGone(pod)
}

// N-18: a pod that asks for the host's processes sees its own, all of them.
func TestNobodySeesTheHostsProcesses(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := kin("nosy")
	pod.Spec.ShareProcessNamespace, pod.Spec.HostPID, pod.Spec.HostIPC = nil, true, true
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "one", "ps -o args= -p 1; pgrep -f '[#] beside' | wc -l", "/pause\n1")
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	b.expect(pod, "one", "readlink /proc/self/ns/pid | grep -c '"+own+"'", "0")
	exe := filepath.Base(os.Args[0])
	b.expect(pod, "one", "pgrep -f '"+exe[:len(exe)-1]+"["+exe[len(exe)-1:]+"]' | wc -l", "0")
}

// N-11: kubectl debug --target among containers that share their processes: the debugger has files of its own.
func TestADebuggerJoinsContainersThatShareTheirProcesses(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := kin("kin")
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "one", "touch /tmp/mine", "")
	const look = "pgrep -f '[#] first' | wc -l; ls /tmp /proc/$(pgrep -f '[#] first')/root/tmp"
	b.change(pod, func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{
			debugger("aimed", "one", "sh", "-c", look), debugger("apart", "", "sh", "-c", look), debugger("astray", "nobody", "true"),
		}
	})
	b.await(pod, "debugged", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 3 && s[0].State.Terminated != nil && s[1].State.Terminated != nil && waitingReason(s[2]) == "CreateContainerConfigError"
	})
	for _, name := range []string{"aimed", "apart"} {
		if log := strings.Join(strings.Fields(b.logs(pod, LogRequest{Container: name})), " "); !strings.HasPrefix(log, "1 /proc/") || !strings.HasSuffix(log, "/root/tmp: mine /tmp:") {
			t.Errorf("%s: got %q", name, log)
		}
	}
}

// N-17: the one number that an ordinary user's cluster has is every container's where they share their processes.
func TestContainersThatShareTheirProcessesMayBeDifferentUsers(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := kin("kin")
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(1000))}
	b.create(pod)
	if multiUser() {
		b.awaitReady(pod)
		b.expect(pod, "one", "id -u; kill -9 $(pgrep -f '[#] beside') 2>/dev/null || echo refused", "1000\nrefused")
		b.expect(pod, "side", "id -u; kill -9 $(pgrep -f '[#] first')", "0") // root may
		b.awaitRestarts(pod, "[0 1 0]")
		return
	}
	got := b.await(pod, "refused", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && waitingReason(p.Status.ContainerStatuses[0]) == "CreateContainerConfigError"
	})
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(m, "an ordinary user's cluster has one user for all") {
		t.Errorf("got %q", m)
	}
}
