package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// programmedWait is the longest a pod's end waits for the rulesets: what cannot be programmed must not keep a pod for ever.
const programmedWait = time.Second

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

// terminate ends a pod as Kubernetes does, but in an order that loses no connection: once no ruleset leads to it any more, its
// containers are asked to end, then killed when the grace is over; then its network goes, and last its object.
func (w *worker) terminate(ctx context.Context) {
	for _, c := range w.all() {
		if c.alive() {
			c.stop()
			w.note(happening{reason: reasonKilling, c: c, message: "Stopping container " + c.spec.Name})
		}
	}
	w.writeEvents(ctx)
	w.finishAll(ctx)
	w.tearDown()
	w.writeEvents(ctx)
	if ctx.Err() != nil || w.gone.Load() {
		return
	}
	if err := w.n.remove(ctx, w.pod); err != nil {
		w.n.cfg.Log.Error("remove a pod that has ended", "pod", w.key, "error", err)
	}
}

// writeEvents writes what is to be told of a pod that ends.
func (w *worker) writeEvents(ctx context.Context) {
	if len(w.pending) == 0 {
		return
	}
	if err := w.write(ctx); err != nil && ctx.Err() == nil {
		w.n.cfg.Log.Error("write the events of a pod", "pod", w.key, "error", err)
	}
}

// finishAll ends every container, at the latest when the pod's grace is over, the pod is gone or ctx ends.
func (w *worker) finishAll(ctx context.Context) {
	began := time.Now()
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	hooks, endHooks := context.WithCancel(ctx)
	defer endHooks()
	done, released := make(chan struct{}), make(chan struct{})
	revision := revisionOf(w.pod)
	w.wg.Go(func() {
		defer close(released)
		w.awaitProgrammed(ctx, revision)
	})
	w.wg.Go(func() {
		defer close(done)
		w.endContainers(ending{hooks: hooks, kill: ctx, released: released})
	})
	timer := time.NewTimer(grace(w.pod))
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
			if w.hooks.Load() > 0 && hooks.Err() == nil {
				timer.Reset(afterHook)
			} else {
				kill()
			}
			endHooks()
		case m := <-w.inbox: // ends and probes of a pod that is ending tell nobody anything
			if h, ok := m.(hooked); ok {
				h.c.noteHook(h)
			}
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
	if w.n.cfg.Programmed == nil || w.gone.Load() || !slices.ContainsFunc(w.all(), (*container).alive) {
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
	w.n.allocations.release(w.uid)
	if w.claim.IsValid() {
		w.n.machine.freeIP(w.claim)
		w.claim = netip.Addr{}
	}
	if err := w.n.volumes.remove(w.uid); err != nil {
		w.n.cfg.Log.Error("take a pod's volumes away", "pod", w.key, "error", err)
	}
	w.dropEarly()
	w.pause.close()
	w.hostPorts.close()
	w.hostPorts = nil
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
	for _, c := range w.all() {
		if c.stop != nil {
			c.stop()
		}
		if r := c.current(); r != nil && c.alive() {
			r.kill()
		}
	}
	w.pause.close()
	w.wg.Wait()
	w.tearDown()
}
