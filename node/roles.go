package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// role is what a container is in its pod.
type role int

const (
	roleMain role = iota
	roleInit
	roleSidecar   // an init container with restartPolicy Always: it starts in its turn and stays
	roleEphemeral // added to a running pod for debugging; never restarted
)

// fieldPath is how an event names the container's place in the pod.
func (r role) fieldPath() string {
	switch r {
	case roleInit, roleSidecar:
		return "spec.initContainers"
	case roleEphemeral:
		return "spec.ephemeralContainers"
	}
	return "spec.containers"
}

// roleOf tells what an init container is.
func roleOf(c *corev1.Container) role {
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return roleSidecar
	}
	return roleInit
}

// again tells whether a container of this role is started again when it has ended with the code.
func again(pod *corev1.Pod, r role, spec *corev1.Container, code int32) bool {
	byRule := slices.ContainsFunc(spec.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool { return ruled(r, code) })
	switch {
	case r == roleSidecar:
		return true
	case r == roleEphemeral || r == roleInit && code == 0:
		return false
	case byRule:
		return true
	case r == roleInit:
		return pod.Spec.RestartPolicy != corev1.RestartPolicyNever
	}
	policy := pod.Spec.RestartPolicy
	if spec.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*spec.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// ruled tells that a rule starts the container again after the code. Starting all the pod's containers again is not done.
func ruled(r corev1.ContainerRestartRule, code int32) bool {
	if r.ExitCodes == nil || r.Action != corev1.ContainerRestartRuleActionRestart {
		return false
	}
	named := slices.Contains(r.ExitCodes.Values, code)
	return named == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

// restartsAfter tells whether the container is started again when it has ended with the code.
func (c *container) restartsAfter(code int32) bool { return again(c.w.pod, c.role, c.spec, code) }

// endedForGood tells that the container has ended for good.
func (c *container) endedForGood() bool {
	return !c.alive() && c.ended != nil && !c.restartsAfter(c.ended.ExitCode)
}

// all is every container of the pod, in the order of their start.
func (w *worker) all() []*container {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*container
	all = append(all, w.inits...)
	all = append(all, w.containers...)
	return append(all, w.debuggers...)
}

// adopt takes up ephemeral containers that were added to the pod.
func (w *worker) adopt() {
	for i := len(w.debuggers); i < len(w.pod.Spec.EphemeralContainers); i++ {
		spec := corev1.Container(w.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		c := w.newContainer(&spec, roleEphemeral)
		c.target = w.pod.Spec.EphemeralContainers[i].TargetContainerName
		w.mu.Lock()
		w.debuggers = append(w.debuggers, c)
		w.mu.Unlock()
		w.dirty = true
	}
}

// find returns a container by its name; "" is the one kubectl would choose: the annotated one, or the first.
func (w *worker) find(name string) *container {
	if name == "" {
		name = w.latest.Load().Annotations["kubectl.kubernetes.io/default-container"]
	}
	if name == "" {
		return w.containers[0]
	}
	for _, c := range w.all() {
		if c.spec.Name == name {
			return c
		}
	}
	return nil
}
