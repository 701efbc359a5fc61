package node

import "context"

// isolate tells whether the containers may start: when there are NetworkPolicies, only once the machine's rules know the pod's
// address, as Kubernetes has it that a new pod is isolated before it is started. What cannot be waited for is told and not waited
// for: a machine that is cut off hears of no policy anyway.
func (w *worker) isolate(ctx context.Context) bool {
	if w.isolated || w.hostNet || w.n.cfg.Isolated == nil {
		return true
	}
	wait := w.n.cfg.Isolated(w.key.Namespace)
	if wait == nil {
		w.isolated = true
		return true
	}
	err := w.write(ctx)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, programmedWait)
		err = wait(bounded, w.written)
		cancel()
	}
	if err != nil && ctx.Err() == nil {
		w.n.cfg.Log.Warn("a pod starts before NetworkPolicies guard it", "pod", w.key, "error", err)
	}
	w.isolated = ctx.Err() == nil
	return w.isolated
}
