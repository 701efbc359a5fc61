package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/node/image"
	"kubarium.dev/node/netns"
	"kubarium.dev/store"
)

// DialFunc connects to an IP and port, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// NodeConfig says what a machine is. Name, Address, PodCIDR and Store are needed.
type NodeConfig struct {
	Name          string
	Address       netip.Addr   // on the wire between the nodes
	PodCIDR       netip.Prefix // where its pods have their addresses
	Labels        map[string]string
	Store         *store.Store
	Log           *slog.Logger // nil for none
	ClusterDNS    netip.Addr
	ClusterDomain string // "" for cluster.local
	// Programmed returns when nothing leads to a pod any more whose deletion has this revision: processes get SIGTERM then,
	// or after a second. nil does not wait.
	Programmed func(ctx context.Context, revision uint64) error
	// Isolated, if set, says how long a new pod of a namespace waits for its containers: the function that it returns is called with
	// the revision that tells of the pod's address, and returns when the machine's rules guard it. It returns nil when nothing guards
	// the namespace's pods.
	Isolated  func(namespace string) (wait func(ctx context.Context, revision uint64) error)
	Lease     time.Duration // for how long a machine that is not heard of is taken to be alive; 0 for 40 s
	StateDir  string        // the cluster's own files, hidden from every container
	Images    *image.Set    // nil for none
	HostPaths []string      // folders of the host that volumes may show; nil for none
	// Token issues a token for a pod's ServiceAccount; nil for nobody who could.
	Token func(context.Context, TokenRequest) (string, error)
	Now   func() time.Time
}

// Node is one machine.
type Node struct {
	cfg         NodeConfig
	machine     *machine
	resolver    Resolver
	prober      *http.Client
	health      *http.Client // of gRPC probes
	power       *power
	volumes     volumes
	resources   corev1.ResourceList // the machine's
	allocations *allocations
	services    serviceEnvs
	progress    store.Progress
	registered  chan struct{} // closed when the Node object stands and the pods that were here have their addresses
	once        sync.Once     // of closing registered
	noSys       sync.Once     // of the warning that pods have no /sys

	mu      sync.Mutex                       // guards all below
	workers map[types.UID]*worker            // every pod that is being run or ended
	pods    map[types.NamespacedName]*worker // those with a network, by name
	wg      sync.WaitGroup                   // the workers
}

const defaultDomain = "cluster.local"

// AddNode puts a machine on the wire. Run makes it work.
func (f *Fabric) AddNode(_ context.Context, c NodeConfig) (*Node, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Lease <= 0 {
		c.Lease = defaultLease
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = defaultDomain
	}
	m, err := f.attach(c.Name, c.Address, c.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("put node %s on the wire: %w", c.Name, err)
	}
	n := &Node{
		cfg: c, machine: m, power: m.power, registered: make(chan struct{}),
		workers: map[types.UID]*worker{}, pods: map[types.NamespacedName]*worker{},
	}
	n.prober = newProber(m.ns().DialContext)
	if c.StateDir != "" {
		n.volumes.dir = filepath.Join(c.StateDir, "volumes-"+c.Name)
	}
	n.resources = n.capacity()
	n.allocations = newAllocations(n.resources)
	n.health = newHealthProber(m.ns().DialContext)
	n.resolver = Resolver{DNS: c.ClusterDNS, Domain: c.ClusterDomain}
	if raw, err := os.ReadFile("/etc/resolv.conf"); err == nil { // a host without one has no names of its own
		n.resolver.Host = string(raw)
	}
	return n, nil
}

// NS is the machine's network namespace.
func (n *Node) NS() *netns.NS { return n.machine.ns() }

// Progress is how far the node has taken up the pods of the store.
func (n *Node) Progress() *store.Progress { return &n.progress }

// Registered returns when the Node object stands in the store.
func (n *Node) Registered(ctx context.Context) error {
	select {
	case <-n.registered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow takes up every pod of this node, and then every change, until the watch ends.
func (n *Node) follow(ctx context.Context) error {
	list, err := n.cfg.Store.List(ctx, api.Pods, store.Query{Index: api.IndexNode, Value: n.cfg.Name})
	if err != nil {
		return err
	}
	watch, err := n.cfg.Store.Watch(ctx, list.Revision, watched...)
	if err != nil {
		return err
	}
	defer watch.Close()
	n.sync(ctx, list.Items)
	n.progress.Reach(list.Revision)
	n.once.Do(func() { close(n.registered) })
	for {
		batch, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		if err := n.power.await(ctx, func() bool { return !n.power.cut }); err != nil {
			return err
		}
		for _, e := range batch.Events {
			switch obj := e.Object.(type) {
			case *corev1.Pod:
				n.take(ctx, obj, e.Type == store.Deleted)
			case *corev1.Service:
				n.services.forget(obj.Namespace, obj.Name)
			default:
				n.refresh(obj)
			}
		}
		n.progress.Reach(batch.Revision)
	}
}

// watched is what a node follows, in one watch: a pod that was made after a Service is taken up after it.
var watched = []*api.Kind{api.Pods, api.Services, api.ConfigMaps, api.Secrets}

// refresh tells the pods whose volumes show an object that it has changed.
func (n *Node) refresh(obj api.Object) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.workers {
		if w.key.Namespace == obj.GetNamespace() && len(w.latest.Load().Spec.Volumes) > 0 {
			w.stale.Store(true)
			w.nudge()
		}
	}
}

// leave returns when nothing of the node's pods is left.
func (n *Node) leave() {
	n.wg.Wait()
	if err := n.volumes.close(); err != nil {
		n.cfg.Log.Error("take the volumes away", "error", err)
	}
}

// lookup is where the node's pods find what they refer to.
func (n *Node) lookup() lookup { return lookup{configMap: n.configMap, secret: n.secret} }

// sync takes up a whole list: pods that are not in it are gone.
func (n *Node) sync(ctx context.Context, items []api.Object) {
	here := map[types.UID]bool{}
	fresh := store.All[*corev1.Pod](items)
	for _, pod := range fresh { // first those that come back to an address
		here[pod.UID] = true
		if pod.Status.PodIP != "" {
			n.take(ctx, pod, false)
		}
	}
	for _, pod := range fresh {
		if pod.Status.PodIP == "" {
			n.take(ctx, pod, false)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for uid, w := range n.workers {
		if !here[uid] {
			w.tell(w.latest.Load(), true)
		}
	}
}

// take hands a pod to its worker, a new one for a new pod.
func (n *Node) take(ctx context.Context, pod *corev1.Pod, gone bool) {
	if pod.Spec.NodeName != n.cfg.Name {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.workers[pod.UID]
	switch {
	case w != nil:
		w.tell(pod, gone)
	case gone || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
	default:
		w = newWorker(n, pod)
		n.workers[pod.UID] = w
		n.wg.Go(func() {
			w.run(ctx)
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.workers, w.uid)
		})
	}
}

// running files a pod that has its network.
func (n *Node) running(w *worker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods[w.key] = w
}

// notRunning takes a pod's network out of reach; its logs stay while the pod is there.
func (n *Node) notRunning(w *worker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods[w.key] == w {
		delete(n.pods, w.key)
	}
}

// remove takes a pod that has ended out of the store.
func (n *Node) remove(ctx context.Context, pod *corev1.Pod) error {
	_, err := n.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		err := tx.Remove(pod)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // it went, or another pod has its name by now
		}
		return err
	})
	return err
}

// find returns the worker of a pod.
func (n *Node) find(namespace, name string) *worker {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if w := n.pods[key]; w != nil {
		return w
	}
	for _, w := range n.workers {
		if w.key == key {
			return w
		}
	}
	return nil
}

// container finds a container of a pod; "" is the first.
func (n *Node) container(namespace, pod, name string) (*container, error) {
	if n.power.isCut() {
		return nil, apierrors.NewServiceUnavailable("node " + n.cfg.Name + " does not answer")
	}
	w := n.find(namespace, pod)
	if w == nil {
		return nil, apierrors.NewNotFound(api.Pods.GroupResource(), pod)
	}
	if c := w.find(name); c != nil {
		return c, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod))
}

// PodNS is the network namespace of a pod that has one here.
func (n *Node) PodNS(namespace, name string) (*netns.NS, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.pods[types.NamespacedName{Namespace: namespace, Name: name}]; w != nil {
		if net := w.net.Load(); net != nil {
			return net.NS, true
		}
	}
	return nil, false
}

// Requests is the number of requests that the built-in applications of a pod have answered in their current runs.
func (n *Node) Requests(namespace, name string) (uint64, bool) {
	w := n.find(namespace, name)
	if w == nil {
		return 0, false
	}
	total, any := uint64(0), false
	for _, c := range w.containers {
		if r := c.current(); r != nil && r.app != nil {
			total, any = total+r.app.Requests(), true
		}
	}
	return total, any
}

// FromPod gives fn a way to connect from where a pod of this node would stand: a network that exists for the call alone.
func (n *Node) FromPod(_ context.Context, fn func(DialFunc) error) error {
	net, err := n.newPodNet(netip.Addr{}, nil)
	if err != nil {
		return err
	}
	err = fn(net.NS.DialContext)
	if cerr := n.closePodNet(net); err == nil {
		err = cerr
	}
	return err
}

// claim keeps the address that a pod had before the machine lost its power, so that no other pod gets it.
func (n *Node) claim(pod *corev1.Pod) netip.Addr {
	want, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || pod.Spec.HostNetwork || !n.cfg.PodCIDR.Contains(want) {
		return netip.Addr{}
	}
	got, err := n.machine.takeIP(want)
	if err != nil {
		return netip.Addr{}
	}
	return got
}

// newPodNet makes the network of a pod, with the address that was claimed for it or, without one, a free one. early is called
// when there is a namespace and nothing in it yet; it may be nil.
func (n *Node) newPodNet(ip netip.Addr, early func(*netns.NS)) (*podNet, error) {
	if ip.IsValid() {
		return n.machine.addPod(ip, early)
	}
	ip, err := n.machine.takeIP(ip)
	if err != nil {
		return nil, err
	}
	p, err := n.machine.addPod(ip, early)
	if err != nil {
		n.machine.freeIP(ip)
		return nil, err
	}
	return p, nil
}

func (n *Node) closePodNet(p *podNet) error {
	err := p.close()
	n.machine.freeIP(p.IP)
	return err
}

// hide is what no container may see beside what podinit hides.
func (n *Node) hide() []string {
	if n.cfg.StateDir == "" {
		return nil
	}
	return []string{n.cfg.StateDir}
}
