package node

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnotationImage says how the images of a pod were resolved (N-15).
const AnnotationImage = "kubarium.dev/image"

// containerView is what the status of one container is made from.
type containerView struct {
	spec           *corev1.Container
	wants          string // the image's name
	given          corev1.ResourceRequirements
	role           role
	image          string // how the image was resolved; "" until it was
	running        bool
	over           bool // it has ended for good
	began          time.Time
	id             string
	ready, started bool
	restarts       int32
	waiting        corev1.ContainerStateWaiting
	ended, last    *corev1.ContainerStateTerminated
}

// podView is what the status of a pod is made from.
type podView struct {
	hostIP, podIP netip.Addr // podIP is invalid until the pod has one
	wired         bool       // it has its network now
	start         time.Time
	now           time.Time
	failed        *verdict // why the pod as a whole has failed; nil while it has not
	sizes         resizing

	inits, containers, debuggers []containerView
}

// conditionOrder is the order in which kubelet lists its conditions, after those of others.
var conditionOrder = []corev1.PodConditionType{
	corev1.PodResizePending, corev1.PodResizeInProgress, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady,
	corev1.ContainersReady, corev1.PodScheduled,
}

// podStatus works out the status of a pod; what others wrote into the old one stays.
func podStatus(pod *corev1.Pod, v podView) corev1.PodStatus {
	if v.failed != nil && v.failed.rejected {
		return rejectedStatus(pod, v)
	}
	s := *pod.Status.DeepCopy()
	s.ObservedGeneration = pod.Generation
	s.HostIP, s.HostIPs = v.hostIP.String(), []corev1.HostIP{{IP: v.hostIP.String()}}
	if v.podIP.IsValid() {
		s.PodIP, s.PodIPs = v.podIP.String(), []corev1.PodIP{{IP: v.podIP.String()}}
	}
	start := metaTime(v.start)
	s.StartTime = &start
	if s.QOSClass == "" {
		s.QOSClass = qosClass(pod)
	}
	reason := waitingCreating
	if len(v.incomplete()) > 0 && s.PodIP != "" {
		reason = waitingInitializing
	}
	s.InitContainerStatuses = statuses(v.inits, reason)
	s.ContainerStatuses = statuses(v.containers, reason)
	s.EphemeralContainerStatuses = statuses(v.debuggers, waitingCreating)
	phase := v.phase(pod)
	for _, c := range v.conditions(pod, phase) {
		setCondition(&s, c, v.now)
	}
	if ended(phase) && v.busy() {
		phase = cmp.Or(s.Phase, corev1.PodPending) // what the pod holds is not free before its containers have ended
	} else if v.failed != nil {
		s.Reason, s.Message = v.failed.reason, v.failed.message
	}
	s.Phase = phase
	v.sizes.show(&s, v.now)
	slices.SortStableFunc(s.Conditions, func(a, b corev1.PodCondition) int {
		return slices.Index(conditionOrder, a.Type) - slices.Index(conditionOrder, b.Type)
	})
	return s
}

func ended(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// busy tells that something of the pod still runs.
func (v podView) busy() bool {
	runs := func(c containerView) bool { return c.running }
	return slices.ContainsFunc(v.inits, runs) || slices.ContainsFunc(v.containers, runs) || slices.ContainsFunc(v.debuggers, runs)
}

// rejectedStatus is the status of a pod of which nothing was made.
func rejectedStatus(pod *corev1.Pod, v podView) corev1.PodStatus {
	start := metaTime(v.start)
	return corev1.PodStatus{
		Phase: corev1.PodFailed, Reason: v.failed.reason, Message: v.failed.message, QOSClass: cmp.Or(pod.Status.QOSClass, qosClass(pod)),
		StartTime: &start, ObservedGeneration: pod.Generation,
	}
}

func statuses(all []containerView, reason string) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range all {
		out = append(out, c.status(reason))
	}
	return out
}

// status is the status of one container; reason is why it waits if it does not know one itself.
func (c containerView) status(reason string) corev1.ContainerStatus {
	s := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.wants, ContainerID: c.id, Ready: c.ready, Started: &c.started, RestartCount: c.restarts,
	}
	if len(c.given.Requests)+len(c.given.Limits) > 0 && c.role != roleEphemeral {
		s.Resources = c.given.DeepCopy()
		s.AllocatedResources = c.given.DeepCopy().Requests
	}
	if c.image != "" {
		s.ImageID = "kubarium.dev/" + strings.ReplaceAll(c.image, " ", "-")
	}
	switch {
	case c.running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metaTime(c.began)}
	case c.ended != nil && c.waiting.Reason == "":
		s.State.Terminated = c.ended
	default:
		w := c.waiting
		if w.Reason == "" {
			w.Reason = reason
		}
		s.State.Waiting = &w
	}
	s.LastTerminationState.Terminated = c.last
	if s.State.Waiting != nil && c.ended != nil {
		s.LastTerminationState.Terminated = c.ended
	}
	return s
}

