package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// N-1
func TestANodeRegistersItself(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *NodeConfig) { c.Labels = map[string]string{"topology.kubernetes.io/zone": "a"} })
	if err := b.Registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := store.Get[*corev1.Node](b.store, api.Nodes, "", "n1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Labels["kubernetes.io/hostname"] != "n1" || got.Labels["topology.kubernetes.io/zone"] != "a" || got.Spec.PodCIDR != "10.244.1.0/24" {
		t.Errorf("got %+v", got)
	}
	want := []corev1.NodeAddress{{Type: "InternalIP", Address: "172.30.0.11"}, {Type: "Hostname", Address: "n1"}}
	if diff := cmp.Diff(want, got.Status.Addresses); diff != "" {
		t.Error(diff)
	}
	if c := got.Status.Conditions[len(got.Status.Conditions)-1]; c.Type != corev1.NodeReady || c.Status != corev1.ConditionTrue {
		t.Errorf("got %+v", c)
	}
	if cpu := got.Status.Capacity.Cpu(); cpu.IsZero() {
		t.Error("no CPU")
	}
}

// N-5, N-6, N-12, N-14, N-15
func TestABuiltInPodIsReadyAtOnceAndAnswers(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	b.create(pod)
	got := b.awaitReady(pod)
	if got.Status.Phase != corev1.PodRunning || got.Status.HostIP != "172.30.0.11" || !b.cfg.PodCIDR.Contains(netip.MustParseAddr(got.Status.PodIP)) {
		t.Errorf("got %+v", got.Status)
	}
	if s := got.Status.ContainerStatuses[0]; !s.Ready || s.State.Running == nil || s.RestartCount != 0 || !*s.Started {
		t.Errorf("got %+v", s)
	}
	if got.Annotations[AnnotationImage] != "web: built-in application" {
		t.Errorf("got %v", got.Annotations)
	}
	body, err := b.get(got.Status.PodIP, "/")
	if err != nil || !strings.Contains(body, "pod: web-1\nnamespace: dev\nnode: n1\nip: "+got.Status.PodIP+"\nimage: shop:1.0\nversion: v1\n") {
		t.Errorf("got %q %v", body, err)
	}
	if !strings.Contains(body, "client: 172.30.0.11:") {
		t.Errorf("the node's own address is not the client's: %q", body)
	}
	if n, ok := b.Requests("dev", "web-1"); n != 1 || !ok {
		t.Errorf("counted %d %t", n, ok)
	}
	if diff := cmp.Diff(map[string]int32{"Created": 1, "Started": 1}, b.reasons(pod)); diff != "" {
		t.Error(diff)
	}
}

// N-9: what the proxy and DNS act on.
func TestAReadinessProbeTakesThePodOutAndBackWithinItsPeriod(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	pod.Spec.Containers[0].ReadinessProbe = httpProbe("/readyz")
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	if _, err := b.get(ip, "/readyz?set=false"); err != nil {
		t.Fatal(err)
	}
	got := b.await(pod, "unready", func(p *corev1.Pod) bool { return !isReady(p) })
	if got.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("a readiness probe restarted the container")
	}
	if n := b.reasons(pod)["Unhealthy"]; n < 1 {
		t.Errorf("%d Unhealthy", n)
	}
	if _, err := b.get(ip, "/readyz?set=true"); err != nil {
		t.Fatal(err)
	}
	b.awaitReady(pod)
}

// N-9
func TestALivenessProbeRestartsTheContainer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	pod.Spec.Containers[0].LivenessProbe = httpProbe("/readyz")
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	if _, err := b.get(ip, "/readyz?set=false"); err != nil {
		t.Fatal(err)
	}
	got := b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if s := got.Status.ContainerStatuses[0]; s.LastTerminationState.Terminated == nil {
		t.Errorf("got %+v", s)
	}
	if got.Status.PodIP != ip {
		t.Errorf("the address changed from %s to %s", ip, got.Status.PodIP)
	}
}

