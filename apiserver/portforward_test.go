package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"

	"kubarium.dev/apiserver"
)

// fakeNode answers attach and port-forward in place of a node.
type fakeNode struct{}

func (fakeNode) Attach(_ context.Context, r apiserver.AttachRequest) error {
	text, err := io.ReadAll(r.Stdin)
	fmt.Fprintf(r.Stdout, "%s/%s/%s heard %s", r.Namespace, r.Pod, r.Container, text)
	return err
}

// PortForward answers with the port and the five bytes it was sent.
func (fakeNode) PortForward(_ context.Context, r apiserver.PortForwardRequest) error {
	defer r.Conn.Close()
	line := make([]byte, 5)
	if _, err := io.ReadFull(r.Conn, line); err != nil {
		return err
	}
	_, err := fmt.Fprintf(r.Conn, "%d: %s", r.Port, line)
	return err
}

// running puts a pod on a node.
func (c *cluster) running(t *testing.T, name string) {
	t.Helper()
	pods := c.client(t).CoreV1().Pods("dev")
	if _, err := pods.Create(t.Context(), pod(name), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func startWithNode(t *testing.T) *cluster {
	return start(t, func(conf *apiserver.Config) { conf.Attach, conf.Forward = fakeNode{}, fakeNode{} })
}

// attach carries both directions over WebSocket.
func TestAttachCarriesStreams(t *testing.T) {
	t.Parallel()
	c := startWithNode(t)
	c.running(t, "a")
	url := c.client(t).CoreV1().RESTClient().Post().Resource("pods").Namespace("dev").Name("a").SubResource("attach").
		VersionedParams(&corev1.PodAttachOptions{Stdin: true, Stdout: true}, scheme.ParameterCodec).URL()
	session, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, url.String())
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = session.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil || out.String() != "dev/a/c heard hello" {
		t.Errorf("got %q (%v)", out.String(), err)
	}
}

// client-go's port forwarder, which is kubectl's, reaches a port through the tunnel, again and again.
func TestPortForwardReachesAPort(t *testing.T) {
	t.Parallel()
	c := startWithNode(t)
	c.running(t, "a")
	url := c.client(t).CoreV1().RESTClient().Post().Resource("pods").Namespace("dev").Name("a").SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(url, c.config)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.New(dialer, []string{":80"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	speak := func(local uint16) string {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", local))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
		answer, _ := io.ReadAll(conn)
		return string(answer)
	}
	for range 3 {
		if got := speak(ports[0].Local); got != "80: hello" {
			t.Errorf("got %q", got)
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Errorf("the forwarder ended with %v", err)
	}
}
