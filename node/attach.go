package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// AttachRequest asks to join what a container's own command reads and writes. Stdin and Stdout may be nil. Resize carries the
// terminal's sizes and is closed when no more will come; nil for none. Standard error comes with standard output.
type AttachRequest struct {
	Namespace, Pod, Container string // Container may be "" for the pod's first
	Stdin                     io.Reader
	Stdout                    io.Writer
	Resize                    <-chan Size
}

// terminalIO is what a run reads and writes, shared by its log and everyone who is attached.
type terminalIO struct {
	log *runLog

	mu       sync.Mutex // guards all below
	input    *os.File   // the write end of the command's standard input; nil if it has none
	terminal *os.File   // nil if it has none
	sinks    map[*sink]bool
}

// sink is one who is attached.
type sink struct {
	to   io.Writer
	gone chan struct{} // closed when it takes no more
}

// Write implements io.Writer. It never fails: who cannot take more is let go of.
func (t *terminalIO) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.sinks {
		if _, err := s.to.Write(p); err != nil {
			delete(t.sinks, s)
			close(s.gone)
		}
	}
	return t.log.Write(p)
}

func (t *terminalIO) join(to io.Writer) *sink {
	s := &sink{to: to, gone: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sinks == nil {
		t.sinks = map[*sink]bool{}
	}
	t.sinks[s] = true
	return s
}

func (t *terminalIO) leave(s *sink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sinks, s)
}

// open files what the command reads from.
func (t *terminalIO) open(input, terminal *os.File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.input, t.terminal = input, terminal
}

func (t *terminalIO) ends() (input, terminal *os.File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.input, t.terminal
}

// closeInput ends what the command reads.
func (t *terminalIO) closeInput() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.input != nil && t.input != t.terminal {
		t.input.Close()
	}
	t.input = nil
}

// Attach joins a container until it ends, ctx ends, or the client takes no more. A read of Stdin that is under way then is left
// to its owner. Errors: NotFound, BadRequest for a container that is not there or does not run.
func (n *Node) Attach(ctx context.Context, r AttachRequest) error {
	c, err := n.container(r.Namespace, r.Pod, r.Container)
	if err != nil {
		return err
	}
	run := c.current()
	if run == nil || !c.alive() {
		return apierrors.NewBadRequest(c.notRunning().Error())
	}
	input, terminal := run.io.ends()
	gone := make(<-chan struct{})
	if r.Stdout != nil {
		s := run.io.join(r.Stdout)
		defer run.io.leave(s)
		gone = s.gone
	}
	done := make(chan struct{})
	defer close(done)
	if terminal != nil && r.Resize != nil {
		go (&streams{r: ExecRequest{Resize: r.Resize}, terminal: terminal, done: done}).resize()
	}
	if input != nil && r.Stdin != nil {
		go func() { // ends with its owner's stream, at the latest
			io.Copy(input, r.Stdin)
			if c.spec.StdinOnce && terminal == nil {
				run.io.closeInput()
			}
		}()
	}
	select {
	case <-run.done: // after its last words
	case <-gone:
	case <-ctx.Done():
	}
	return nil
}

// PortForwardRequest asks for one connection to a port of a pod. Conn is closed when the connection has ended.
type PortForwardRequest struct {
	Namespace, Pod string
	Port           uint16
	Conn           io.ReadWriteCloser
}

// PortForward connects Conn with a port on the pod's own loopback, so that what listens there alone is reached too, and returns
// when both directions have ended or ctx has. Errors: NotFound, BadRequest for a pod without a network, and what kept it from
// connecting.
func (n *Node) PortForward(ctx context.Context, r PortForwardRequest) error {
	defer r.Conn.Close()
	if _, err := n.container(r.Namespace, r.Pod, ""); err != nil {
		return err
	}
	ns, ok := n.PodNS(r.Namespace, r.Pod)
	if !ok {
		return apierrors.NewBadRequest("unable to forward port because pod is not running")
	}
	conn, err := ns.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(r.Port))))
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside pod %s/%s: %w", r.Port, r.Namespace, r.Pod, err)
	}
	return splice(ctx, conn, r.Conn)
}

// splice copies both ways until both have ended or ctx has, and closes both.
func splice(ctx context.Context, a, b io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	defer a.Close()
	defer b.Close()
	ended := make(chan error, 2)
	one := func(to, from io.ReadWriteCloser) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			half.CloseWrite()
		} else {
			to.Close()
		}
		ended <- err
	}
	go one(a, b)
	go one(b, a)
	err := errors.Join(<-ended, <-ended)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return ctx.Err()
	}
	return err
}
