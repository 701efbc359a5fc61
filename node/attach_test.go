package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// said collects what is written to it and tells when it holds a text.
type said struct {
	mu  sync.Mutex
	all strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.all.String(), text)
}

// N-11
func TestAttachJoinsTheCommandsInputAndOutput(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for name, tty := range map[string]bool{"plain": false, "terminal": true} {
		pod := commandPod(name, "sh", "-c", "read x; echo got $x; read y; echo and $y; exit 0")
		pod.Spec.RestartPolicy = "Never"
		c := &pod.Spec.Containers[0]
		c.Stdin, c.StdinOnce, c.TTY = true, true, tty
		b.create(pod)
		b.awaitReady(pod)
		in, keys := io.Pipe()
		defer in.Close()
		var one, two said
		done := make(chan error, 2)
		sizes := make(chan Size, 1)
		sizes <- Size{Width: 100, Height: 30}
		ready := func() bool {
			w := b.find("dev", name).containers[0].current().io
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.input != nil && len(w.sinks) == 2
		}
		b.until("the input", func() bool { i, _ := b.find("dev", name).containers[0].current().io.ends(); return i != nil })
		go func() {
			done <- b.Attach(t.Context(), AttachRequest{Namespace: "dev", Pod: name, Stdin: in, Stdout: &one, Resize: sizes})
		}()
		go func() { done <- b.Attach(t.Context(), AttachRequest{Namespace: "dev", Pod: name, Stdout: &two}) }()
		b.until("both", ready)
		io.WriteString(keys, "hello\n")
		b.until("the first answer", func() bool { return one.has("got hello") && two.has("got hello") })
		io.WriteString(keys, "bye\n")
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if !one.has("and bye") || !two.has("and bye") {
			t.Errorf("%s: got %q and %q", name, one.all.String(), two.all.String())
		}
		if log := b.logs(pod, LogRequest{}); !strings.Contains(log, "and bye") {
			t.Errorf("got log %q", log)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	web := webPod("web-1")
	b.create(web)
	b.awaitReady(web)
	if err := b.Attach(ended, AttachRequest{Namespace: "dev", Pod: "web-1", Stdout: io.Discard}); err != nil {
		t.Error(err)
	}
	if err := b.Attach(t.Context(), AttachRequest{Namespace: "dev", Pod: "nobody"}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

// N-11: port-forward of many connections at once.
func TestPortForwardCarriesManyConnections(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	b.create(pod)
	b.awaitReady(pod)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			ours, theirs := net.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- b.PortForward(t.Context(), PortForwardRequest{Namespace: "dev", Pod: "web-1", Port: 80, Conn: theirs})
			}()
			fmt.Fprintf(ours, "GET /status/2%02d HTTP/1.0\r\n\r\n", i%4+5)
			raw, err := io.ReadAll(ours)
			if want := fmt.Sprintf("HTTP/1.0 2%02d", i%4+5); err != nil || !strings.HasPrefix(string(raw), want) {
				t.Errorf("got %q %v, want %s", raw, err, want)
			}
			ours.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	_, theirs := net.Pipe()
	err := b.PortForward(t.Context(), PortForwardRequest{Namespace: "dev", Pod: "web-1", Port: 81, Conn: theirs})
	if err == nil || !strings.Contains(err.Error(), "failed to connect to localhost:81") {
		t.Errorf("got %v", err)
	}
}
