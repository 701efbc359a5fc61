package cluster

import (
	"context"
	"net"
	"net/netip"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/node"
	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

// machine is a node with what the cluster runs beside it.
type machine struct {
	*node.Node
	member
	address  netip.Addr
	loopback netip.Addr
	pods     netip.Prefix
	proxy    *proxy.Proxy

	// Its membership: from when it comes until it is removed.
	belongs context.Context
	remove  context.CancelFunc
	ran     chan struct{} // closed when its Run has returned; nil before it began

	life    *life       // one with power; nil without
	hearing *connection // one with the control plane; nil while it is cut off or has no power
}

// life is what runs on a machine from when it has power until it loses it.
type life struct {
	ctx     context.Context
	end     context.CancelFunc
	serving sync.WaitGroup
}

// connection lasts as long as a machine hears of what is written.
type connection struct {
	ctx  context.Context
	lost context.CancelFunc
}

// machines are the nodes of this moment.
func (c *Cluster) machines() []*machine {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.nodes
}

func (c *Cluster) machine(name string) (*machine, error) {
	for _, m := range c.machines() {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, apierrors.NewNotFound(api.Nodes.GroupResource(), name)
}

// connected are the nodes that have power and hear of what is written, each with that connection.
func (c *Cluster) connected() map[*machine]*connection {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := map[*machine]*connection{}
	for _, m := range c.nodes {
		if m.hearing != nil {
			all[m] = m.hearing
		}
	}
	return all
}

// anyMachine is the first node that is connected; the first at all when none is.
func (c *Cluster) anyMachine() *machine {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, m := range c.nodes {
		if m.hearing != nil {
			return m
		}
	}
	return c.nodes[0]
}

// dialFromNode connects from a node that is connected. Connections end with that node's power.
func (c *Cluster) dialFromNode(ctx context.Context, network, address string) (net.Conn, error) {
	m := c.anyMachine()
	c.mu.RLock()
	l := m.life
	c.mu.RUnlock()
	conn, err := m.NS().DialContext(ctx, network, address)
	tcp, ok := conn.(*net.TCPConn)
	if err != nil || l == nil || !ok {
		return conn, err
	}
	return mortal{tcp, context.AfterFunc(l.ctx, func() { tcp.Close() })}, nil
}

// mortal is a connection that ends with a node's power.
type mortal struct {
	*net.TCPConn
	forget func() bool
}

func (m mortal) Close() error {
	m.forget()
	return m.TCPConn.Close()
}

// switchOn begins a machine's life: it serves the API, DNS and the ingress on its addresses and keeps its ruleset.
func (c *Cluster) switchOn(ctx context.Context, m *machine) error {
	l := &life{}
	l.ctx, l.end = context.WithCancel(m.belongs)
	serve, err := c.servicesOf(ctx, m)
	if err != nil {
		l.end()
		return err
	}
	for _, run := range append(serve, m.proxy.Run) {
		l.serving.Add(1)
		c.group.Go(func() error {
			defer l.serving.Done()
			return endOf(l.ctx, run(l.ctx))
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.life = l
	m.connect()
	return nil
}

// switchOff ends a machine's life and waits for it.
func (c *Cluster) switchOff(m *machine) {
	c.mu.Lock()
	l := m.life
	m.life = nil
	m.disconnect()
	c.mu.Unlock()
	if l != nil {
		l.end()
		l.serving.Wait()
	}
}

// connect and disconnect need the lock of the cluster's nodes.
func (m *machine) connect() {
	if m.hearing == nil && m.life != nil && !m.CutOff() {
		m.hearing = &connection{}
		m.hearing.ctx, m.hearing.lost = context.WithCancel(m.life.ctx)
	}
}

func (m *machine) disconnect() {
	if m.hearing != nil {
		m.hearing.lost()
		m.hearing = nil
	}
}

// server is one thing that a machine serves until ctx ends.
type server func(ctx context.Context) error

// servicesOf opens a machine's listeners: the API's, DNS', and the ingress'.
func (c *Cluster) servicesOf(ctx context.Context, m *machine) (all []server, err error) {
	var opened []func() error
	defer func() {
		if err != nil {
			for _, closing := range opened {
				closing()
			}
		}
	}()
	listen := func(at netip.AddrPort, serve func(context.Context, net.Listener) error) {
		if err != nil {
			return
		}
		var ln net.Listener
		if ln, err = m.NS().Listen(ctx, "tcp4", at.String()); err == nil {
			opened = append(opened, ln.Close)
			all = append(all, func(ctx context.Context) error { return serve(ctx, ln) })
		}
	}
	dns := c.DNS()
	pc, err := m.NS().ListenPacket(ctx, "udp4", dns.String())
	if err != nil {
		return nil, err
	}
	opened = append(opened, pc.Close)
	listen(dns, func(ctx context.Context, ln net.Listener) error { return c.dns.Serve(ctx, pc, ln) })
	listen(netip.AddrPortFrom(m.address, apiPort), func(ctx context.Context, ln net.Listener) error {
		return c.api.Serve(ctx, ln, c.authority.ServerTLS())
	})
	listen(netip.AddrPortFrom(m.address, httpPort), c.ingress.Serve)
	listen(netip.AddrPortFrom(m.address, httpsPort), c.ingress.ServeTLS)
	return all, err
}

// heard is the store as a machine sees it: while it is cut off, it hears of nothing.
type heard struct {
	store.Reader
	connected func(context.Context) error
}

func (h heard) List(ctx context.Context, kind *api.Kind, q store.Query) (store.List, error) {
	if err := h.connected(ctx); err != nil {
		return store.List{}, err
	}
	return h.Reader.List(ctx, kind, q)
}

func (h heard) Watch(ctx context.Context, from uint64, kinds ...*api.Kind) (store.Watcher, error) {
	w, err := h.Reader.Watch(ctx, from, kinds...)
	if err != nil {
		return nil, err
	}
	return heardWatcher{w, h.connected}, nil
}

type heardWatcher struct {
	store.Watcher
	connected func(context.Context) error
}

func (h heardWatcher) Next(ctx context.Context) (store.Batch, error) {
	b, err := h.Watcher.Next(ctx)
	if err != nil {
		return b, err
	}
	return b, h.connected(ctx)
}
