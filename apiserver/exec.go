package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
)

// Execer runs commands in pods. Exec returns when the command has ended: nil for exit code 0, *ExitError for another one,
// any other error when it could not be run.
type Execer interface {
	Exec(ctx context.Context, r ExecRequest) error
}

// ExecRequest is one command to run. Stdin, Stdout and Stderr are nil when the client did not ask for them; with TTY, all
// output goes to Stdout. Resize is closed when the client will send no more sizes.
type ExecRequest struct {
	Namespace, Pod, Container string
	Command                   []string
	Stdin                     io.Reader
	Stdout, Stderr            io.Writer
	TTY                       bool
	Resize                    <-chan Size
}

// Size is a terminal's, in characters.
type Size struct{ Width, Height uint16 }

// ExitError is a command's exit code other than 0.
type ExitError struct{ Code int }

// Error says it as kubectl does.
func (e *ExitError) Error() string {
	return fmt.Sprintf("command terminated with exit code %d", e.Code)
}

// Attacher joins what a container's own command reads and writes. Attach returns when the container has ended or ctx has.
type Attacher interface {
	Attach(ctx context.Context, r AttachRequest) error
}

// AttachRequest asks to join a container; the streams are as in ExecRequest.
type AttachRequest struct {
	Namespace, Pod, Container string
	Stdin                     io.Reader
	Stdout, Stderr            io.Writer
	TTY                       bool
	Resize                    <-chan Size
}

// serveExec answers GET and POST on a pod's exec and attach.
func (s *Server) serveExec(c *call) error {
	if c.r.Method != http.MethodGet && c.r.Method != http.MethodPost {
		return errNoMethod(c)
	}
	pod, err := s.podOf(c)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, c.query.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if c.sub == "attach" && s.cfg.Attach != nil {
		return serveStreams(c.w, c.r, func(ctx context.Context, r ExecRequest) error {
			return s.cfg.Attach.Attach(ctx, AttachRequest{Namespace: pod.Namespace, Pod: pod.Name, Container: container,
				Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, TTY: r.TTY, Resize: r.Resize})
		})
	}
	if c.sub == "attach" || s.cfg.Exec == nil {
		return errOther(http.StatusNotImplemented, "NotImplemented", "this server runs no commands")
	}
	return ServeExec(c.w, c.r, func(ctx context.Context, r ExecRequest) error {
		r.Namespace, r.Pod, r.Container = pod.Namespace, pod.Name, container
		return s.cfg.Exec.Exec(ctx, r)
	})
}

const (
	// maxFrame bounds one message a client may send, in bytes; kubectl sends at most 32 KiB.
	maxFrame = 1 << 20
	// pingEvery keeps a silent session alive through the client's read deadline (60 s in client-go).
	pingEvery = 20 * time.Second
)

// ServeExec answers an exec request over WebSocket (v5.channel.k8s.io, v4.channel.k8s.io), with the parameters of
// Kubernetes' PodExecOptions in the query: command, stdin, stdout, stderr, tty. run gets a request without namespace, pod and
// container. A returned error has not been answered yet.
func ServeExec(w http.ResponseWriter, r *http.Request, run func(context.Context, ExecRequest) error) error {
	if len(r.URL.Query()["command"]) == 0 {
		return apierrors.NewBadRequest("you must specify at least one command for the container")
	}
	return serveStreams(w, r, run)
}

