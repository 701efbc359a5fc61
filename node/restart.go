package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// firstBackOff doubles with every failure in a row up to maxBackOff; a run as long as backOffReset starts anew. Kubernetes'
	// own numbers.
	firstBackOff = 10 * time.Second
	maxBackOff   = 5 * time.Minute
	backOffReset = 10 * time.Minute
)

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
	return c.fresh && c.current().app != nil && p != nil && p.Exec == nil && p.InitialDelaySeconds == 0 && p.SuccessThreshold <= 1 &&
		c.spec.StartupProbe == nil
}

// advance starts the container if it is due, and returns when to come again.
func (c *container) advance(ctx context.Context) time.Duration {
	w := c.w
	if c.running || c.endedForGood() {
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
		c.changed = false
		w.note(happening{reason: reasonCreated, c: c, message: "Container created: " + c.image})
		c.created(ctx, c.current())
		return forever
	}
	if ctx.Err() != nil {
		return forever
	}
	c.waiting = corev1.ContainerStateWaiting{Reason: waitingRunContainer, Message: err.Error()}
	var config configError
	var image *imageError
	switch {
	case errors.As(err, &image):
		c.waiting.Reason = image.reason
		w.note(happening{kind: corev1.EventTypeWarning, reason: image.reason, c: c, message: err.Error()})
		err = errors.New(image.reason)
	case errors.As(err, &config):
		c.waiting.Reason = waitingConfig
	}
	w.note(happening{kind: corev1.EventTypeWarning, reason: reasonFailed, c: c, message: "Error: " + err.Error()})
	if config.error != nil || image != nil {
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

// noteEnd takes up the end of a run and decides when the next one begins.
func (c *container) noteEnd(r *run) {
	if r != c.current() {
		return
	}
	w, now := c.w, c.w.n.cfg.Now()
	c.stop()
	c.running = false
	c.probes, c.fresh, c.hooking, c.waiting = probeState{}, false, false, corev1.ContainerStateWaiting{}
	c.ended, w.dirty = r.terminated(now, c.spec.TerminationMessagePolicy), true
	if r.stillborn {
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonFailed, c: c, message: "Error: " + r.result.text})
	}
	if c.changed {
		c.last, c.ended, c.failures = c.ended, nil, 0
		c.restarts++
		return
	}
	if now.Sub(r.began) >= backOffReset {
		c.failures = 0
	}
	c.failures++
	if w.decided() || !c.restartsAfter(c.ended.ExitCode) {
		return
	}
	delay := backOff(c.failures)
	c.retryAt = now.Add(delay)
	if delay > 0 {
		name := c.spec.Name
		c.waiting = corev1.ContainerStateWaiting{Reason: waitingCrashLoop, Message: fmt.Sprintf(
			"back-off %s restarting failed container=%s pod=%s_%s(%s)", delay, name, w.key.Name, w.key.Namespace, w.uid)}
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonBackOff, c: c, message: fmt.Sprintf(
			"Back-off restarting failed container %s in pod %s_%s(%s)", name, w.key.Name, w.key.Namespace, w.uid)})
	}
}

// noteProbe takes up what a probe found.
func (c *container) noteProbe(p probed) {
	w := c.w
	if p.count > 0 {
		w.note(happening{kind: corev1.EventTypeWarning, reason: reasonUnhealthy, c: c, count: p.count,
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
		words := "Container %s failed %s probe, will be restarted"
		if c.role == roleSidecar {
			words = "Init container %s failed %s probe"
		}
		w.note(happening{reason: reasonKilling, c: c, message: fmt.Sprintf(words, c.spec.Name, strings.ToLower(string(p.kind)))})
		c.restart(p.r, p.grace)
	}
}

// restart ends a run that was given up, within so many seconds or, for nil, the pod's grace.
func (c *container) restart(r *run, seconds *int64) {
	c.stop()
	limit := grace(c.w.pod)
	if seconds != nil {
		limit = time.Duration(*seconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(c.w.life, limit)
	c.w.wg.Go(func() {
		defer cancel()
		ready := make(chan struct{})
		close(ready)
		c.end(ending{hooks: ctx, kill: ctx, released: ready}, r, nil)
	})
}

// respec takes up another image of a container.
func (w *worker) respec() {
	if w.pod.Generation == w.pod.Status.ObservedGeneration {
		return
	}
	w.dirty = true
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			if c := w.find(list[i].Name); c != nil && c.wants != list[i].Image {
				c.change(list[i].Image)
			}
		}
	}
}

// change gives the container another image. One that runs is started again at once, as kubelet does.
func (c *container) change(image string) {
	c.wants, c.failures, c.retryAt = image, 0, time.Time{}
	c.again(fmt.Sprintf("Container %s definition changed, will be restarted", c.spec.Name))
}

// again has a container that runs started again, whatever the policy.
func (c *container) again(why string) {
	if c.role == roleInit || !c.alive() {
		return
	}
	c.changed = true
	c.w.note(happening{reason: reasonKilling, c: c, message: why})
	c.restart(c.current(), nil)
}
