package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	// programmedWait is the longest a pod's end waits for the rulesets: what cannot be programmed must not keep a pod for ever.
	programmedWait = time.Second
	// firstBackOff doubles with every failure in a row up to maxBackOff; a run as long as backOffReset starts anew. Kubernetes'
	// own numbers.
	firstBackOff = 10 * time.Second
	maxBackOff   = 5 * time.Minute
	backOffReset = 10 * time.Minute
	// retryAfter is how long to wait after something that should have worked, such as a write of the store.
	retryAfter = time.Second
)

// worker runs one pod. Everything without a note of its own belongs to the goroutine of run.
type worker struct {
	n   *Node
	key types.NamespacedName
	uid types.UID

	latest atomic.Pointer[corev1.Pod]
	gone   atomic.Bool   // the object is not in the store any more
	wake   chan struct{} // one waiting notice: latest or gone changed
	inbox  chan any      // runEnded, probed
	left   chan struct{} // closed when nobody reads the inbox any more
	wg     sync.WaitGroup

	net        atomic.Pointer[podNet] // nil until the pod has its network, and again when that was taken away
	life       context.Context        // of everything the pod runs
	pod        *corev1.Pod            // what the goroutine has taken up of latest
	hostNet    bool                   // net is the node's own
	containers []*container
	start      time.Time

	dirty       bool // the status has changed since it was written
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
	w.latest.Store(pod)
	w.start = n.cfg.Now()
	if pod.Status.StartTime != nil {
		w.start = pod.Status.StartTime.Time
	}
	for i := range pod.Spec.Containers {
		w.containers = append(w.containers, w.newContainer(&pod.Spec.Containers[i]))
	}
	return w
}

// newContainer takes up what the store knows of a container that ran before the machine lost its power.
func (w *worker) newContainer(spec *corev1.Container) *container {
	c := &container{w: w, spec: spec}
	for _, s := range w.pod.Status.ContainerStatuses {
		if s.Name != spec.Name {
			continue
		}
		c.restarts, c.last = s.RestartCount, s.LastTerminationState.Terminated
		switch {
		case s.State.Running != nil:
			end := unknownEnd(s.ContainerID, s.State.Running.StartedAt, w.n.cfg.Now())
			if !restarts(w.pod, end.ExitCode) {
				c.ended = end
				continue
			}
			c.last = end
			c.restarts++
		case s.State.Terminated != nil && restarts(w.pod, s.State.Terminated.ExitCode):
			c.last = s.State.Terminated
			c.restarts++
		case s.State.Terminated != nil:
			c.ended = s.State.Terminated
		}
	}
	return c
}

// tell hands a newer state of the pod to the worker; gone says that it is not in the store any more. It never blocks.
func (w *worker) tell(pod *corev1.Pod, gone bool) {
	w.latest.Store(pod)
	if gone {
		w.gone.Store(true)
	}
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
		if err := w.setUp(ctx); err != nil {
			w.note(happening{kind: corev1.EventTypeWarning, reason: reasonSandbox, message: "Failed to create pod sandbox: " + err.Error()})
			next = retryAfter
		}
	}
	if w.net.Load() != nil {
		for _, c := range w.containers {
			next = min(next, c.advance(ctx))
		}
		w.awaitFirstAnswers(ctx)
		if w.finished() {
			w.tearDown()
		}
	}
	if (w.dirty || len(w.pending) > 0) && ctx.Err() == nil {
		if err := w.write(ctx); err != nil {
			w.n.cfg.Log.Error("write the status of a pod", "pod", w.key, "error", err)
			next = min(next, retryAfter)
		}
	}
	return next
}

// firstAnswer is how long the first status waits for the readiness probes of built-in applications, which answer in less: one
// write of the store instead of two, and no moment in which a pod that is ready is not called so.
const firstAnswer = 5 * time.Millisecond

