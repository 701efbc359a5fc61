package controller

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// eventTTL is how long an event is kept after it was last seen; Kubernetes' default.
const eventTTL = time.Hour

// happening is what a controller tells the users about an object.
type happening struct {
	component string // "deployment-controller"
	warning   bool
	reason    string // "ScalingReplicaSet"
	message   string
	// topic tells what is said again and again in ever other words, so that it stays one event; the message where it is "".
	topic string
	// action is what was tried ("Binding"), of a component that writes events of the newer kind, as the scheduler does.
	action string
}

// record writes an event about obj, or counts one up that says the same.
func (t *turn) record(obj api.Object, h happening) error {
	namespace := cmp.Or(obj.GetNamespace(), metav1.NamespaceDefault)
	name := eventName(obj, h)
	if old, ok := find[*corev1.Event](t, api.Events, namespace, name); ok {
		return t.update(repeated(old, h, t.now))
	}
	k := api.KindOf(obj)
	kind := corev1.EventTypeNormal
	if h.warning {
		kind = corev1.EventTypeWarning
	}
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: k.GroupVersion().String(), Kind: k.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName(),
			UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		},
		Reason: h.reason, Message: h.message, Type: kind, ReportingController: h.component,
	}
	if h.action != "" {
		e.EventTime, e.Action, e.ReportingInstance = metav1.NewMicroTime(t.now), h.action, h.component+"-kubarium"
	} else {
		now := metav1.NewTime(t.now.Truncate(time.Second))
		e.Count, e.FirstTimestamp, e.LastTimestamp, e.Source = 1, now, now, corev1.EventSource{Component: h.component}
	}
	err := t.create(e)
	if errors.Is(err, errTerminating) {
		return nil
	}
	return err
}

// repeated is an event that has happened again: one of the newer kind becomes a series.
func repeated(old *corev1.Event, h happening, now time.Time) *corev1.Event {
	again := api.Copy(old)
	again.Message = h.message
	switch {
	case again.EventTime.IsZero():
		again.Count++
		again.LastTimestamp = metav1.NewTime(now.Truncate(time.Second))
	case again.Series == nil:
		again.Series = &corev1.EventSeries{Count: 2, LastObservedTime: metav1.NewMicroTime(now)}
	default:
		again.Series = &corev1.EventSeries{Count: again.Series.Count + 1, LastObservedTime: metav1.NewMicroTime(now)}
	}
	return again
}

// recordOnce writes an event unless it has been written: controllers that start over say nothing twice.
func (t *turn) recordOnce(obj api.Object, h happening) error {
	if _, told := find[*corev1.Event](t, api.Events, cmp.Or(obj.GetNamespace(), metav1.NamespaceDefault), eventName(obj, h)); told {
		return nil
	}
	return t.record(obj, h)
}

// eventName is one for each thing that is said of an object, so that saying it again finds the first.
func eventName(obj api.Object, h happening) string {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s\x00%s\x00%s\x00%s", obj.GetUID(), h.component, h.reason, cmp.Or(h.topic, h.message))
	return fmt.Sprintf("%s.%016x", obj.GetName(), sum.Sum64())
}

// eventExpiry removes events that nobody has repeated for an hour.
type eventExpiry struct{}

func (c *eventExpiry) touched(t *turn, ev store.Event) {
	if ev.Kind == api.Events && ev.Type == store.Added {
		t.later(c, api.Name(ev.Object), expiry(ev.Object.(*corev1.Event)))
	}
}

func (c *eventExpiry) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	ev, ok := find[*corev1.Event](t, api.Events, namespace, plain)
	if !ok {
		return nil
	}
	if at := expiry(ev); at.After(t.now) {
		t.later(c, name, at)
		return nil
	}
	return t.delete(ev, store.DeleteOptions{})
}

// expiry is eventTTL after the event was last seen.
func expiry(ev *corev1.Event) time.Time {
	last := ev.CreationTimestamp.Time
	if ev.LastTimestamp.After(last) {
		last = ev.LastTimestamp.Time
	}
	if ev.Series != nil && ev.Series.LastObservedTime.After(last) {
		last = ev.Series.LastObservedTime.Time
	}
	return last.Add(eventTTL)
}
