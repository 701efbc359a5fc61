package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vishvananda/netlink"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// power is whether a machine has power, and whether it hears of the others.
type power struct {
	mu      sync.Mutex // guards all below
	off     bool
	cut     bool
	changed chan struct{}      // closed and replaced when off or cut changes
	end     context.CancelFunc // of what runs while the power is on; nil while nothing does
	dark    chan struct{}      // closed when it has ended
}

// errCut is what keeps a machine that is cut off from telling of its pods.
var errCut = errors.New("the node is cut off from the control plane")

// set changes the state and tells those who wait.
func (p *power) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// await returns when ok is true of the state, or with ctx's error.
func (p *power) await(ctx context.Context, ok func() bool) error {
	for {
		p.mu.Lock()
		if ok() {
			p.mu.Unlock()
			return ctx.Err()
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *power) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// Stop takes the machine's power away: its pods die without a word, and nobody reaches it. It returns when nothing runs any more.
// Run goes on, and waits for Start.
func (n *Node) Stop() error {
	var end context.CancelFunc
	var dark chan struct{}
	n.power.set(func() { n.power.off, end, dark = true, n.power.end, n.power.dark })
	if end != nil {
		end()
		<-dark
	}
	return errors.Join(n.machine.plugged(false), n.machine.fabric.resteer())
}

// Start gives the machine its power back: its pods start again, those that are still its own.
func (n *Node) Start() error {
	if err := n.machine.plugged(true); err != nil {
		return err
	}
	n.power.set(func() { n.power.off = false })
	return n.machine.fabric.resteer()
}

// Run registers the machine and runs its pods until ctx ends, and returns when nothing of them is left.
func (n *Node) Run(ctx context.Context) error {
	for {
		if err := n.power.await(ctx, func() bool { return !n.power.off }); err != nil {
			return err
		}
		life, end := context.WithCancel(ctx)
		dark := make(chan struct{})
		n.power.set(func() {
			n.power.end, n.power.dark = end, dark
			if n.power.off {
				end() // it was stopped in between
			}
		})
		err := n.live(life)
		stopped := life.Err() != nil
		end()
		n.power.set(func() { n.power.end = nil })
		close(dark)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !stopped:
			return err
		}
	}
}

// live is a machine's life from one start to its end.
func (n *Node) live(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var heart sync.WaitGroup
	defer func() { cancel(); heart.Wait(); n.leave() }()
	if err := n.register(ctx); err != nil {
		return fmt.Errorf("register node %s: %w", n.cfg.Name, err)
	}
	heart.Go(func() { n.beat(ctx) })
	for {
		err := n.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			return fmt.Errorf("node %s: %w", n.cfg.Name, err)
		}
	}
}

const (
	// leaseNamespace is where Kubernetes keeps the nodes' leases.
	leaseNamespace = corev1.NamespaceNodeLease
	// defaultLease is for how long a machine that is not heard of is taken to be alive; it is heard of four times as often, as
	// kubelet does.
	defaultLease = 40 * time.Second
	beatsInLease = 4
)

// beat renews the machine's lease until ctx ends.
func (n *Node) beat(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Lease / beatsInLease)
	defer tick.Stop()
	for {
		if err := n.heartbeat(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Error("renew the node's lease", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n.power.await(ctx, func() bool { return !n.power.cut }) != nil {
			return
		}
	}
}

// heartbeat tells that the machine is alive.
func (n *Node) heartbeat(ctx context.Context) error {
	now := metav1.NewMicroTime(n.cfg.Now())
	seconds := int32(max(n.cfg.Lease/time.Second, 1))
	_, err := n.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		old, err := store.Get[*coordinationv1.Lease](tx, api.Leases, leaseNamespace, n.cfg.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: leaseNamespace, Name: n.cfg.Name}}
		if err == nil {
			lease = api.Copy(old)
		}
		lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &n.cfg.Name, &seconds, &now
		if err != nil {
			return tx.Create(lease)
		}
		return tx.Update(lease)
	})
	return err
}

// plugged connects the machine with the wire, or takes it off.
func (m *machine) plugged(in bool) error {
	set := m.wire.netlink.LinkSetDown
	if in {
		set = m.wire.netlink.LinkSetUp
	}
	if err := set(m.port()); err != nil {
		return fmt.Errorf("plug node %s: %w", m.name, err)
	}
	// As in connect: to ask for a link makes the kernel see to its carrier now, and not when its link watch comes round.
	for l, index := range map[*link]int{m.wire: m.portIndex, m.link: m.link.eth0} {
		if _, err := l.netlink.LinkByIndex(index); err != nil {
			return fmt.Errorf("look at the link of node %s: %w", m.name, err)
		}
	}
	return nil
}

// port is the machine's end on the wire.
func (m *machine) port() netlink.Link {
	return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: m.portIndex}}
}

// Partition cuts the named machines off from the rest of the wire, from outside and from the control plane; they still reach
// each other. Their pods run on; the machines hear of no change and cannot tell of any, until Heal. Errors: a machine that is not
// there; then nothing is cut.
func (f *Fabric) Partition(names ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var cut []*machine
	for _, name := range names {
		i := slices.IndexFunc(f.machines, func(m *machine) bool { return m.name == name })
		if i < 0 {
			return apierrors.NewNotFound(api.Nodes.GroupResource(), name)
		}
		cut = append(cut, f.machines[i])
	}
	f.islands++
	bridge, err := f.wire.addBridge(fmt.Sprint("island", f.islands))
	if err != nil {
		return err
	}
	f.bridges = append(f.bridges, bridge)
	for _, m := range cut {
		if err := f.wire.netlink.LinkSetMasterByIndex(m.port(), bridge); err != nil {
			return fmt.Errorf("cut node %s off: %w", m.name, err)
		}
		m.setCut(true)
	}
	return f.steerLocked()
}

// Heal puts every machine on the one wire again.
func (f *Fabric) Heal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, m := range f.machines {
		if err := f.wire.netlink.LinkSetMasterByIndex(m.port(), f.bridge); err != nil {
			errs = append(errs, fmt.Errorf("heal node %s: %w", m.name, err))
			continue
		}
		m.setCut(false)
	}
	for _, b := range f.bridges {
		errs = append(errs, f.wire.netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: b}}))
	}
	f.bridges = nil
	return errors.Join(append(errs, f.steerLocked())...)
}

// setCut tells the machine's node, if it has one.
func (m *machine) setCut(cut bool) {
	if m.power != nil {
		m.power.set(func() { m.power.cut = cut })
	}
}

// RemoveNode takes a machine off the wire for good. Its Run must have returned. Its Node object stays: who removes machines
// removes that too.
func (f *Fabric) RemoveNode(n *Node) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.machines, n.machine)
	if i < 0 {
		return apierrors.NewNotFound(api.Nodes.GroupResource(), n.cfg.Name)
	}
	f.machines = slices.Delete(f.machines, i, i+1)
	var errs []error
	for _, other := range f.machines {
		errs = append(errs, other.link.delRoute(route{to: n.machine.pods, dev: other.link.eth0, via: n.machine.addr}))
	}
	errs = append(errs, f.wire.netlink.LinkDel(n.machine.port()), n.machine.link.close(), f.steerLocked())
	return errors.Join(errs...)
}
