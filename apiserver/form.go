package apiserver

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kubarium.dev/api"
)

// servedKinds are the kinds that are stored, and those that show stored objects in other words.
var servedKinds = append(append([]*api.Kind{}, api.Kinds...), api.EventsV1, definitions)

// kindFor finds the kind of a resource, and the form in which clients see it when that is another one.
func kindFor(gvr schema.GroupVersionResource) (kind, form *api.Kind, ok bool) {
	if gvr == api.EventsV1.GroupVersion().WithResource(api.EventsV1.Plural) {
		return api.Events, api.EventsV1, true
	}
	kind, ok = api.KindForResource(gvr)
	return kind, kind, ok
}

// shown is a stored object as the call's client sees it.
func (c *call) shown(obj api.Object) api.Object {
	if c.form == c.kind {
		return obj
	}
	return api.NewEvent(obj.(*corev1.Event))
}

func (c *call) allShown(items []api.Object) []api.Object {
	if c.form == c.kind {
		return items
	}
	all := make([]api.Object, len(items))
	for i, obj := range items {
		all[i] = c.shown(obj)
	}
	return all
}

// meant is what a client's object says, as it is stored.
func (c *call) meant(obj api.Object) api.Object {
	if e, ok := obj.(*eventsv1.Event); ok {
		return api.OldEvent(e)
	}
	return obj
}

// fieldMeant is the stored kind's word for a field by which a client selects.
func (c *call) fieldMeant(field, value string) (string, string, error) {
	if c.form != c.kind {
		switch rest, ok := strings.CutPrefix(field, "regarding."); {
		case ok:
			field = "involvedObject." + rest
		case field == "reportingController":
			field = "reportingComponent"
		}
	}
	return field, value, nil
}

// storedFields reads a field selector in the stored kind's words.
func (c *call) storedFields(text string) (fields.Selector, error) {
	sel, err := fields.ParseSelector(text)
	if err != nil || c.form == c.kind {
		return sel, err
	}
	return sel.Transform(c.fieldMeant)
}