// serveStreams carries a program's streams over a WebSocket, as ServeExec says.
func serveStreams(w http.ResponseWriter, r *http.Request, run func(context.Context, ExecRequest) error) error {
	q := r.URL.Query()
	req := ExecRequest{Command: q["command"], TTY: isTrue(q.Get("tty"))}
	if !isTrue(q.Get("stdin")) && !isTrue(q.Get("stdout")) && !isTrue(q.Get("stderr")) {
		return apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	if !websocket.IsWebSocketUpgrade(r) {
		return apierrors.NewBadRequest("Upgrade request required: exec is served over WebSocket (v5.channel.k8s.io)")
	}
	up := websocket.Upgrader{
		Subprotocols: []string{remotecommand.StreamProtocolV5Name, remotecommand.StreamProtocolV4Name},
		CheckOrigin:  func(*http.Request) bool { return true }, // callers have authenticated; browsers hold no certificate of ours
		Error:        func(http.ResponseWriter, *http.Request, int, error) {},
	}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if conn.Subprotocol() == "" {
		conn.Close()
		return nil
	}
	newSession(conn, req.TTY).run(r.Context(), q.Get, func(ctx context.Context, streams ExecRequest) error {
		streams.Command, streams.TTY = req.Command, req.TTY
		return run(ctx, streams)
	})
	return nil
}

// session is one exec over one WebSocket: each message begins with the number of its stream.
type session struct {
	conn   *websocket.Conn
	stdin  *io.PipeWriter
	input  *io.PipeReader
	resize chan Size
	tty    bool

	mu sync.Mutex // one writer at a time, as the library demands
}

func newSession(conn *websocket.Conn, tty bool) *session {
	s := &session{conn: conn, resize: make(chan Size, 1), tty: tty}
	s.input, s.stdin = io.Pipe()
	conn.SetReadLimit(maxFrame)
	return s
}

// run carries one command's streams until it has ended, and then its exit code.
func (s *session) run(ctx context.Context, param func(string) string, start func(context.Context, ExecRequest) error) {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() {
		defer cancel() // the client has gone, or the session is over
		s.read()
	})
	helpers.Go(func() {
		defer cancel() // a client that cannot be reached has gone, too
		s.ping(ctx)
	})
	req := ExecRequest{Resize: s.resize}
	if isTrue(param("stdin")) {
		req.Stdin = s.input
	}
	if isTrue(param("stdout")) {
		req.Stdout = s.writer(remotecommand.StreamStdOut)
	}
	if isTrue(param("stderr")) && !s.tty {
		req.Stderr = s.writer(remotecommand.StreamStdErr)
	}
	err := start(ctx, req)
	s.input.CloseWithError(io.ErrClosedPipe)
	if b, encodeErr := json.Marshal(exitStatus(err)); encodeErr == nil {
		s.send(remotecommand.StreamErr, b)
	}
	s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(stallTime))
	s.conn.SetReadDeadline(time.Now().Add(time.Second)) // for the client's goodbye
	helpers.Wait()
	s.conn.Close()
}

// read takes the client's messages apart until it goes.
func (s *session) read() {
	defer close(s.resize)
	defer s.stdin.Close()
	for {
		_, message, err := s.conn.ReadMessage()
		if err != nil {
			return
		}
		if len(message) == 0 {
			continue
		}
		switch body := message[1:]; message[0] {
		case remotecommand.StreamStdIn:
			if len(body) > 0 {
				s.stdin.Write(body) // an error means that the command reads no more: the rest is dropped
			}
		case remotecommand.StreamResize:
			s.resized(body)
		case remotecommand.StreamClose: // v5: a stream's end, by its number
			if len(body) == 1 && body[0] == remotecommand.StreamStdIn {
				s.stdin.Close()
			}
		}
	}
}

// resized passes the newest size on; one that nobody took yet is replaced.
func (s *session) resized(body []byte) {
	var size Size
	if json.Unmarshal(body, &size) != nil {
		return
	}
	select {
	case <-s.resize:
	default:
	}
	s.resize <- size
}

func (s *session) ping(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(stallTime)) != nil {
				return
			}
		}
	}
}

// send writes one message of a stream.
func (s *session) send(stream byte, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
		return err
	}
	return s.conn.WriteMessage(websocket.BinaryMessage, append([]byte{stream}, p...))
}

// maxChunk is how much output one message carries; client-go reads into a buffer of this size.
const maxChunk = 32 << 10

type streamWriter struct {
	s      *session
	stream byte
}

func (s *session) writer(stream byte) io.Writer { return streamWriter{s, stream} }

// Write sends p as messages of the stream.
func (w streamWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxChunk)
		if err := w.s.send(w.stream, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// exitStatus is how a command's end is told on the error stream.
func exitStatus(err error) *metav1.Status {
	var exit *ExitError
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit):
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: "command terminated with non-zero exit code: " + exit.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{
				Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.Code)}}},
		}
	}
	status := statusOf(err)
	status.TypeMeta = metav1.TypeMeta{}
	return status
}
