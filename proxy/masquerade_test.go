package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// P-11, P-24: a masqueraded client keeps its port. Another, drawn at random, may be one under which the endpoint still keeps a
// connection that it closed itself, for a minute: it answers the new one's SYN as a part of the old one, and the client waits for
// the next attempt, 10 ms the first time and a second after that.
func TestAMasqueradedClientKeepsItsPort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	pod := r.pod(1)
	ln, err := pod.ns.Listen(context.Background(), "tcp", "0.0.0.0:7000")
	must(t, err)
	defer ln.Close()
	go func() { // tells who is seen, and is the first to close
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, port, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, port)
			c.Close()
		}
	}()
	s := slice("web", ready(pod))
	s.Ports = []discoveryv1.EndpointPort{slicePort("", corev1.ProtocolTCP, 7000)}
	r.put(service("web", "10.96.0.20", nodePort(30080)), s)
	kept := 0
	for range 40 {
		for from, to := range map[*rigNode]string{r.nodes[1]: "10.96.0.20:80", nil: "172.30.0.12:30080"} {
			ns := r.outside
			if from != nil {
				ns = from.ns
			}
			c, err := dial(ns, "tcp", to, patience)
			must(t, err)
			_, mine, _ := net.SplitHostPort(c.LocalAddr().String())
			seen, err := io.ReadAll(c)
			must(t, err)
			c.Close()
			if string(seen) == mine {
				kept++
			}
		}
	}
	if kept < 70 { // the two clients may have the same port at a time
		t.Errorf("%d of 80 connections kept their port", kept)
	}
}
