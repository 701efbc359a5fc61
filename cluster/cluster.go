package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kubarium.dev/apiserver"
	"kubarium.dev/controller"
	"kubarium.dev/dns"
	"kubarium.dev/ingress"
	"kubarium.dev/node"
	"kubarium.dev/node/image"
	"kubarium.dev/store"
)

// Cluster is a running cluster.
type Cluster struct {
	o         Options
	started   time.Time
	block     block
	authority *apiserver.Authority

	store       *store.Store
	images      *image.Set
	fabric      *node.Fabric
	manager     *controller.Manager
	dns         *dns.Server
	ingress     *ingress.Controller
	publish     *publisher
	balancer    *balancer
	api         *apiserver.Server
	apiListener net.Listener // on the host's loopback

	first []member        // the nodes it started with
	life  context.Context // of all that runs

	membership sync.Mutex   // held while nodes come, go, lose power or each other: one at a time
	mu         sync.RWMutex // guards nodes, and their life and hearing
	nodes      []*machine   // replaced, never changed in place

	consumers []consumer // beside the nodes' rulesets

	// The life of everything that runs: stop cancels it, group waits for it. undo closes what was opened, last first.
	stop  context.CancelFunc
	group *errgroup.Group
	ended chan struct{}
	undo  []func() error
}

// Start boots a cluster from its store (a new one is empty) and returns when it is usable: the API answers, the nodes are
// Ready, DNS answers from a pod. If a step fails, those before it are undone. The cluster runs until Close; ctx bounds the
// start only.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, run := errgroup.WithContext(run)
	c := &Cluster{o: o, started: o.Now(), stop: stop, group: group, ended: make(chan struct{})}
	for _, s := range c.steps() {
		began := time.Now()
		if err := s.do(ctx, run); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", s.name, err), c.Close())
		}
		o.Progress(Stage{Name: s.name, Took: time.Since(began)})
	}
	context.AfterFunc(run, func() { close(c.ended) })
	return c, nil
}

// Done is closed when the cluster ends: by Close, or because a part of it failed, which Close then reports.
func (c *Cluster) Done() <-chan struct{} { return c.ended }

// Close ends everything and waits for it. The store stays on disk. It may be called more than once.
func (c *Cluster) Close() error {
	c.stop()
	err := c.group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	for len(c.undo) > 0 {
		last := c.undo[len(c.undo)-1]
		c.undo = c.undo[:len(c.undo)-1]
		err = errors.Join(err, last())
	}
	return err
}

// Store is the cluster's store: reading and writing it directly is the fastest way for tests in the same process.
func (c *Cluster) Store() *store.Store { return c.store }

// Outside connects from a client that stands outside the cluster and reaches node and load-balancer addresses only.
func (c *Cluster) Outside(ctx context.Context, network, address string) (net.Conn, error) {
	return c.fabric.Outside().DialContext(ctx, network, address)
}

// Kubeconfig is the administrator's kubeconfig, with the credentials in it.
func (c *Cluster) Kubeconfig() []byte { return c.authority.Kubeconfig("kubarium-"+c.o.Name, c.URL()) }

// URL is the API server's address: https://127.N.0.1:6443.
func (c *Cluster) URL() string { return "https://" + c.block.api().String() }

// DNS is where the cluster's DNS answers, over UDP and TCP, for whoever stands in a pod or on a node.
func (c *Cluster) DNS() netip.AddrPort { return netip.AddrPortFrom(c.o.Config.Networks.DNS, 53) }

// onClose files a function that Close calls, the last one filed first.
func (c *Cluster) onClose(f func() error) { c.undo = append(c.undo, f) }

// endOf is what a Run returns when its watch ended: nothing when the caller ended it, else the reason.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Namespaces are the inode numbers of every network namespace that the cluster holds: the wire, outside, nodes and pods. A test
// that ends with the leak check looks for them afterwards.
func (c *Cluster) Namespaces() []uint64 {
	return c.fabric.Namespaces()
}
