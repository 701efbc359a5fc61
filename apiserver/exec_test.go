package apiserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"kubarium.dev/apiserver"
)

// fakePods runs a few commands and has logs; it stands for the nodes.
type fakePods struct{}

func (fakePods) Exec(ctx context.Context, r apiserver.ExecRequest) error {
	switch r.Command[0] {
	case "cat":
		_, err := io.Copy(r.Stdout, r.Stdin)
		return err
	case "fail":
		fmt.Fprint(r.Stderr, "it failed")
		return &apiserver.ExitError{Code: 7}
	case "size":
		size := <-r.Resize
		fmt.Fprintf(r.Stdout, "%s/%s/%s %dx%d %v", r.Namespace, r.Pod, r.Container, size.Width, size.Height, r.TTY)
		return nil
	case "wait":
		<-ctx.Done()
		return ctx.Err()
	}
	return errors.New("no such command")
}

func (fakePods) Logs(ctx context.Context, r apiserver.LogRequest) error {
	tail := int64(-1)
	if r.Tail != nil {
		tail = *r.Tail
	}
	_, err := fmt.Fprintf(r.Out, "%s/%s/%s tail %d previous %v\n", r.Namespace, r.Pod, r.Container, tail, r.Previous)
	return err
}

func startWithPod(t *testing.T) *cluster {
	c := start(t, func(conf *apiserver.Config) { conf.Exec, conf.Logs = fakePods{}, fakePods{} })
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "jump", Namespace: "dev"}}
	pod.Spec.NodeName, pod.Status.Phase = "n1", corev1.PodRunning
	pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "i"}}
	c.put(t, pod)
	return c
}

func (c *cluster) exec(t *testing.T, o corev1.PodExecOptions, streams remotecommand.StreamOptions) error {
	t.Helper()
	url := c.client(t).CoreV1().RESTClient().Post().Resource("pods").Namespace("dev").Name("jump").SubResource("exec").
		VersionedParams(&o, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", url.String())
	if err != nil {
		t.Fatal(err)
	}
	return executor.StreamWithContext(t.Context(), streams)
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

// exec carries a megabyte both ways and the end of stdin.
func TestExecCarriesStdinAndStdout(t *testing.T) {
	t.Parallel()
	c := startWithPod(t)
	var out bytes.Buffer
	in := strings.Repeat("0123456789abcdef", 1<<16)
	err := c.exec(t, corev1.PodExecOptions{Command: []string{"cat"}, Stdin: true, Stdout: true},
		remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &out})
	if err != nil || out.String() != in {
		t.Errorf("got %d bytes (%v), want %d", out.Len(), err, len(in))
	}
}

// exit codes and stderr come back; so do errors.
func TestExecTellsExitCodes(t *testing.T) {
	t.Parallel()
	c := startWithPod(t)
	var stderr bytes.Buffer
	err := c.exec(t, corev1.PodExecOptions{Command: []string{"fail"}, Stderr: true}, remotecommand.StreamOptions{Stderr: &stderr})
	var exit exec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 7 || stderr.String() != "it failed" {
		t.Errorf("got %v, %q", err, stderr.String())
	}
	err = c.exec(t, corev1.PodExecOptions{Command: []string{"other"}, Stdout: true}, remotecommand.StreamOptions{Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "no such command") {
		t.Errorf("got %v", err)
	}
}

// the terminal's size reaches the command.
func TestExecTellsTheTerminalsSize(t *testing.T) {
	t.Parallel()
	c := startWithPod(t)
	var out bytes.Buffer
	queue := make(sizes, 1)
	queue <- remotecommand.TerminalSize{Width: 120, Height: 40}
	defer close(queue)
	err := c.exec(t, corev1.PodExecOptions{Command: []string{"size"}, Stdout: true, TTY: true},
		remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: queue})
	if got := out.String(); err != nil || got != "dev/jump/main 120x40 true" {
		t.Errorf("got %q (%v)", got, err)
	}
}

// a client that goes away ends its command.
func TestExecEndsWithItsClient(t *testing.T) {
	t.Parallel()
	c := startWithPod(t)
	ctx, cancel := context.WithCancel(t.Context())
	url := c.client(t).CoreV1().RESTClient().Post().Resource("pods").Namespace("dev").Name("jump").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"wait"}, Stdout: true}, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", url.String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard}) }()
	cancel()
	if err := <-ended; err == nil {
		t.Error("got no error")
	}
}

// kubectl exec and logs.
func TestKubectlExecAndLogs(t *testing.T) {
	t.Parallel()
	c := startWithPod(t)
	contains(t, c.must(t, "logs", "jump", "-n", "dev", "--tail=3"), "dev/jump/main tail 3 previous false")
	contains(t, c.must(t, "logs", "jump", "-n", "dev", "-p", "-f"), "tail -1 previous true")
	contains(t, c.refused(t, "logs", "jump", "-n", "dev", "-c", "nope"), "container nope is not valid for pod jump")
	contains(t, c.refused(t, "exec", "jump", "-n", "dev", "--", "fail"), "it failed", "command terminated with exit code 7")
	contains(t, c.must(t, "get", "pods", "-n", "dev", "-o", "wide"), "NAME", "READY", "STATUS", "RESTARTS", "NOMINATED NODE", "jump", "0/1", "Running", "n1")
}
