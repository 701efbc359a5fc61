package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/podinit"
)

const (
	hookAgent = "kube-lifecycle/1.37"
	// afterHook is what a container still gets when its preStop hook took all of the pod's grace: kubelet's number.
	afterHook = 2 * time.Second
)

// hooked tells the worker that a hook has ended.
type hooked struct {
	c       *container
	r       *run
	preStop bool
	err     error
}

// hook runs a lifecycle handler.
func (c *container) hook(ctx context.Context, r *run, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		if err := c.runIn(ctx, r, h.Exec.Command); err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) failed: %w", h.Exec.Command, err)
		}
	case h.HTTPGet != nil:
		resp, err := c.httpGet(ctx, h.HTTPGet, hookAgent)
		if err != nil {
			return fmt.Errorf("HTTP lifecycle hook (%s) failed: %w", h.HTTPGet.Path, err)
		}
		discard(resp)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.done:
		case <-ctx.Done():
			return fmt.Errorf("Sleep lifecycle hook (%d) was cut short", h.Sleep.Seconds)
		}
	}
	return nil // tcpSocket is an old word that kubelet does nothing for
}

// discard reads what is worth reading of an answer and closes it.
func discard(resp *http.Response) {
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxProbeReply))
	resp.Body.Close()
}

// runIn runs a command in a run of the container. The error is what it wrote, or its exit code.
func (c *container) runIn(ctx context.Context, r *run, words []string) error {
	box, err := c.box(ctx, r)
	if err != nil {
		return err
	}
	var limit time.Duration
	if end, ok := ctx.Deadline(); ok {
		limit = time.Until(end).Round(time.Second)
	}
	var out bytes.Buffer
	w := &limitedBuffer{b: &out, left: maxProbeReply}
	err = execIn(ctx, box, ExecRequest{Stdout: w, Stderr: w}, r.command(podinit.Command{Args: words}))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("command timed out: %q timed out after %s", strings.Join(words, " "), limit)
	}
	if text := strings.TrimSpace(out.String()); text != "" {
		return errors.New(text)
	}
	return err
}

// noteHook takes up how a hook ended. A container whose postStart hook failed is ended.
func (c *container) noteHook(m hooked) {
	if m.preStop {
		if m.err != nil {
			c.tellHook(reasonPreStop, "PreStopHook failed", m.err)
		}
		return
	}
	if m.r != c.current() || !c.alive() {
		return
	}
	c.hooking, c.waiting, c.w.dirty = false, corev1.ContainerStateWaiting{}, true
	if m.err == nil {
		c.startProbes(c.life, m.r)
		return
	}
	c.tellHook(reasonPostStart, "PostStartHook failed", m.err)
	c.w.note(happening{reason: reasonKilling, c: c, message: "FailedPostStartHook"})
	c.restart(m.r, nil)
}

// tellHook tells of a hook that failed. What it said may be a secret: it is for the log alone, as kubelet has it.
func (c *container) tellHook(reason, message string, err error) {
	c.w.n.cfg.Log.Warn(message, "pod", c.w.key, "container", c.spec.Name, "error", err)
	c.w.note(happening{kind: corev1.EventTypeWarning, reason: reason, c: c, message: message})
}

// ending is how the containers of a pod are ended.
type ending struct {
	hooks    context.Context // of preStop hooks: it ends when the grace is over
	kill     context.Context // when it ends, what still runs is killed
	released <-chan struct{} // closed when nothing leads to the pod any more: SIGTERM waits for it
}

// endContainers ends what runs and returns when it has ended: all but the sidecars at once, then these one after another, the
// last one first. Their preStop hooks do not wait for their turn.
func (w *worker) endContainers(e ending) {
	var before []<-chan struct{}
	end := func(c *container, after []<-chan struct{}) {
		r := c.current()
		if r == nil || !c.alive() {
			return
		}
		before = append(before, r.done)
		w.wg.Go(func() { c.end(e, r, after) })
	}
	for _, c := range w.all() {
		if c.role != roleSidecar {
			end(c, nil)
		}
	}
	for i := len(w.inits) - 1; i >= 0; i-- {
		if w.inits[i].role == roleSidecar {
			end(w.inits[i], before)
		}
	}
	for _, done := range before {
		<-done
	}
}

// end ends one run, after those it has to wait for.
func (c *container) end(e ending, r *run, after []<-chan struct{}) {
	if l := c.spec.Lifecycle; l != nil && l.PreStop != nil {
		c.w.hooks.Add(1)
		err := c.hook(e.hooks, r, l.PreStop)
		c.w.hooks.Add(-1)
		if err != nil {
			c.w.post(hooked{c: c, r: r, preStop: true, err: err})
		}
	}
	for _, done := range append(after[:len(after):len(after)], e.released) {
		select {
		case <-done:
		case <-r.done:
		case <-e.kill.Done():
		}
	}
	r.finish(e.kill)
}