func (w *worker) awaitFirstAnswers(ctx context.Context) {
	w.drainInbox()
	var timeout <-chan time.Time
	for slices.ContainsFunc(w.containers, (*container).answersAtOnce) {
		if timeout == nil {
			t := time.NewTimer(firstAnswer)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case m := <-w.inbox:
			w.handle(m)
		case <-timeout:
			for _, c := range w.containers {
				c.fresh = false
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// answersAtOnce tells that the container has just been started and its first readiness probe is under way.
func (c *container) answersAtOnce() bool {
	p := c.spec.ReadinessProbe
	return c.fresh && builtIn(c.spec) && p != nil && p.Exec == nil && p.InitialDelaySeconds == 0 && p.SuccessThreshold <= 1 &&
		c.spec.StartupProbe == nil
}

// finished tells that every container has ended for good.
func (w *worker) finished() bool {
	for _, c := range w.containers {
		if c.alive() || c.ended == nil || restarts(w.pod, c.ended.ExitCode) {
			return false
		}
	}
	return true
}

// setUp gives the pod its network.
func (w *worker) setUp(ctx context.Context) error {
	if w.pod.Spec.HostNetwork {
		w.hostNet = true
		w.net.Store(&podNet{NS: w.n.NS(), IP: w.n.cfg.Address})
		w.n.running(w)
		return nil
	}
	want, err := netip.ParseAddr(w.pod.Status.PodIP)
	if err != nil {
		want = netip.Addr{}
	}
	net, err := w.n.newPodNet(ctx, want)
	if err != nil {
		return err
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

// advance starts the container if it is due, and returns when to come again.
func (c *container) advance(ctx context.Context) time.Duration {
	w := c.w
	if c.alive() || c.ended != nil && !restarts(w.pod, c.ended.ExitCode) {
		return forever
	}
	now := w.n.cfg.Now()
	if left := c.retryAt.Sub(now); !c.retryAt.IsZero() && left > 0 {
		return left
	}
	if c.ended != nil {
		c.last, c.ended = c.ended, nil
		c.restarts++
	}
	c.waiting, c.retryAt, w.dirty = corev1.ContainerStateWaiting{}, time.Time{}, true
	err := c.start(ctx)
	if err == nil {
		w.note(happening{reason: reasonCreated, container: c.spec.Name, message: "Created container " + c.spec.Name + ": " + resolution(c.spec)})
		w.note(happening{reason: reasonStarted, container: c.spec.Name, message: "Started container " + c.spec.Name})
		c.startProbes(ctx, c.current())
		c.fresh = true
		return forever
	}
	if ctx.Err() != nil {
		return forever
	}
	w.note(happening{kind: corev1.EventTypeWarning, reason: reasonFailed, container: c.spec.Name, message: "Error: " + err.Error()})
	c.waiting = corev1.ContainerStateWaiting{Reason: waitingRunContainer, Message: err.Error()}
	var config configError
	if errors.As(err, &config) {
		c.waiting.Reason = waitingConfig
		c.retryAt = now.Add(retryAfter)
		return retryAfter
	}
	c.failures++
	delay := backOff(c.failures)
	c.retryAt = now.Add(delay)
	return delay
}

// backOff is how long to wait after so many failures in a row; after the first not at all.
func backOff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	d := firstBackOff
	for range min(failures-2, 16) {
		d *= 2
	}
	return min(d, maxBackOff)
}

func (w *worker) handle(m any) {
	switch m := m.(type) {
	case runEnded:
		m.c.noteEnd(m.r)
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

// noteEnd takes up the end of a run and decides when the next one begins.
func (c *container) noteEnd(r *run) {
	if r != c.current() {
		return
	}
	w, now := c.w, c.w.n.cfg.Now()
	c.stop()
	c.probes, c.fresh = probeState{}, false
	c.ended, w.dirty = r.terminated(now), true
	if now.Sub(r.began) >= backOffReset {
		c.failures = 0
	}
	c.failures++
	if !restarts(w.pod, c.ended.ExitCode) {
		return
	}
	delay := backOff(c.failures)
	c.retryAt = now.Add(delay)
	if delay > 0 {
		name := c.spec.Name
		c.waiting = corev1.ContainerStateWaiting{Reason: waitingCrashLoop, Message: fmt.Sprintf(
			"back-off %s restarting failed container=%s pod=%s_%s(%s)", delay, name, w.key.Name, w.key.Namespace, w.uid)}
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonBackOff, container: name, message: fmt.Sprintf(
			"Back-off restarting failed container %s in pod %s_%s(%s)", name, w.key.Name, w.key.Namespace, w.uid)})
	}
}

// noteProbe takes up what a probe found.
func (c *container) noteProbe(p probed) {
	w := c.w
	if p.count > 0 {
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonUnhealthy, container: c.spec.Name, count: p.count,
			message: string(p.kind) + " probe failed: " + p.message})
	}
	if !p.verdict {
		return
	}
	w.dirty = true
	switch {
	case p.kind == readiness:
		c.probes.ready = p.ok
	case p.kind == startup && p.ok:
		c.probes.started = true
	case !p.ok:
		w.note(happening{reason: reasonKilling, container: c.spec.Name, message: fmt.Sprintf(
			"Container %s failed %s probe, will be restarted", c.spec.Name, map[probeKind]string{liveness: "liveness", startup: "startup"}[p.kind])})
		c.restart(p.r)
	}
}

// restart ends a run that a probe gave up, within the pod's grace.
func (c *container) restart(r *run) {
	c.stop()
	ctx, cancel := context.WithTimeout(c.w.life, grace(c.w.pod))
	c.w.wg.Go(func() {
		defer cancel()
		r.finish(ctx)
	})
}

// grace is how long a pod may take to end.
func grace(pod *corev1.Pod) time.Duration {
	s := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		s = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.DeletionGracePeriodSeconds != nil {
		s = *pod.DeletionGracePeriodSeconds
	}
	return time.Duration(s) * time.Second
}

// relabel tells built-in applications the labels of now.
func (w *worker) relabel() {
	w.pod = w.latest.Load()
	for _, c := range w.containers {
		if r := c.current(); r != nil && r.app != nil && w.net.Load() != nil {
			r.app.SetFacts(c.facts())
		}
	}
	if len(w.pod.Spec.ReadinessGates) > 0 {
		w.dirty = true
	}
}

// terminate ends a pod as Kubernetes does, but in an order that loses no connection: once no ruleset leads to it any more, its
// containers are asked to end, then killed when the grace is over; then its network goes, and last its object.
func (w *worker) terminate(ctx context.Context) {
	for _, c := range w.containers {
		if c.alive() {
			c.stop()
			w.note(happening{reason: reasonKilling, container: c.spec.Name, message: "Stopping container " + c.spec.Name})
		}
	}
	if len(w.pending) > 0 {
		if err := w.write(ctx); err != nil && ctx.Err() == nil {
			w.n.cfg.Log.Error("write the events of a pod", "pod", w.key, "error", err)
		}
	}
	w.finishAll(ctx)
	w.tearDown()
	if ctx.Err() != nil || w.gone.Load() {
		return
	}
	if err := w.n.remove(ctx, w.pod); err != nil {
		w.n.cfg.Log.Error("remove a pod that has ended", "pod", w.key, "error", err)
	}
}

// finishAll ends every container, at the latest when the pod's grace is over, the pod is gone or ctx ends.
func (w *worker) finishAll(ctx context.Context) {
	began := time.Now()
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	done := make(chan struct{})
	revision := revisionOf(w.pod)
	w.wg.Go(func() {
		defer close(done)
		w.awaitProgrammed(ctx, revision)
		var all sync.WaitGroup
		for _, c := range w.containers {
			if r := c.current(); r != nil && c.alive() {
				all.Go(func() { r.finish(ctx) })
			}
		}
		all.Wait()
	})
	timer := time.NewTimer(grace(w.pod))
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
			kill()
		case <-w.inbox: // ends and probes of a pod that is ending
		case <-w.wake:
			w.pod = w.latest.Load()
			if w.gone.Load() {
				kill()
			}
			timer.Reset(max(0, grace(w.pod)-time.Since(began)))
		}
	}
}

func (w *worker) awaitProgrammed(ctx context.Context, revision uint64) {
	if w.n.cfg.Programmed == nil || w.gone.Load() || !slices.ContainsFunc(w.containers, (*container).alive) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, programmedWait)
	defer cancel()
	if err := w.n.cfg.Programmed(ctx, revision); err != nil && !errors.Is(err, context.Canceled) {
		w.n.cfg.Log.Warn("a pod ends before every ruleset has let go of it", "pod", w.key, "error", err)
	}
}