// N-6, N-21
func TestACrashIsRestartedAndASecondOneBacksOff(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	b.get(ip, "/crash?code=3")
	got := b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if e := got.Status.ContainerStatuses[0].LastTerminationState.Terminated; e == nil || e.ExitCode != 3 || e.Reason != "Error" {
		t.Errorf("got %+v", e)
	}
	b.get(ip, "/crash")
	got = b.await(pod, "backing off", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	if got.Status.Phase != corev1.PodRunning || isReady(got) {
		t.Errorf("got %s, ready %t", got.Status.Phase, isReady(got))
	}
	if n := b.reasons(pod)["BackOff"]; n != 1 {
		t.Errorf("%d BackOff", n)
	}
}

// N-10: SIGTERM comes when nothing leads to the pod any more; then everything of it goes.
func TestADeletedPodEndsAfterTheRulesetsLetGo(t *testing.T) {
	t.Parallel()
	asked, letGo := make(chan uint64, 1), make(chan struct{})
	b := newBench(t, func(c *NodeConfig) {
		c.Programmed = func(ctx context.Context, r uint64) error { asked <- r; <-letGo; return nil }
	})
	pod := webPod("web-1")
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	b.remove(pod, 30)
	marked := b.await(pod, "marked", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if r := <-asked; r < revisionOf(pod) || r > revisionOf(marked) {
		t.Errorf("asked for revision %d, the deletion has %s", r, marked.ResourceVersion)
	}
	if body, err := b.get(ip, "/"); err != nil || !strings.Contains(body, "pod: web-1") {
		t.Errorf("before SIGTERM: got %q %v", body, err)
	}
	close(letGo)
	b.awaitGone(pod)
	if _, ok := b.PodNS("dev", "web-1"); ok {
		t.Error("its namespace is still there")
	}
	if n := b.reasons(pod)["Killing"]; n != 1 {
		t.Errorf("%d Killing", n)
	}
}

// N-16: a cut of the power, and the same pod with the same address.
func TestAPodComesBackAfterThePowerWasCut(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	first, second := webPod("web-1"), webPod("web-2")
	b.create(first)
	old := b.awaitReady(first)
	b.create(second)
	before := b.awaitReady(second)
	b.stop()
	third := webPod("web-0") // its name comes first, and the addresses below are taken
	b.create(third)
	b.boot()
	if ip := b.awaitReady(third).Status.PodIP; ip == before.Status.PodIP || ip == old.Status.PodIP {
		t.Errorf("a new pod got the address %s of one that comes back", ip)
	}
	got := b.await(second, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if got.Status.PodIP != before.Status.PodIP || got.UID != before.UID {
		t.Errorf("came back as %s, was %s", got.Status.PodIP, before.Status.PodIP)
	}
	if e := got.Status.ContainerStatuses[0].LastTerminationState.Terminated; e == nil || e.ExitCode != 255 {
		t.Errorf("got %+v", e)
	}
	if _, err := b.get(got.Status.PodIP, "/"); err != nil {
		t.Error(err)
	}
}

// N-5, N-11, N-13, D-20
func TestACommandRunsInThePodAndExecJoinsIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sh", "-c", "echo hello; sleep 1000")
	b.create(pod)
	got := b.awaitReady(pod)
	for _, c := range []struct{ script, want string }{
		{"hostname", "jump"},
		{"cat /etc/hostname", "jump"},
		{"grep ^nameserver /etc/resolv.conf", "nameserver 10.96.0.10"},
		{"grep -o 'dev.svc.cluster.local svc.cluster.local cluster.local' /etc/resolv.conf", "dev.svc.cluster.local svc.cluster.local cluster.local"},
		{"grep jump /etc/hosts | cut -f1", got.Status.PodIP},
		{"readlink /proc/self/ns/net", fmt.Sprintf("net:[%d]", must(b.PodNS("dev", "jump")).Inode())},
		{"ps -eo comm | grep -cx sleep", "1"},
		{"cat", "from stdin"},
	} {
		out, err := b.exec(pod, "from stdin", "sh", "-c", c.script)
		if strings.TrimSpace(out) != c.want || err != nil {
			t.Errorf("%s: got %q %v, want %q", c.script, out, err, c.want)
		}
	}
	out, err := b.exec(pod, "", "sh", "-c", "exit 7")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("got %q %v, want exit code 7", out, err)
	}
	if out, err := b.exec(pod, "", "no-such-program"); !errors.As(err, &exit) || exit.Code != 127 || !strings.Contains(out, "executable file not found") {
		t.Errorf("got %q %v", out, err)
	}
	if log := b.logs(pod, LogRequest{}); log != "hello\n" {
		t.Errorf("got log %q", log)
	}
	b.remove(pod, 1) // sh does not end at SIGTERM while it waits for sleep: the grace is over, then it is killed
	b.awaitGone(pod)
}

func must[T any](v T, ok bool) T {
	if !ok {
		panic("it is not there")
	}
	return v
}

func (b *bench) logs(pod *corev1.Pod, r LogRequest) string {
	b.t.Helper()
	var out bytes.Buffer
	r.Namespace, r.Pod, r.Out = pod.Namespace, pod.Name, &out
	if err := b.Logs(b.t.Context(), r); err != nil {
		b.t.Error(err)
	}
	return out.String()
}

// N-21
func TestExecWorksInABuiltInPodAndKillingProcessOneRestartsIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	b.create(pod)
	b.awaitReady(pod)
	out, err := b.exec(pod, "", "curl", "-s", "-X", "POST", "http://127.0.0.1/readyz?ready=false")
	if err != nil || out != "ready: false\n" {
		t.Errorf("got %q %v", out, err)
	}
	if out, err := b.exec(pod, "", "ps", "-o", "args=", "-p", "1"); err != nil || strings.TrimSpace(out) != "shop:1.0" {
		t.Errorf("process 1 is %q %v", out, err)
	}
	if log := b.logs(pod, LogRequest{}); !strings.Contains(log, `"POST /readyz?ready=false HTTP/1.1" 200`) {
		t.Errorf("got log %q", log)
	}
	b.exec(pod, "", "sh", "-c", "kill 1; sleep 10")
	b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if log := b.logs(pod, LogRequest{Previous: true}); !strings.Contains(log, "POST /readyz") {
		t.Errorf("got previous log %q", log)
	}
}

