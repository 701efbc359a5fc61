package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// forgetful is a reader whose first watch has lost events as soon as told.
type forgetful struct {
	store.Reader
	lost    chan struct{}
	watches int
}

func (f *forgetful) Watch(ctx context.Context, from uint64, kinds ...*api.Kind) (store.Watcher, error) {
	w, err := f.Reader.Watch(ctx, from, kinds...)
	if f.watches++; f.watches > 1 {
		return w, err
	}
	return gone{w, f.lost}, err
}

type gone struct {
	store.Watcher
	lost chan struct{}
}

func (g gone) Next(ctx context.Context) (store.Batch, error) {
	select {
	case <-g.lost:
		return store.Batch{}, apierrors.NewResourceExpired("too old")
	case <-ctx.Done():
		return store.Batch{}, ctx.Err()
	}
}

// A publisher that lost events publishes what there is then: a Service that went is closed, one that came is opened, one that
// stayed keeps its listener.
func TestAPublisherThatLostEventsCatchesUp(t *testing.T) {
	t.Parallel()
	db, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	write := func(fn func(*store.Tx) error) uint64 {
		t.Helper()
		rev, err := db.Update(t.Context(), fn)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	service := func(name string, port int32) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, NodePort: port, Protocol: corev1.ProtocolTCP}}},
		}
	}
	o, err := Options{StateDir: t.TempDir()}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	nets := o.Config.Networks
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nets.nodeAddress(0).String()}}
	first := write(func(tx *store.Tx) error {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		return errors.Join(tx.Create(ns), tx.Create(node), tx.Create(service("goes", 30001)), tx.Create(service("stays", 30002)))
	})

	block, claim, err := claimBlock(0)
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Close()
	reader := &forgetful{Reader: db, lost: make(chan struct{})}
	c := &Cluster{o: o, store: db, block: block}
	c.o.Log = slog.New(slog.DiscardHandler)
	p := newPublisher(c)
	p.reader = reader
	p.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody is there") }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	if err := p.progress.Wait(ctx, first); err != nil {
		t.Fatal(err)
	}
	stays := p.rows[publishKey{"TCP", netip.AddrPortFrom(block.node(0), 30002)}]

	last := write(func(tx *store.Tx) error {
		old, err := tx.Get(api.Services, "default", "goes")
		if err != nil {
			return err
		}
		return errors.Join(tx.Remove(old), tx.Create(service("comes", 30003)))
	})
	close(reader.lost)
	if err := p.progress.Wait(ctx, last); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range p.Table() {
		if !strings.HasPrefix(row.Service, "the ingress") {
			got = append(got, fmt.Sprint(row.Service, " ", row.Host.Port(), row.Problem))
		}
	}
	if want := "default/stays:80 30002, default/comes:80 30003"; strings.Join(got, ", ") != want {
		t.Errorf("published: got %s, want %s", strings.Join(got, ", "), want)
	}
	if p.rows[publishKey{"TCP", netip.AddrPortFrom(block.node(0), 30002)}] != stays {
		t.Error("what stayed was opened anew")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
