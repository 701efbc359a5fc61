package apiserver

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// selection is which objects of its kind a list, a watch or a deletecollection means.
type selection struct {
	query  store.Query // namespace, labels and, where one fits, an index
	labels labels.Selector
	fields fields.Selector
}

// readSelection reads the namespace of the path and the query's labelSelector and fieldSelector.
func readSelection(c *call) (*selection, error) {
	sel := &selection{query: store.Query{Namespace: c.namespace}}
	var err error
	if sel.labels, err = labels.Parse(c.query.Get("labelSelector")); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("unable to parse requirement: %v", err))
	}
	if sel.fields, err = c.storedFields(c.query.Get("fieldSelector")); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	for _, r := range sel.fields.Requirements() {
		if _, ok := fieldReader(c.kind, r.Field); !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", r.Field))
		}
	}
	if !sel.labels.Empty() {
		sel.query.Labels = sel.labels
	}
	sel.chooseIndex(c.kind)
	return sel, nil
}

// chooseIndex lets the store answer a selection by an index instead of looking at every object.
func (sel *selection) chooseIndex(kind *api.Kind) {
	if ns, ok := sel.fields.RequiresExactMatch("metadata.namespace"); ok && sel.query.Namespace == "" {
		sel.query.Namespace = ns
	}
	if name, ok := sel.fields.RequiresExactMatch("metadata.name"); ok && (sel.query.Namespace != "" || !kind.Namespaced) {
		sel.query.Name = name
		return
	}
	for field, index := range map[string]string{
		"spec.nodeName": api.IndexNode, "spec.clusterIP": api.IndexClusterIP, "involvedObject.uid": api.IndexInvolved,
	} {
		value, ok := sel.fields.RequiresExactMatch(field)
		if ok && value != "" && value != corev1.ClusterIPNone && kind.Indexes[index] != nil {
			sel.query.Index, sel.query.Value = index, value
			return
		}
	}
}

// matches tells whether obj, of the selection's kind, is meant.
func (sel *selection) matches(obj api.Object) bool {
	if sel.query.Namespace != "" && obj.GetNamespace() != sel.query.Namespace {
		return false
	}
	if !sel.labels.Empty() && !sel.labels.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	return sel.fields.Empty() || sel.fields.Matches(fieldSet{obj})
}

// fieldSet shows an object's selectable fields to a selector.
type fieldSet struct{ obj api.Object }

// Has tells whether the object has the field at all.
func (f fieldSet) Has(field string) bool { _, ok := fieldReader(api.KindOf(f.obj), field); return ok }

// Get returns the field's value as text.
func (f fieldSet) Get(field string) string {
	read, ok := fieldReader(api.KindOf(f.obj), field)
	if !ok {
		return ""
	}
	return read(f.obj)
}

// fieldReader finds how a selectable field is read; the fields are those Kubernetes lets select by.
func fieldReader(kind *api.Kind, field string) (func(api.Object) string, bool) {
	switch field {
	case "metadata.name":
		return api.Object.GetName, true
	case "metadata.namespace":
		return api.Object.GetNamespace, kind.Namespaced
	}
	read, ok := selectable[kind][field]
	return read, ok
}

type readers = map[string]func(api.Object) string

func podField(read func(*corev1.Pod) string) func(api.Object) string {
	return func(obj api.Object) string { return read(obj.(*corev1.Pod)) }
}

func eventField(read func(*corev1.Event) string) func(api.Object) string {
	return func(obj api.Object) string { return read(obj.(*corev1.Event)) }
}

var selectable = map[*api.Kind]readers{
	api.Pods: {
		"spec.nodeName":            podField(func(p *corev1.Pod) string { return p.Spec.NodeName }),
		"spec.restartPolicy":       podField(func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) }),
		"spec.schedulerName":       podField(func(p *corev1.Pod) string { return p.Spec.SchedulerName }),
		"spec.serviceAccountName":  podField(func(p *corev1.Pod) string { return p.Spec.ServiceAccountName }),
		"spec.hostNetwork":         podField(func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) }),
		"status.phase":             podField(func(p *corev1.Pod) string { return string(p.Status.Phase) }),
		"status.podIP":             podField(func(p *corev1.Pod) string { return p.Status.PodIP }),
		"status.podIPs":            podField(func(p *corev1.Pod) string { return p.Status.PodIP }),
		"status.nominatedNodeName": podField(func(p *corev1.Pod) string { return p.Status.NominatedNodeName }),
	},
	api.Services: {
		"spec.clusterIP": func(obj api.Object) string { return obj.(*corev1.Service).Spec.ClusterIP },
		"spec.type":      func(obj api.Object) string { return string(obj.(*corev1.Service).Spec.Type) },
	},
	api.Secrets: {"type": func(obj api.Object) string { return string(obj.(*corev1.Secret).Type) }},
	api.ReplicaSets: {"status.replicas": func(obj api.Object) string {
		return strconv.Itoa(int(obj.(*appsv1.ReplicaSet).Status.Replicas))
	}},
	api.Jobs: {"status.successful": func(obj api.Object) string {
		return strconv.Itoa(int(obj.(*batchv1.Job).Status.Succeeded))
	}},
	api.Namespaces: {"status.phase": func(obj api.Object) string { return string(obj.(*corev1.Namespace).Status.Phase) }},
	api.Nodes: {"spec.unschedulable": func(obj api.Object) string {
		return strconv.FormatBool(obj.(*corev1.Node).Spec.Unschedulable)
	}},
	api.Events: {
		"involvedObject.kind":            eventField(func(e *corev1.Event) string { return e.InvolvedObject.Kind }),
		"involvedObject.namespace":       eventField(func(e *corev1.Event) string { return e.InvolvedObject.Namespace }),
		"involvedObject.name":            eventField(func(e *corev1.Event) string { return e.InvolvedObject.Name }),
		"involvedObject.uid":             eventField(func(e *corev1.Event) string { return string(e.InvolvedObject.UID) }),
		"involvedObject.apiVersion":      eventField(func(e *corev1.Event) string { return e.InvolvedObject.APIVersion }),
		"involvedObject.resourceVersion": eventField(func(e *corev1.Event) string { return e.InvolvedObject.ResourceVersion }),
		"involvedObject.fieldPath":       eventField(func(e *corev1.Event) string { return e.InvolvedObject.FieldPath }),
		"reason":                         eventField(func(e *corev1.Event) string { return e.Reason }),
		"reportingComponent":             eventField(func(e *corev1.Event) string { return e.ReportingController }),
		"source":                         eventField(func(e *corev1.Event) string { return e.Source.Component }),
		"type":                           eventField(func(e *corev1.Event) string { return e.Type }),
	},
}

// revisionOf reads a resourceVersion: 0 for "", and for "0".
func revisionOf(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	rev, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest("Invalid value: " + strconv.Quote(text) + ": " + err.Error())
	}
	return rev, nil
}

// errFuture refuses a revision that has not been written yet; Kubernetes' words, and clients retry it.
func errFuture(wanted, now uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", wanted, now), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}
