package cluster

import (
	"context"
	"errors"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/apiserver"
	"kubarium.dev/node"
	"kubarium.dev/node/netns"
)

// A place is where a request or a shell starts: "outside", "node/NAME", "pod/NAME" or "pod/NAMESPACE/NAME".
const placeOutside = "outside"

func noPlace(place string) error {
	return apierrors.NewBadRequest("place " + place + ": it must be outside, node/NAME or pod/NAME")
}

// Dialer connects from a place: "outside", "node/NAME", "pod/NAME" (in namespace) or "pod/NAMESPACE/NAME"; "" is a connected node.
func (c *Cluster) Dialer(place, namespace string) (node.DialFunc, error) {
	ns, err := c.namespace(place, namespace)
	if err != nil {
		return nil, err
	}
	return ns.DialContext, nil
}

// Listen listens at a place of Dialer's, as net.Listen does: a test's own server where pods, nodes or outside reach it. ctx bounds the
// call only.
func (c *Cluster) Listen(ctx context.Context, place, network, address string) (net.Listener, error) {
	ns, err := c.namespace(place, metav1.NamespaceDefault)
	if err != nil {
		return nil, err
	}
	return ns.Listen(ctx, network, address)
}

func (c *Cluster) namespace(place, namespace string) (*netns.NS, error) {
	kind, name, _ := strings.Cut(place, "/")
	switch {
	case place == "":
		return c.anyMachine().NS(), nil
	case place == placeOutside:
		return c.fabric.Outside(), nil
	case kind == "node" && name != "":
		m, err := c.machine(name)
		if err != nil {
			return nil, err
		}
		return m.NS(), nil
	case kind == "pod" && name != "":
		if ns, pod, ok := strings.Cut(name, "/"); ok {
			namespace, name = ns, pod
		}
		return c.podNamespace(namespace, name)
	}
	return nil, noPlace(place)
}

func (c *Cluster) podNamespace(namespace, name string) (*netns.NS, error) {
	m, err := c.nodeOf(namespace, name)
	if err != nil {
		return nil, err
	}
	ns, ok := m.PodNS(namespace, name)
	if !ok {
		return nil, apierrors.NewBadRequest("pod " + namespace + "/" + name + " is not running")
	}
	return ns, nil
}

// nodeOf finds the node that runs a pod.
func (c *Cluster) nodeOf(namespace, name string) (*machine, error) {
	obj, err := c.store.Get(api.Pods, namespace, name)
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest("pod " + name + " does not have a host assigned")
	}
	return c.machine(pod.Spec.NodeName)
}

// Exec runs a command in a pod: the API server's pods/exec.
func (c *Cluster) Exec(ctx context.Context, r apiserver.ExecRequest) error {
	m, err := c.nodeOf(r.Namespace, r.Pod)
	if err != nil {
		return err
	}
	return handOver(ctx, r, m.Exec)
}

// Attach joins a container's own command: the API server's pods/attach.
func (c *Cluster) Attach(ctx context.Context, r apiserver.AttachRequest) error {
	m, err := c.nodeOf(r.Namespace, r.Pod)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return m.Attach(ctx, node.AttachRequest{
		Namespace: r.Namespace, Pod: r.Pod, Container: r.Container, Stdin: r.Stdin, Stdout: r.Stdout, Resize: resize(ctx, r.Resize),
	})
}

// PortForward connects to a port of a pod: the API server's pods/portforward.
func (c *Cluster) PortForward(ctx context.Context, r apiserver.PortForwardRequest) error {
	m, err := c.nodeOf(r.Namespace, r.Pod)
	if err != nil {
		r.Conn.Close()
		return err
	}
	return m.PortForward(ctx, node.PortForwardRequest(r))
}

// Logs copies a container's log: the API server's pods/log.
func (c *Cluster) Logs(ctx context.Context, r apiserver.LogRequest) error {
	m, err := c.nodeOf(r.Namespace, r.Pod)
	if err != nil {
		return err
	}
	return m.Logs(ctx, node.LogRequest(r))
}

// shell runs a command on a node or in `outside`.
func (c *Cluster) shell(ctx context.Context, place string, r apiserver.ExecRequest) error {
	if place == placeOutside {
		return handOver(ctx, r, c.fabric.Exec)
	}
	name, ok := strings.CutPrefix(place, "node/")
	if !ok {
		return noPlace(place)
	}
	m, err := c.machine(name)
	if err != nil {
		return err
	}
	return handOver(ctx, r, m.ExecHere)
}

// resize hands terminal sizes on until ctx ends; nil for none.
func resize(ctx context.Context, from <-chan apiserver.Size) <-chan node.Size {
	if from == nil {
		return nil
	}
	sizes := make(chan node.Size)
	go func() {
		defer close(sizes)
		for s := range from {
			select {
			case sizes <- node.Size(s):
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// handOver gives a request of the API server to a node, which has its own words for the same.
func handOver(ctx context.Context, r apiserver.ExecRequest, run func(context.Context, node.ExecRequest) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := run(ctx, node.ExecRequest{
		Namespace: r.Namespace, Pod: r.Pod, Container: r.Container, Command: r.Command,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, TTY: r.TTY, Resize: resize(ctx, r.Resize),
	})
	var exit *node.ExitError
	if errors.As(err, &exit) {
		return &apiserver.ExitError{Code: exit.Code}
	}
	return err
}
