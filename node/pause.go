package node

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/netns"
	"kubarium.dev/node/podinit"
)

// pauseName is what ps shows for process 1 of a pod whose containers share their processes, as in Kubernetes.
const pauseName = "/pause"

// sharesProcesses tells that the pod's containers see each other's processes. A pod that asks for the host's gets no more than that:
// nobody in a pod sees those.
func sharesProcesses(pod *corev1.Pod) bool {
	return optional(pod.Spec.ShareProcessNamespace) || pod.Spec.HostPID
}

// pause is the pause process of a pod whose containers share their processes. It starts with the first container, and again
// with the next one when it was ended.
type pause struct {
	mu   sync.Mutex // guards all below; exec makes containers from other goroutines
	box  *sandbox   // nil before the first
	user *identity
	over bool // none may be made any more
}

// paused tells the worker that the pod's pause process has ended, and with it all that ran.
type paused struct{}

// get returns the process, which it starts if there is none.
func (p *pause) get(ctx context.Context, w *worker, ns *netns.NS, user *identity) (*sandbox, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return nil, errSandboxEnded
	}
	if p.box != nil && !p.box.hasEnded() {
		return p.box, p.admit(user)
	}
	p.closeBox()
	box, err := startSandbox(ctx, sandboxConfig{
		spawner: w.n.machine.fabric.spawner, ns: ns, user: user, setup: podinit.Setup{Pause: true, Hostname: w.n.hostname(w.pod), Name: pauseName},
	})
	if err != nil {
		return nil, err
	}
	p.box, p.user = box, user
	w.wg.Go(func() {
		if box.wait(); !p.isOver() {
			w.post(paused{})
		}
	})
	return box, nil
}

// admit refuses who would have to be somebody else than the containers before: an ordinary user's cluster has one number to give,
// and all that share a pid namespace share the users' as well.
func (p *pause) admit(user *identity) error {
	if multiUser() || user.user == p.user.user && user.group == p.user.group {
		return nil
	}
	return configError{fmt.Errorf("user %d and group %d: the containers of this pod share their processes, and the first one's are those of user %d and group %d; "+
		"an ordinary user's cluster has one user for all", user.user, user.group, p.user.user, p.user.group)}
}

func (p *pause) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

func (p *pause) closeBox() {
	if p.box != nil {
		p.box.close()
	}
}

// close ends the process, and all others that are still there.
func (p *pause) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.closeBox()
}

// beside tells that the container is a command among another one's processes, and has no first process of its own.
func (c *container) beside() bool { return c.target != "" && !sharesProcesses(c.w.pod) }
