package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/node/netns"
	"kubarium.dev/store"
)

const inside = "NODE_TEST_INSIDE"

// TestMain runs the tests as the cluster's own process is run: in a mount namespace, and for an ordinary user as root of a user
// namespace.
func TestMain(m *testing.M) {
	if os.Getenv(attacker) != "" {
		attack(os.Args[1:])
		os.Exit(0)
	}
	if os.Getenv(inside) != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil { // as the daemon does
			panic(err)
		}
		code := m.Run()
		if left := leftovers(); code == 0 && len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left behind:", strings.Join(left, "\n"))
			code = 1
		}
		os.Exit(code)
	}
	runtime.LockOSThread() // keyrings are a thread's, and so its children's
	keepSecret()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdout, os.Stderr, append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// leftovers is what the tests should have taken with them: processes, namespaces, goroutines.
func leftovers() (left []string) {
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, c := range children {
		if raw, err := os.ReadFile(c); err == nil && len(raw) > 0 {
			left = append(left, "processes "+string(raw))
		}
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "net:[") && to != fmt.Sprintf("net:[%d]", netns.Lobby()) {
			left = append(left, "namespace "+to)
		}
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for one := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(one, "kubarium.dev/node.(") || strings.Contains(one, "kubarium.dev/node/app.") {
			left = append(left, one)
		}
	}
	return left
}

// bench is one node on a wire of its own, with a store of its own.
type bench struct {
	*Node
	t      testing.TB
	store  *store.Store
	cfg    NodeConfig
	fabric *Fabric
	stop   func()
}

// newBench starts a node. change may change its configuration.
func newBench(t testing.TB, change func(*NodeConfig)) *bench {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	b := &bench{t: t, store: s, cfg: NodeConfig{
		Name: "n1", Address: netip.MustParseAddr("172.30.0.11"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24"), Store: s,
		ClusterDNS: netip.MustParseAddr("10.96.0.10"), StateDir: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}}
	if change != nil {
		change(&b.cfg)
	}
	b.boot()
	return b
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Log(string(p)); return len(p), nil }

// boot starts the machine over the same store; stop takes its power away.
func (b *bench) boot() {
	b.t.Helper()
	f, err := NewFabric(b.t.Context(), FabricConfig{
		Nodes: netip.MustParsePrefix("172.30.0.0/24"), Services: netip.MustParsePrefix("10.96.0.0/16"),
		DNS: b.cfg.ClusterDNS, LoadBalancers: netip.MustParsePrefix("172.31.0.0/24"), Log: b.cfg.Log,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	n, err := f.AddNode(b.t.Context(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.fabric, b.Node = f, n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				b.t.Errorf("Run ended with %v", err)
			}
			if err := f.Close(); err != nil {
				b.t.Error(err)
			}
		})
	}
	b.t.Cleanup(b.stop)
}

func webPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name, Labels: map[string]string{"app": "web", "version": "v1"}},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "web", Image: "shop:1.0", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}},
		},
	}
}

func commandPod(name string, command ...string) *corev1.Pod {
	pod := webPod(name)
	pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "jump", Command: command}}
	return pod
}

func httpProbe(path string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(80)}},
		PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 1,
	}
}

func (b *bench) create(pod *corev1.Pod) {
	b.t.Helper()
	if _, err := b.store.Update(b.t.Context(), func(tx *store.Tx) error { return tx.Create(pod) }); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) remove(pod *corev1.Pod, grace int64) {
	b.t.Helper()
	_, err := b.store.Update(b.t.Context(), func(tx *store.Tx) error {
		return tx.Delete(api.Pods, pod.Namespace, pod.Name, store.DeleteOptions{GracePeriodSeconds: &grace})
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// await returns the pod once it is as wanted; nil once it is gone, if ok accepts nil.
func (b *bench) await(pod *corev1.Pod, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	w, err := b.store.Watch(ctx, b.store.Revision(), api.Pods)
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Close()
	for {
		got, err := store.Get[*corev1.Pod](b.store, api.Pods, pod.Namespace, pod.Name)
		if apierrors.IsNotFound(err) {
			got = nil
		} else if err != nil {
			b.t.Fatal(err)
		}
		if ok(got) {
			return got
		}
		if _, err := w.Next(ctx); err != nil {
			b.t.Fatalf("pod %s is not %s: %v; it is %+v", pod.Name, what, err, got)
		}
	}
}

func isReady(pod *corev1.Pod) bool {
	if pod == nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (b *bench) awaitReady(pod *corev1.Pod) *corev1.Pod {
	b.t.Helper()
	return b.await(pod, "ready", isReady)
}

func (b *bench) awaitGone(pod *corev1.Pod) {
	b.t.Helper()
	b.await(pod, "gone", func(p *corev1.Pod) bool { return p == nil })
}

// get asks a pod from the node.
func (b *bench) get(ip, path string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DialContext: b.NS().DialContext, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := c.Get("http://" + ip + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(raw), err
}

func (b *bench) exec(pod *corev1.Pod, stdin string, command ...string) (string, error) {
	b.t.Helper()
	var out bytes.Buffer
	w := &limitedBuffer{b: &out, left: 1 << 20}
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	err := b.Exec(ctx, ExecRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Command: command, Stdin: strings.NewReader(stdin), Stdout: w, Stderr: w,
	})
	return out.String(), err
}

func (b *bench) reasons(pod *corev1.Pod) map[string]int32 {
	b.t.Helper()
	list, err := b.store.List(b.t.Context(), api.Events, store.Query{Namespace: pod.Namespace})
	if err != nil {
		b.t.Fatal(err)
	}
	got := map[string]int32{}
	for _, e := range store.All[*corev1.Event](list.Items) {
		if e.InvolvedObject.Name == pod.Name {
			got[e.Reason] += e.Count
		}
	}
	return got
}

// execIn runs a command in one of a pod's containers.
func (b *bench) execIn(pod *corev1.Pod, container string, command ...string) (string, error) {
	b.t.Helper()
	var out bytes.Buffer
	w := &limitedBuffer{b: &out, left: 1 << 20}
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	err := b.Exec(ctx, ExecRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Container: container, Command: command, Stdout: w, Stderr: w,
	})
	return out.String(), err
}

// message is what the last event of a reason says of a pod; "" for none.
func (b *bench) message(pod *corev1.Pod, reason string) string {
	b.t.Helper()
	list, err := b.store.List(b.t.Context(), api.Events, store.Query{Namespace: pod.Namespace})
	if err != nil {
		b.t.Fatal(err)
	}
	message := ""
	for _, e := range store.All[*corev1.Event](list.Items) {
		if e.InvolvedObject.Name == pod.Name && e.Reason == reason {
			message = e.Message
		}
	}
	return message
}

// change updates a pod in the store.
func (b *bench) change(pod *corev1.Pod, fn func(*corev1.Pod)) {
	b.t.Helper()
	_, err := b.store.Update(b.t.Context(), func(tx *store.Tx) error {
		old, err := store.Get[*corev1.Pod](tx, api.Pods, pod.Namespace, pod.Name)
		if err != nil {
			return err
		}
		p := api.Copy(old)
		fn(p)
		return tx.Update(p)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}
