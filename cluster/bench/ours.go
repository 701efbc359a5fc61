package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

const benchNode = "bench"

// loadTx is how many Services one transaction writes.
const loadTx = 2000

// ours is this program's proxy as every node runs it, over a store that holds the Services: shared chains, and map elements
// for everything else.
type ours struct {
	rig   *rig
	store *store.Store
	proxy *proxy.Proxy

	ended chan error // what Run returned
}

func openOurs(ctx context.Context, r *rig, n int) (table, error) {
	dir, err := os.MkdirTemp("", "kubarium-bench-")
	if err != nil {
		return nil, err
	}
	t := &ours{rig: r}
	r.onClose(func() error { return os.RemoveAll(dir) })
	// What is compared is the way into the kernel: no layout's store waits for a disk.
	if t.store, err = store.Open(filepath.Join(dir, "store"), store.Options{NoSync: true}); err != nil {
		return nil, err
	}
	r.onClose(t.store.Close)
	return t, t.write(ctx, 0, n)
}

// load is timed from the proxy's start: it lists, plans and programs.
func (t *ours) load(ctx context.Context) (err error) {
	t.proxy, err = proxy.New(proxy.Config{
		Node: benchNode, NS: t.rig.node, PodCIDR: podsCIDR, ServiceCIDR: servicesCIDR, Reader: t.store,
	})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.ended = make(chan error, 1)
	t.rig.onClose(func() error {
		stop()
		return <-t.ended
	})
	go func() { t.ended <- t.proxy.Run(run) }()
	return t.programmed(ctx)
}

// programmed waits until the kernel does what the store says, or the proxy has ended.
func (t *ours) programmed(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reached := make(chan error, 1)
	go func() { reached <- t.proxy.Progress().Wait(ctx, t.store.Revision()) }()
	select {
	case err := <-reached:
		return err
	case err := <-t.ended:
		t.ended <- err
		cancel(err)
		return errors.Join(errors.New("the proxy ended"), err, <-reached)
	}
}

func (t *ours) add(ctx context.Context, i int) error {
	if err := t.write(ctx, i, i+1); err != nil {
		return err
	}
	return t.programmed(ctx)
}

// write writes Services with their slices into the store.
func (t *ours) write(ctx context.Context, from, to int) error {
	for ; from < to; from += loadTx {
		_, err := t.store.Update(ctx, func(tx *store.Tx) error {
			for i := from; i < min(to, from+loadTx); i++ {
				if err := errors.Join(tx.Create(slice(t.rig, i)), tx.Create(service(t.rig, i))); err != nil {
					return fmt.Errorf("Service %d: %w", i, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func service(r *rig, i int) *corev1.Service {
	at := r.service(i)
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: serviceName(i)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: at.Addr().String(), ClusterIPs: []string{at.Addr().String()},
			Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: servicePort}},
		},
	}
}

func slice(r *rig, i int) *discoveryv1.EndpointSlice {
	name, tcp, port, node, ready := "", corev1.ProtocolTCP, int32(endpointPort), benchNode, true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: serviceName(i), Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &tcp, Port: &port}},
	}
	for j := range r.endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{r.endpoint(i, j).Addr().String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return s
}
