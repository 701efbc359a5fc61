package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// PortForwarder connects a stream with a port of a pod. PortForward returns when both directions have ended or ctx has, and has
// closed Conn by then.
type PortForwarder interface {
	PortForward(ctx context.Context, r PortForwardRequest) error
}

// PortForwardRequest asks for one connection to a port of a pod.
type PortForwardRequest struct {
	Namespace, Pod string
	Port           uint16
	Conn           io.ReadWriteCloser // has CloseWrite, too
}

const (
	// tunnelProtocol is SPDY inside the messages of a WebSocket, as clients have spoken it since Kubernetes 1.30.
	tunnelProtocol = "SPDY/3.1+portforward.k8s.io"
	// maxForwards bounds the connections that one client may have open at once through one tunnel.
	maxForwards = 1024
)

// servePortForward answers GET on a pod's portforward: one WebSocket that carries any number of connections.
func (s *Server) servePortForward(c *call) error {
	if c.r.Method != http.MethodGet && c.r.Method != http.MethodPost {
		return errNoMethod(c)
	}
	pod, err := s.podOf(c)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if s.cfg.Forward == nil {
		return errOther(http.StatusNotImplemented, "NotImplemented", "this server forwards no ports")
	}
	if !websocket.IsWebSocketUpgrade(c.r) {
		return apierrors.NewBadRequest("Upgrade request required: portforward is served over WebSocket (" + tunnelProtocol + ")")
	}
	up := websocket.Upgrader{
		Subprotocols: []string{tunnelProtocol},
		CheckOrigin:  func(*http.Request) bool { return true }, // as for exec
		Error:        func(http.ResponseWriter, *http.Request, int, error) {},
	}
	conn, err := up.Upgrade(c.w, c.r, nil)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	defer conn.Close()
	if conn.Subprotocol() != tunnelProtocol {
		return nil
	}
	s.tunnel(c.r.Context(), conn, pod)
	return nil
}

// tunnel serves the connections inside one WebSocket until the client goes or ctx ends.
func (s *Server) tunnel(ctx context.Context, conn *websocket.Conn, pod *corev1.Pod) {
	ctx, cancel := context.WithCancel(ctx)
	f := &forwards{ctx: ctx, to: s.cfg.Forward, pod: pod, waiting: map[string]*forward{}}
	conn.SetReadLimit(maxFrame)
	session, err := spdy.NewServerConnection(&tunnelConn{Conn: conn}, f.accept)
	if err != nil {
		cancel()
		return
	}
	select {
	case <-session.CloseChan():
	case <-ctx.Done():
	}
	cancel()
	session.Close()
	f.mu.Lock()   // whoever is starting a connection has done so, or sees that it is over
	f.mu.Unlock() //nolint:staticcheck // SA2001: to have had the lock is the point
	f.running.Wait()
}

// forward is one connection: a stream of data, and one that says what went wrong.
type forward struct {
	port        uint16
	data, fault httpstream.Stream
}

// forwards pairs the streams that arrive and connects them.
type forwards struct {
	ctx     context.Context
	to      PortForwarder
	pod     *corev1.Pod
	running sync.WaitGroup

	mu      sync.Mutex // guards below
	waiting map[string]*forward
	open    int
}

// accept takes a new stream in. The second of a pair starts the connection.
func (f *forwards) accept(stream httpstream.Stream, _ <-chan struct{}) error {
	h := stream.Headers()
	port, err := strconv.ParseUint(h.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%q is not a port", h.Get("port"))
	}
	id := h.Get("requestID")
	f.mu.Lock()
	defer f.mu.Unlock()
	pair := f.waiting[id]
	if pair == nil {
		if f.open+len(f.waiting) >= maxForwards {
			return errors.New("too many connections")
		}
		pair = &forward{port: uint16(port)}
		f.waiting[id] = pair
	}
	switch kind := h.Get("streamType"); kind {
	case "data":
		pair.data = stream
	case "error":
		pair.fault = stream
	default:
		return fmt.Errorf("%q is not a type of stream", kind)
	}
	if pair.data != nil && pair.fault != nil && f.ctx.Err() == nil {
		delete(f.waiting, id)
		f.open++
		f.running.Go(func() { f.connect(pair) })
	}
	return nil
}

func (f *forwards) connect(p *forward) {
	err := f.to.PortForward(f.ctx, PortForwardRequest{
		Namespace: f.pod.Namespace, Pod: f.pod.Name, Port: p.port, Conn: halfStream{p.data}})
	if err != nil && f.ctx.Err() == nil {
		fmt.Fprintf(p.fault, "error forwarding port %d to pod %s: %v", p.port, f.pod.Name, err)
	}
	p.fault.Close()
	p.data.Reset()
	f.mu.Lock()
	f.open--
	f.mu.Unlock()
}

// halfStream is a stream whose directions can be closed one by one.
type halfStream struct{ httpstream.Stream }

// CloseWrite tells the client that no more will come.
func (h halfStream) CloseWrite() error { return h.Stream.Close() }

// Close ends both directions.
func (h halfStream) Close() error {
	h.Stream.Close()
	return h.Stream.Reset()
}

// tunnelConn is a WebSocket whose messages are read and written as one stream of bytes.
type tunnelConn struct {
	*websocket.Conn
	message io.Reader // what is left of the message being read
}

// Read implements net.Conn.
func (t *tunnelConn) Read(p []byte) (int, error) {
	for {
		if t.message == nil {
			_, next, err := t.NextReader()
			if err != nil {
				return 0, io.EOF
			}
			t.message = next
		}
		n, err := t.message.Read(p)
		if err == io.EOF {
			t.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (t *tunnelConn) Write(p []byte) (int, error) {
	if err := t.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	if err := t.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline implements net.Conn.
func (t *tunnelConn) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

var _ net.Conn = (*tunnelConn)(nil)
