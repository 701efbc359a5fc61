package node

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// verdict is why a pod has failed as a whole.
type verdict struct {
	reason, message string
	rejected        bool // before anything of it was made
}

// advance starts what is due, init containers first, and returns when to come again. When nothing will be started any more,
// it ends what still runs.
func (w *worker) advance(ctx context.Context) time.Duration {
	next := w.checkDeadline()
	if w.decided() {
		w.endRest(ctx)
		return forever
	}
	begun, later := w.initialize(ctx)
	next = min(next, later)
	if begun {
		for _, c := range w.containers {
			next = min(next, c.advance(ctx))
		}
	}
	for _, c := range w.debuggers {
		next = min(next, c.advance(ctx))
	}
	if w.decided() {
		w.endRest(ctx)
	}
	return next
}

// initialize runs the init containers one after another, and keeps the sidecars among them running. done says that the others
// may start: once they may, a sidecar that starts again holds nobody up.
func (w *worker) initialize(ctx context.Context) (done bool, next time.Duration) {
	next = forever
	for _, c := range w.inits {
		if c.role == roleInit && (w.initialized || c.endedForGood()) {
			continue // with exit code 0: any other has decided the pod's end
		}
		next = min(next, c.advance(ctx))
		if c.role == roleSidecar && (w.initialized || c.alive() && c.probes.started) {
			continue
		}
		return false, next
	}
	if !w.initialized {
		w.initialized, w.dirty = true, true
	}
	return true, next
}

// checkDeadline fails the pod when it has been active for longer than it may, and returns how long it still may.
func (w *worker) checkDeadline() time.Duration {
	d := w.pod.Spec.ActiveDeadlineSeconds
	if d == nil || w.failed != nil {
		return forever
	}
	left := w.start.Add(time.Duration(*d) * time.Second).Sub(w.n.cfg.Now())
	if left > 0 {
		return left
	}
	w.failed = &verdict{reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline"}
	w.note(happening{reason: w.failed.reason, message: w.failed.message})
	w.dirty = true
	return forever
}

// decided tells that no container will be started any more: the pod has failed, or its containers have ended for good.
func (w *worker) decided() bool {
	if w.failed != nil {
		return true
	}
	for _, c := range w.inits {
		if c.role == roleInit && c.endedForGood() && c.ended.ExitCode != 0 {
			return true
		}
	}
	for _, c := range w.containers {
		if !c.endedForGood() {
			return false
		}
	}
	return true
}

// finished tells that the pod's end is decided and nothing of it runs.
func (w *worker) finished() bool {
	return w.decided() && !slices.ContainsFunc(w.all(), (*container).alive)
}

// endRest ends, once, what still runs in a pod whose end is decided: its sidecars above all.
func (w *worker) endRest(ctx context.Context) {
	if w.ending || !slices.ContainsFunc(w.all(), (*container).alive) {
		return
	}
	w.ending = true
	for _, c := range w.all() {
		if c.alive() {
			c.stop()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, grace(w.pod))
	ready := make(chan struct{})
	close(ready)
	w.wg.Go(func() {
		defer cancel()
		w.endContainers(ending{hooks: ctx, kill: ctx, released: ready})
	})
}

// created is what a container's run goes through once it has been started: its postStart hook, then its probes.
func (c *container) created(ctx context.Context, r *run) {
	c.life, c.stop = context.WithCancel(ctx)
	if r.stillborn {
		return
	}
	c.w.note(happening{reason: reasonStarted, c: c, message: "Container started"})
	c.fresh = true
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PostStart == nil {
		c.startProbes(c.life, r)
		return
	}
	c.hooking, c.waiting = true, corev1.ContainerStateWaiting{Reason: waitingCreating}
	life := c.life
	c.w.wg.Go(func() {
		err := c.hook(life, r, c.spec.Lifecycle.PostStart)
		c.w.post(hooked{c: c, r: r, err: err})
	})
}