func revisionOf(obj api.Object) uint64 {
	n, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// tearDown takes the pod's network away. It may be called more than once.
func (w *worker) tearDown() {
	w.n.notRunning(w)
	net := w.net.Swap(nil)
	if net == nil || w.hostNet {
		return
	}
	if err := w.n.closePodNet(net); err != nil {
		w.n.cfg.Log.Error("take a pod's network away", "pod", w.key, "error", err)
	}
}

// leave kills what still runs and returns when it is gone.
func (w *worker) leave(end context.CancelFunc) {
	end()
	close(w.left)
	for _, c := range w.containers {
		if c.stop != nil {
			c.stop()
		}
		if r := c.current(); r != nil && c.alive() {
			r.kill()
		}
	}
	w.wg.Wait()
	w.tearDown()
}

// write puts the pod's status and the events that are due into the store, together.
func (w *worker) write(ctx context.Context) error {
	v, due := w.view(), w.pending
	names := map[string]string{}
	for k, name := range w.names {
		names[k] = name
	}
	_, err := w.n.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		obj, err := tx.Get(api.Pods, w.key.Namespace, w.key.Name)
		if apierrors.IsNotFound(err) || err == nil && obj.GetUID() != w.uid {
			return nil // it is gone; the watch will say so
		}
		if err != nil {
			return err
		}
		pod := api.Copy(obj.(*corev1.Pod))
		pod.Status = podStatus(pod, v)
		if pod.Annotations[AnnotationImage] == "" {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			pod.Annotations[AnnotationImage] = imageNote(pod)
		}
		if err := tx.Update(pod); err != nil {
			return err
		}
		return w.record(tx, pod, due, names)
	})
	if err != nil {
		return err
	}
	w.dirty, w.pending, w.names = false, nil, names
	return nil
}

// view is the state of the pod's containers at this moment.
func (w *worker) view() podView {
	v := podView{hostIP: w.n.cfg.Address, start: w.start, now: w.n.cfg.Now()}
	if net := w.net.Load(); net != nil {
		v.podIP = net.IP
	}
	for _, c := range w.containers {
		cv := containerView{spec: c.spec, restarts: c.restarts, waiting: c.waiting, ended: c.ended, last: c.last}
		if r := c.current(); r != nil {
			cv.began, cv.id = r.began, r.id
			cv.running = c.ended == nil && c.waiting.Reason == "" // a run whose end has not been taken up is still running
		}
		cv.started = cv.running && c.probes.started
		cv.ready = cv.started && c.probes.ready
		v.containers = append(v.containers, cv)
	}
	return v
}
