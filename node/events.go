package node

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Reasons of events, as kubelet words them.
const (
	reasonCreated   = "Created"
	reasonStarted   = "Started"
	reasonKilling   = "Killing"
	reasonUnhealthy = "Unhealthy"
	reasonBackOff   = "BackOff"
	reasonFailed    = "Failed"
	reasonPostStart = "FailedPostStartHook"
	reasonPreStop   = "FailedPreStopHook"
	reasonMount     = "FailedMount"
	reasonSandbox   = "FailedCreatePodSandBox"
	// reasonSandboxChanged explains a restart that a loss of power brought about.
	reasonSandboxChanged = "SandboxChanged"
	sandboxChanged       = "Pod sandbox changed, it will be killed and re-created."
	reasonDNSConfig      = "DNSConfigForming"
	eventSource          = "kubelet"
	waitingCreating      = "ContainerCreating"
	waitingInitializing  = "PodInitializing"
	waitingCrashLoop     = "CrashLoopBackOff"
	waitingConfig        = "CreateContainerConfigError"
	waitingRunContainer  = "RunContainerError"
)

// happening is an event to be written with the pod's next status.
type happening struct {
	kind    string // corev1.EventTypeNormal or Warning
	reason  string
	message string
	c       *container // nil for the pod as a whole
	count   int32
	at      time.Time
}

func (h happening) key() string { return h.reason + "\x00" + h.fieldPath() + "\x00" + h.message }

func (h happening) fieldPath() string {
	if h.c == nil {
		return ""
	}
	return fmt.Sprintf("%s{%s}", h.c.role.fieldPath(), h.c.spec.Name)
}

// note remembers an event for the next write; the same one twice is one with a higher count.
func (w *worker) note(h happening) {
	h.at, h.count = w.n.cfg.Now(), max(h.count, 1)
	if h.kind == "" {
		h.kind = corev1.EventTypeNormal
	}
	for i := range w.pending {
		if w.pending[i].key() == h.key() {
			w.pending[i].count += h.count
			w.pending[i].at = h.at
			return
		}
	}
	w.pending = append(w.pending, h)
}

// record writes the events that are due, counting up those that were written before. names maps an event to its object.
func (w *worker) record(tx *store.Tx, pod *corev1.Pod, due []happening, names map[string]string) error {
	for _, h := range due {
		if name, ok := names[h.key()]; ok {
			if again, err := w.recount(tx, name, h); again || err != nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		e := w.event(pod, h)
		if err := tx.Create(e); err != nil {
			return err
		}
		names[h.key()] = e.Name
	}
	return nil
}

// recount raises the count of an event that is still in the store.
func (w *worker) recount(tx *store.Tx, name string, h happening) (bool, error) {
	obj, err := tx.Get(api.Events, w.key.Namespace, name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e := api.Copy(obj.(*corev1.Event))
	e.Count += h.count
	e.LastTimestamp = metaTime(h.at)
	return true, tx.Update(e)
}

func (w *worker) event(pod *corev1.Pod, h happening) *corev1.Event {
	w.eventNumber++
	ref := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	ref.FieldPath = h.fieldPath()
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace,
			Name:      pod.Name + "." + strconv.FormatInt(h.at.UnixNano(), 16) + strconv.Itoa(w.eventNumber),
		},
		InvolvedObject: ref, Type: h.kind, Reason: h.reason, Message: h.message, Count: h.count,
		FirstTimestamp: metaTime(h.at), LastTimestamp: metaTime(h.at),
		Source:              corev1.EventSource{Component: eventSource, Host: w.n.cfg.Name},
		ReportingController: eventSource, ReportingInstance: w.n.cfg.Name,
	}
}

// metaTime is a time as the API carries it, in whole seconds.
func metaTime(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }
