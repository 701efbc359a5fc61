package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// retryAfter is how long to wait after something that should have worked, such as a write of the store.
const retryAfter = time.Second

// worker runs one pod. Everything without a note of its own belongs to the goroutine of run.
type worker struct {
	n   *Node
	key types.NamespacedName
	uid types.UID

	latest atomic.Pointer[corev1.Pod]
	stale  atomic.Bool   // something that a volume shows has changed
	gone   atomic.Bool   // the object is not in the store any more
	wake   chan struct{} // one waiting notice: latest or gone changed
	inbox  chan any      // runEnded, probed
	left   chan struct{} // closed when nobody reads the inbox any more
	wg     sync.WaitGroup

	claim      netip.Addr             // the address it had before, kept for it until it has its network
	ip         netip.Addr             // that it has or had; it stays in the status of a pod that has ended
	net        atomic.Pointer[podNet] // nil until the pod has its network, and again when that was taken away
	life       context.Context        // of everything the pod runs
	pod        *corev1.Pod            // what the goroutine has taken up of latest
	hostNet    bool                   // net is the node's own
	inits      []*container           // in their order, sidecars among them
	containers []*container
	start      time.Time
	failed     *verdict // why the pod as a whole has failed; nil while it has not
	sizes      resizing

	initialized bool         // the init containers are done
	ending      bool         // endRest was called
	hooks       atomic.Int32 // preStop hooks that run
	volumes     podVolumes
	hostPorts   *hostPorts
	pause       pause         // of a pod whose containers share their processes
	early       chan *sandbox // closed once it holds the process that was started early, or none; nil for none
	isolated    bool          // NetworkPolicies guard the pod, or none is there
	mounted     bool          // the volumes were there when the containers were first started

	mu        sync.Mutex // guards debuggers, which the worker alone writes
	debuggers []*container

	dirty       bool   // the status has changed since it was written
	written     uint64 // the revision of its last writing
	pending     []happening
	names       map[string]string // events written, by their key
	eventNumber int
}

// runEnded tells the worker that a run has ended.
type runEnded struct {
	c *container
	r *run
}

func newWorker(n *Node, pod *corev1.Pod) *worker {
	w := &worker{
		n: n, key: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, uid: pod.UID, names: map[string]string{},
		wake: make(chan struct{}, 1), inbox: make(chan any, 16), left: make(chan struct{}), pod: pod, dirty: true,
	}
	w.volumes.w = w
	w.latest.Store(pod)
	w.claim = n.claim(pod)
	w.sizes = asRemembered(pod)
	w.start = n.cfg.Now()
	if pod.Status.StartTime != nil {
		w.start = pod.Status.StartTime.Time
	}
	for i := range pod.Spec.InitContainers {
		w.inits = append(w.inits, w.newContainer(&pod.Spec.InitContainers[i], roleOf(&pod.Spec.InitContainers[i])))
	}
	for i := range pod.Spec.Containers {
		w.containers = append(w.containers, w.newContainer(&pod.Spec.Containers[i], roleMain))
	}
	w.adopt()
	w.admitSysctls()
	w.admit()
	w.resize()
	if cutOff(pod) {
		w.note(happening{reason: reasonSandboxChanged, message: sandboxChanged})
	}
	return w
}

// newContainer takes up what the store knows of a container that ran before the machine lost its power.
func (w *worker) newContainer(spec *corev1.Container, r role) *container {
	c := &container{w: w, spec: spec, role: r, wants: spec.Image, given: spec.Resources}
	for _, list := range [][]corev1.ContainerStatus{
		w.pod.Status.InitContainerStatuses, w.pod.Status.ContainerStatuses, w.pod.Status.EphemeralContainerStatuses,
	} {
		for i := range list {
			if list[i].Name == spec.Name {
				c.remember(&list[i])
			}
		}
	}
	return c
}

// cutOff tells that a pod was running when the machine lost its power.
func cutOff(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if list[i].State.Running != nil {
				return true
			}
		}
	}
	return false
}

// remember takes up a status of before. Init containers run again: what they prepared went with the machine's power.
func (c *container) remember(s *corev1.ContainerStatus) {
	c.restarts, c.last = s.RestartCount, s.LastTerminationState.Terminated
	if s.Resources != nil {
		c.given = *s.Resources
	}
	end := s.State.Terminated
	if s.State.Running != nil {
		end = unknownEnd(s.ContainerID, s.State.Running.StartedAt, c.w.n.cfg.Now())
	}
	switch {
	case end == nil:
	case c.role == roleInit || c.restartsAfter(end.ExitCode):
		c.last = end
		c.restarts++
	default:
		c.ended = end
	}
}

// tell hands a newer state of the pod to the worker; gone says that it is not in the store any more. It never blocks.
func (w *worker) tell(pod *corev1.Pod, gone bool) {
	w.latest.Store(pod)
	if gone {
		w.gone.Store(true)
		w.n.allocations.release(w.uid) // who takes its place must not wait for its processes
	}
	w.nudge()
}

// nudge makes the worker look again.
func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// post hands the worker a message, unless it has left.
func (w *worker) post(m any) {
	select {
	case w.inbox <- m:
	case <-w.left:
	}
}

// run runs the pod until it is gone or ctx ends, and returns when nothing of it is left.
func (w *worker) run(ctx context.Context) {
	var end context.CancelFunc
	w.life, end = context.WithCancel(ctx)
	defer w.leave(end)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.pod = w.latest.Load()
		switch {
		case w.gone.Load():
			return
		case w.pod.DeletionTimestamp != nil:
			w.terminate(w.life)
			return
		}
		next := w.step(w.life)
		if w.pod.DeletionTimestamp != nil || w.gone.Load() {
			continue
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.relabel()
		case m := <-w.inbox:
			w.handle(m)
			w.drainInbox()
		case <-timer.C:
		}
	}
}

// forever is the timer's setting when nothing is due.
const forever = 24 * time.Hour

// step does what is due, writes what changed, and returns when to come again.
func (w *worker) step(ctx context.Context) time.Duration {
	next := forever
	if w.net.Load() == nil && !w.finished() {
		if err := w.setUp(); err != nil {
			w.note(happening{kind: corev1.EventTypeWarning, reason: reasonSandbox, message: "Failed to create pod sandbox: " + err.Error()})
			next = retryAfter
		}
	}
	if w.net.Load() != nil && w.isolate(ctx) && w.mount(ctx) {
		next = min(next, w.advance(ctx), w.volumes.renewal(w.n.cfg.Now()))
		w.awaitFirstAnswers(ctx)
		w.finishResize()
		if w.finished() {
			w.tearDown()
		}
	}
	if w.net.Load() != nil && !w.mounted {
		next = min(next, retryAfter)
	}
	if (w.dirty || len(w.pending) > 0) && ctx.Err() == nil {
		if err := w.write(ctx); err != nil {
			w.n.cfg.Log.Error("write the status of a pod", "pod", w.key, "error", err)
			next = min(next, retryAfter)
		}
	}
	return next
}

// mount makes the pod's volumes, and keeps them up to date. It tells whether the containers may start.
func (w *worker) mount(ctx context.Context) bool {
	if len(w.pod.Spec.Volumes) == 0 {
		w.mounted = true
		return true
	}
	pod := w.withAddresses()
	var err error
	switch {
	case !w.mounted:
		err = w.volumes.check(ctx, pod, !w.builtInAlone())
	case w.stale.Swap(false) || w.volumes.renewal(w.n.cfg.Now()) == 0:
		err = w.volumes.refresh(ctx, pod)
	}
	if err != nil && ctx.Err() == nil {
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonMount, message: err.Error()})
	}
	w.mounted = w.mounted || err == nil
	return w.mounted
}

// withAddresses is the pod as its containers are to see it: its status may not be written yet.
func (w *worker) withAddresses() *corev1.Pod {
	pod := *w.latest.Load()
	if net := w.net.Load(); net != nil {
		pod.Status.PodIP, pod.Status.HostIP = net.IP.String(), w.n.cfg.Address.String()
	}
	return &pod
}

// builtInAlone tells that no container of the pod is a process.
func (w *worker) builtInAlone() bool {
	for _, c := range w.all() {
		if p, err := w.n.resolve(c.spec); err != nil || !p.builtIn {
			return false
		}
	}
	return true
}

// setUp gives the pod its network.
func (w *worker) setUp() error {
	if w.pod.Spec.HostNetwork {
		w.hostNet = true
		w.ip = w.n.cfg.Address
		w.net.Store(&podNet{NS: w.n.NS(), IP: w.ip})
		w.n.running(w)
		return nil
	}
	net, err := w.n.newPodNet(w.claim, w.beginEarly)
	if err != nil {
		w.dropEarly()
		return err
	}
	w.claim, w.ip = netip.Addr{}, net.IP
	if err = tune(net, w.pod); err == nil {
		w.hostPorts, err = w.n.openHostPorts(w.life, w.pod, net.IP)
	}
	if err != nil {
		w.dropEarly()
		return errors.Join(err, w.n.closePodNet(net))
	}
	w.net.Store(net)
	w.dirty = true
	if _, cut := ResolvConf(w.pod, w.n.resolver); len(cut) > 0 {
		for _, text := range cut {
			w.note(happening{kind: corev1.EventTypeWarning, reason: reasonDNSConfig, message: text})
		}
	}
	w.n.running(w)
	return nil
}

func (w *worker) handle(m any) {
	switch m := m.(type) {
	case runEnded:
		m.c.noteEnd(m.r)
	case hooked:
		m.c.noteHook(m)
	case paused:
		w.note(happening{reason: reasonSandboxChanged, message: sandboxChanged})
	case probed:
		m.c.fresh = false
		if m.r == m.c.current() && m.c.alive() {
			m.c.noteProbe(m)
		}
	}
}

func (w *worker) drainInbox() {
	for {
		select {
		case m := <-w.inbox:
			w.handle(m)
		default:
			return
		}
	}
}

// relabel tells built-in applications the labels of now.
func (w *worker) relabel() {
	w.pod = w.latest.Load()
	w.adopt()
	w.respec()
	w.resize()
	w.stale.Store(len(w.pod.Spec.Volumes) > 0)
	for _, c := range w.all() {
		if r := c.current(); r != nil && r.app != nil && w.net.Load() != nil {
			r.app.SetFacts(c.facts())
		}
	}
	if len(w.pod.Spec.ReadinessGates) > 0 {
		w.dirty = true
	}
}

// write puts the pod's status and the events that are due into the store, together.
func (w *worker) write(ctx context.Context) error {
	if w.n.power.isCut() {
		return errCut
	}
	v, due := w.view(), w.pending
	names := map[string]string{}
	for k, name := range w.names {
		names[k] = name
	}
	revision, err := w.n.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		obj, err := tx.Get(api.Pods, w.key.Namespace, w.key.Name)
		if apierrors.IsNotFound(err) || err == nil && obj.GetUID() != w.uid {
			return nil // it is gone; the watch will say so
		}
		if err != nil {
			return err
		}
		pod := api.Copy(obj.(*corev1.Pod))
		pod.Status = podStatus(pod, v)
		if note := v.imageNote(); note != "" && pod.Annotations[AnnotationImage] != note {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			pod.Annotations[AnnotationImage] = note
		}
		if err := tx.Update(pod); err != nil {
			return err
		}
		return w.record(tx, pod, due, names)
	})
	if err != nil {
		return err
	}
	w.dirty, w.pending, w.names, w.written = false, nil, names, revision
	return nil
}

// view is the state of the pod's containers at this moment.
func (w *worker) view() podView {
	v := podView{hostIP: w.n.cfg.Address, start: w.start, now: w.n.cfg.Now(), failed: w.failed, sizes: w.sizes}
	v.podIP, v.wired = w.ip, w.net.Load() != nil
	for _, c := range w.inits {
		v.inits = append(v.inits, c.view())
	}
	for _, c := range w.containers {
		v.containers = append(v.containers, c.view())
	}
	for _, c := range w.debuggers {
		v.debuggers = append(v.debuggers, c.view())
	}
	return v
}

func (c *container) view() containerView {
	v := containerView{
		spec: c.spec, wants: c.wants, role: c.role, restarts: c.restarts, waiting: c.waiting, ended: c.ended, last: c.last, image: c.image,
		over: c.endedForGood(), given: c.given,
	}
	if r := c.current(); r != nil {
		v.began, v.id = r.began, r.id
		v.running = c.ended == nil && c.waiting.Reason == "" // a run whose end has not been taken up is still running
	}
	v.started = v.running && c.probes.started
	switch c.role {
	case roleInit:
		v.ready = v.over && c.ended.ExitCode == 0
	case roleEphemeral:
		v.ready = false
	default:
		v.ready = v.started && c.probes.ready
	}
	return v
}