// incomplete is the init containers that the others still wait for.
func (v podView) incomplete() []string {
	var names []string
	for _, c := range v.inits {
		done := c.over && c.ended.ExitCode == 0
		if c.role == roleSidecar {
			done = c.started || c.restarts > 0
		}
		if !done {
			names = append(names, c.spec.Name)
		}
	}
	return names
}

// spoiled tells that an init container has failed for good.
func (c containerView) spoiled() bool { return c.role == roleInit && c.over && c.ended.ExitCode != 0 }

// phase sums the containers up as kubelet does.
func (v podView) phase(pod *corev1.Pod) corev1.PodPhase {
	if v.failed != nil || slices.ContainsFunc(v.inits, containerView.spoiled) {
		return corev1.PodFailed
	}
	running, waiting, failed, ended := 0, 0, 0, 0
	for _, c := range v.containers {
		switch {
		case c.running:
			running++
		case c.over:
			ended++
			if c.ended.ExitCode != 0 {
				failed++
			}
		case c.ended != nil || c.last != nil:
			running++ // between two runs
		default:
			waiting++
		}
	}
	switch {
	case waiting > 0 || running == 0 && ended == 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

func (v podView) conditions(pod *corev1.Pod, p corev1.PodPhase) []corev1.PodCondition {
	var unready []string
	for _, c := range append(v.inits[:len(v.inits):len(v.inits)], v.containers...) {
		if !c.ready && c.role != roleInit {
			unready = append(unready, c.spec.Name)
		}
	}
	initialized := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if names := v.incomplete(); len(names) > 0 && p != corev1.PodSucceeded {
		initialized.Status, initialized.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		initialized.Message = fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(names, " "))
	}
	containers := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}
	switch {
	case p == corev1.PodSucceeded:
		initialized.Reason = "PodCompleted"
		containers.Status, containers.Reason = corev1.ConditionFalse, "PodCompleted"
	case p == corev1.PodFailed:
		containers.Status, containers.Reason = corev1.ConditionFalse, "PodFailed"
	case len(unready) > 0:
		containers = containersNotReady(corev1.ContainersReady, unready)
	}
	ready := containers
	ready.Type = corev1.PodReady
	if g := unmetGates(pod); ready.Status == corev1.ConditionTrue && g != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", g
	}
	sandbox := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	if !v.wired {
		sandbox.Status = corev1.ConditionFalse
	}
	return []corev1.PodCondition{sandbox, initialized, ready, containers, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
}

func containersNotReady(t corev1.PodConditionType, names []string) corev1.PodCondition {
	return corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: "ContainersNotReady",
		Message: fmt.Sprintf("containers with unready status: [%s]", strings.Join(names, " "))}
}

// unmetGates says which readiness gates hold the pod back, in kubelet's words; "" for none.
func unmetGates(pod *corev1.Pod) string {
	var unmet []string
	for _, g := range pod.Spec.ReadinessGates {
		i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == g.ConditionType })
		switch {
		case i < 0:
			unmet = append(unmet, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case pod.Status.Conditions[i].Status != corev1.ConditionTrue:
			unmet = append(unmet, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, pod.Status.Conditions[i].Status))
		}
	}
	return strings.Join(unmet, ", ")
}

// setCondition replaces a condition and keeps the time of its last transition when the status is the same.
func setCondition(s *corev1.PodStatus, c corev1.PodCondition, now time.Time) {
	c.ObservedGeneration = s.ObservedGeneration
	for i := range s.Conditions {
		old := &s.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		c.LastTransitionTime = old.LastTransitionTime
		if old.Status != c.Status || c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metaTime(now)
		}
		*old = c
		return
	}
	c.LastTransitionTime = metaTime(now)
	s.Conditions = append(s.Conditions, c)
}

// qosClass is Kubernetes' quality of service class.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	any, guaranteed := false, true
	for _, c := range append(pod.Spec.InitContainers[:len(pod.Spec.InitContainers):len(pod.Spec.InitContainers)], pod.Spec.Containers...) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := c.Resources.Requests[name], c.Resources.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && (request.IsZero() || request.Cmp(limit) == 0)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// containerID names one run of a container.
func containerID(pod *corev1.Pod, name string, restart int32) string {
	sum := sha256.Sum256([]byte(string(pod.UID) + "/" + name + "/" + strconv.Itoa(int(restart))))
	return "kubarium://" + hex.EncodeToString(sum[:])
}

// imageNote is the annotation that says how each container's image was resolved; "" until all were.
func (v podView) imageNote() string {
	var words []string
	for _, c := range append(v.inits[:len(v.inits):len(v.inits)], v.containers...) {
		if c.image == "" {
			return ""
		}
		words = append(words, c.spec.Name+": "+c.image)
	}
	return strings.Join(words, "; ")
}

// unknownEnd is how a run is shown that was cut off with the machine's power.
func unknownEnd(id string, began metav1.Time, now time.Time) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{
		ExitCode: 255, Reason: "Unknown", StartedAt: began, FinishedAt: metaTime(now), ContainerID: id,
	}
}