// N-6
func TestACommandThatEndsIsCompletedOrFailed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	good, bad := commandPod("good", "sh", "-c", "echo done"), commandPod("bad", "sh", "-c", "exit 4")
	for _, pod := range []*corev1.Pod{good, bad} {
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		b.create(pod)
	}
	b.await(good, "Succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	got := b.await(bad, "Failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if e := got.Status.ContainerStatuses[0].State.Terminated; e == nil || e.ExitCode != 4 {
		t.Errorf("got %+v", e)
	}
	if log := b.logs(good, LogRequest{}); log != "done\n" {
		t.Errorf("got log %q", log)
	}
	b.remove(good, 30)
	b.awaitGone(good)
}

// N-10: SIGTERM first; a command that ends by itself is not killed.
func TestACommandGetsSIGTERMAndAForcedDeletionDoesNotWait(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	polite := commandPod("polite", "sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done")
	rude := commandPod("rude", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done")
	for _, pod := range []*corev1.Pod{polite, rude} {
		b.create(pod)
		b.awaitReady(pod)
		b.awaitLog(pod, "up\n")
	}
	b.remove(polite, 30)
	b.awaitGone(polite)
	began := time.Now()
	b.remove(rude, 30)
	b.remove(rude, 0)
	b.awaitGone(rude)
	b.awaitNoWorker()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a forced deletion took %s", took)
	}
}

// awaitLog follows a log until it holds text.
func (b *bench) awaitLog(pod *corev1.Pod, text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(b.Logs(ctx, LogRequest{Namespace: pod.Namespace, Pod: pod.Name, Follow: true, Out: w}))
	}()
	defer r.Close()
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != text {
		b.t.Fatalf("the log says %q %v, want %q", buf, err, text)
	}
}

// awaitNoWorker returns when every pod has ended.
func (b *bench) awaitNoWorker() {
	b.t.Helper()
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		b.t.Fatal("a pod's worker lives on")
	}
}

// N-7, N-9
func TestVariablesAndExecProbesWork(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "cfg"}, Data: map[string]string{"color": "red"}}
	pod := commandPod("envy", "sh", "-c", "echo $(GREETING) $COLOR $IP; touch /tmp/ready; sleep 1000")
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{
		{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "GREETING", Value: "hello-$(NAME)"},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}, Key: "color"}}},
	}
	c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/ready"}}}}
	b.create(pod)
	b.await(pod, "waiting for its ConfigMap", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	if _, err := b.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(cm) }); err != nil {
		t.Fatal(err)
	}
	got := b.awaitReady(pod)
	if want := "hello-envy red " + got.Status.PodIP + "\n"; b.logs(pod, LogRequest{}) != want {
		t.Errorf("got %q, want %q", b.logs(pod, LogRequest{}), want)
	}
}

// N-11
func TestATerminalHasTheSizeOfTheClients(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sleep", "1000")
	b.create(pod)
	b.awaitReady(pod)
	sizes := make(chan Size, 1)
	sizes <- Size{Width: 123, Height: 45}
	var out bytes.Buffer
	in, keys := io.Pipe()
	defer in.Close()
	go io.WriteString(keys, "until [ \"$(stty size)\" = '45 123' ]; do :; done; tty; exit 3\n")
	err := b.Exec(t.Context(), ExecRequest{
		Namespace: "dev", Pod: "jump", Command: []string{"sh"}, TTY: true, Stdin: in, Stdout: &out, Resize: sizes,
	})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(out.String(), "/dev/pts/0") {
		t.Errorf("got %q %v", out.String(), err)
	}
}

func TestACommandOfTheHostRunsInTheNodesNamespace(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var out bytes.Buffer
	if err := b.ExecHere(t.Context(), ExecRequest{Command: []string{"readlink", "/proc/self/ns/net"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("net:[%d]\n", b.NS().Inode()); out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	script := "cat /etc/resolv.conf; ls /sys/class/net | grep -c docker"
	if err := b.ExecHere(t.Context(), ExecRequest{Command: []string{"sh", "-c", script + "; true"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if want := "nameserver 10.96.0.10\nsearch svc.cluster.local cluster.local\noptions ndots:5\n0\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	err := b.fabric.Exec(t.Context(), ExecRequest{Command: []string{"sh", "-c", "tty; exit 9"}, TTY: true, Stdout: &out})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 9 || !strings.Contains(out.String(), "/dev/pts/") {
		t.Errorf("got %q %v", out.String(), err)
	}
}

// Issue A: boot time counts.
func BenchmarkABuiltInPodGetsReady(b *testing.B) {
	x := newBench(b, nil)
	i := 0
	for b.Loop() {
		i++
		pod := webPod(fmt.Sprint("web-", i))
		x.create(pod)
		x.awaitReady(pod)
		b.StopTimer()
		x.remove(pod, 0)
		b.StartTimer()
	}
}
