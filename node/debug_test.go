package node

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func debugger(name, target string, command ...string) corev1.EphemeralContainer {
	return corev1.EphemeralContainer{TargetContainerName: target,
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "busybox", Command: command}}
}

// N-11: kubectl debug --target sees and signals the processes of the container it looks at, and that one runs on when it ends.
func TestADebuggerSeesTheProcessesOfItsTarget(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sh", "-c", stay+" # the target")
	b.create(pod)
	b.awaitReady(pod)
	b.change(pod, func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{
			debugger("beside", "main", "sh", "-c", "pgrep -f 'the [t]arget' >/dev/null && echo seen; exit 4"),
			debugger("apart", "", "sh", "-c", "pgrep -f 'the [t]arget' >/dev/null || echo unseen"),
			debugger("astray", "nobody", "true"),
			debugger("usual", "main"), // a shell that has nothing to read
		}
	})
	got := b.await(pod, "debugged", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 4 && s[0].State.Terminated != nil && s[1].State.Terminated != nil && waitingReason(s[2]) != "ContainerCreating" &&
			s[3].State.Terminated != nil
	})
	s := got.Status.EphemeralContainerStatuses
	if s[0].State.Terminated.ExitCode != 4 || s[3].State.Terminated.ExitCode != 0 || waitingReason(s[2]) != "CreateContainerConfigError" {
		t.Errorf("got %+v", s)
	}
	if got.Status.ContainerStatuses[0].RestartCount != 0 || !isReady(got) {
		t.Errorf("the target: got %+v", got.Status.ContainerStatuses[0])
	}
	for name, want := range map[string]string{"beside": "seen\n", "apart": "unseen\n"} {
		if log := b.logs(pod, LogRequest{Container: name}); log != want {
			t.Errorf("%s: got %q, want %q", name, log, want)
		}
	}
}

// N-6, N-7: rules about exit codes come before the policy.
func TestRestartRulesComeBeforeThePolicy(t *testing.T) {
	t.Parallel()
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	const in, notIn = corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	for _, test := range []struct {
		role  role
		rule  corev1.ContainerRestartRule
		code  int32
		again bool
	}{
		{roleMain, rule(in, 42), 42, true},
		{roleMain, rule(in, 42), 1, false},
		{roleMain, rule(notIn, 42), 1, true},
		{roleMain, rule(notIn, 42), 42, false},
		{roleInit, rule(in, 42), 42, true},
		{roleInit, rule(in, 0), 0, false}, // an init container that succeeds has done its work
		{roleEphemeral, rule(in, 42), 42, false},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever}}
		spec := &corev1.Container{RestartPolicyRules: []corev1.ContainerRestartRule{test.rule}}
		if got := again(pod, test.role, spec, test.code); got != test.again {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

// N-7: safe sysctls are the pod's own; others fail it.
func TestSysctlsOfAPodAreItsOwn(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod, sly := commandPod("tuned", "sh", "-c", stay), commandPod("sly", "sh", "-c", stay)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{
		{Name: "net.ipv4.ip_unprivileged_port_start", Value: "1000"}, {Name: "net.ipv4.tcp_fin_timeout", Value: "7"}, {Name: shmSysctl, Value: "1"}}}
	sly.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
	b.create(pod)
	b.create(sly)
	b.awaitReady(pod)
	b.expect(pod, "main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/tcp_fin_timeout", "1000\n7")
	got := b.await(sly, "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if got.Status.Reason != "SysctlForbidden" || !strings.Contains(b.message(sly, "SysctlForbidden"), "kernel.msgmax") {
		t.Errorf("got %s %s", got.Status.Reason, got.Status.Message)
	}
}

// N-12, N-16: what was running when the power went is told of.
func TestALossOfPowerIsTold(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web-1"}, Spec: webPod("").Spec}
	b.create(pod)
	b.awaitReady(pod)
	b.stop()
	b.boot()
	b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if got := b.reasons(pod); got["SandboxChanged"] != 1 || got["Started"] != 2 {
		t.Errorf("got %v", got)
	}
}

// N-11: who hears of a container's end finds its whole log: what is still in the pipe belongs to it, even when another process holds
// the pipe open.
func TestTheLogIsWholeWhenTheEndIsTold(t *testing.T) {
	t.Parallel()
	const size = 60 << 10 // nearly what a pipe holds
	for i := range 50 {
		out, theirs, err := pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := syscall.Write(theirs, bytes.Repeat([]byte("0123456789abcde\n"), size/16)); err != nil {
			t.Fatal(err)
		}
		held := i == 0
		if !held {
			syscall.Close(theirs)
		}
		c := &container{w: &worker{inbox: make(chan any, 1)}}
		r := &run{log: &runLog{now: time.Now}, done: make(chan struct{})}
		r.io = &terminalIO{log: r.log}
		main := &command{exited: make(chan exit, 1)}
		main.exited <- exit{}
		c.attend(nil, r, main, out)
		<-c.w.inbox
		r.log.mu.Lock()
		if r.log.size != size {
			t.Errorf("held %v: got %d bytes, want %d", held, r.log.size, size)
		}
		r.log.mu.Unlock()
		if held {
			syscall.Close(theirs)
		}
		c.w.wg.Wait()
	}
}

// N-11: a process that a debugger leaves behind, and that holds its output, does not keep the debugger from ending.
func TestADebuggersLeftoverDoesNotKeepItFromEnding(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sh", "-c", stay)
	b.create(pod)
	b.awaitReady(pod)
	b.change(pod, func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{debugger("beside", "main", "sh", "-c", "sleep 3600 & echo left")}
	})
	b.await(pod, "debugged", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Terminated != nil
	})
	if log := b.logs(pod, LogRequest{Container: "beside"}); log != "left\n" {
		t.Errorf("got %q", log)
	}
}
