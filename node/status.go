package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
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
	running        bool
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
	start         time.Time
	now           time.Time
	containers    []containerView
}

// podStatus works out the status of a pod; what others wrote into the old one stays.
func podStatus(pod *corev1.Pod, v podView) corev1.PodStatus {
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
	s.ContainerStatuses = nil
	for _, c := range v.containers {
		s.ContainerStatuses = append(s.ContainerStatuses, c.status())
	}
	s.Phase = phase(pod, v.containers)
	for _, c := range v.conditions(pod, s.Phase) {
		setCondition(&s, c, v.now)
	}
	return s
}

func (c containerView) status() corev1.ContainerStatus {
	s := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: "kubarium.dev/" + strings.ReplaceAll(resolution(c.spec), " ", "-"),
		ContainerID: c.id, Ready: c.ready, Started: &c.started, RestartCount: c.restarts,
	}
	switch {
	case c.running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metaTime(c.began)}
	case c.ended != nil && c.waiting.Reason == "":
		s.State.Terminated = c.ended
	default:
		w := c.waiting
		if w.Reason == "" {
			w.Reason = waitingCreating
		}
		s.State.Waiting = &w
	}
	s.LastTerminationState.Terminated = c.last
	if s.State.Waiting != nil && c.ended != nil {
		s.LastTerminationState.Terminated = c.ended
	}
	return s
}

// phase sums the containers up as kubelet does.
func phase(pod *corev1.Pod, all []containerView) corev1.PodPhase {
	running, waiting, failed, ended := 0, 0, 0, 0
	for _, c := range all {
		switch {
		case c.running:
			running++
		case c.ended != nil && !restarts(pod, c.ended.ExitCode):
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
	case waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	case ended > 0:
		return corev1.PodSucceeded
	}
	return corev1.PodPending
}

// restarts tells whether a container that ended is started again.
func restarts(pod *corev1.Pod, code int32) bool {
	switch pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

func (v podView) conditions(pod *corev1.Pod, p corev1.PodPhase) []corev1.PodCondition {
	var unready []string
	for _, c := range v.containers {
		if !c.ready {
			unready = append(unready, c.spec.Name)
		}
	}
	containers := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}
	switch {
	case p == corev1.PodSucceeded:
		containers.Status, containers.Reason = corev1.ConditionFalse, "PodCompleted"
	case p == corev1.PodFailed:
		containers.Status, containers.Reason = corev1.ConditionFalse, "PodFailed"
	case len(unready) > 0:
		containers.Status, containers.Reason = corev1.ConditionFalse, "ContainersNotReady"
		containers.Message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	}
	ready := containers
	ready.Type = corev1.PodReady
	if g := unmetGate(pod); ready.Status == corev1.ConditionTrue && g != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", g
	}
	sandbox := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	if !v.podIP.IsValid() {
		sandbox.Status = corev1.ConditionFalse
	}
	return []corev1.PodCondition{
		sandbox,
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
		ready,
		containers,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
}

// unmetGate says which readiness gate holds the pod back; "" for none.
func unmetGate(pod *corev1.Pod) string {
	for _, g := range pod.Spec.ReadinessGates {
		met := false
		for _, c := range pod.Status.Conditions {
			met = met || c.Type == g.ConditionType && c.Status == corev1.ConditionTrue
		}
		if !met {
			return fmt.Sprintf("the status of pod readiness gate %q is not \"True\"", g.ConditionType)
		}
	}
	return ""
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
	for _, c := range pod.Spec.Containers {
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

// imageNote is the annotation that says how each container's image was resolved.
func imageNote(pod *corev1.Pod) string {
	var words []string
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		words = append(words, c.Name+": "+resolution(c))
	}
	return strings.Join(words, "; ")
}

// unknownEnd is how a run is shown that was cut off with the machine's power.
func unknownEnd(id string, began metav1.Time, now time.Time) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{
		ExitCode: 255, Reason: "Unknown", StartedAt: began, FinishedAt: metaTime(now), ContainerID: id,
	}
}
