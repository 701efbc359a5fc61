package api

import (
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is one API object: a pointer to a k8s.io/api type such as *corev1.Pod. An object that came out of the store is
// shared and must not be changed; copy it first (Copy).
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is one row of the table of kinds: everything the rest of the program has to know about a kind of object. Kinds are
// singletons (Pods, Services, ...), compared by pointer.
type Kind struct {
	Group, Version string   // "", "v1" for the core group
	Kind           string   // "Service"
	Plural         string   // "services"
	Singular       string   // "service"
	Short          []string // "svc"
	Categories     []string // "all"
	Namespaced     bool
	HasStatus      bool // has the subresource status
	HasScale       bool // has the subresource scale
	New            func() Object
	NewList        func() runtime.Object
	// Indexes maps the name of an index to the values under which it files an object. The store keeps them all.
	Indexes map[string]func(Object) []string
	// Born, if set, fills in what follows from a new object's uid. The store calls it as it creates the object.
	Born func(Object)
	// Beside, if set, are the objects that live and die with one of this kind. The store writes and removes them with it.
	Beside func(Object) []Object
}

// GroupVersion is "v1" or "apps/v1".
func (k *Kind) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: k.Group, Version: k.Version}
}

// GroupVersionKind names the kind in full.
func (k *Kind) GroupVersionKind() schema.GroupVersionKind {
	return k.GroupVersion().WithKind(k.Kind)
}

// GroupResource is what error messages call the kind: "services", "deployments.apps".
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Plural}
}

// String is the kind's group and resource: "services", "deployments.apps". It is unique, and the store's name for the kind.
func (k *Kind) String() string { return k.GroupResource().String() }

// KindOf returns the row of an object, told by its Go type. It panics for a type that is not in the table: only objects made
// by a Kind's New reach it.
func KindOf(obj Object) *Kind {
	k, ok := kindByType[reflect.TypeOf(obj)]
	if !ok {
		panic(fmt.Sprintf("api: %T is not a served kind", obj))
	}
	return k
}

// KindFor finds a kind by group, version and kind name ("apps", "v1", "Deployment").
func KindFor(gvk schema.GroupVersionKind) (*Kind, bool) {
	for _, k := range Kinds {
		if k.GroupVersionKind() == gvk {
			return k, true
		}
	}
	return nil, false
}

// KindForResource finds a kind by group, version and plural ("apps", "v1", "deployments").
func KindForResource(gvr schema.GroupVersionResource) (*Kind, bool) {
	for _, k := range Kinds {
		if k.GroupVersion() == gvr.GroupVersion() && k.Plural == gvr.Resource {
			return k, true
		}
	}
	return nil, false
}

// Copy returns a deep copy that the caller may change.
func Copy[T Object](obj T) T { return obj.DeepCopyObject().(T) }

// Name is "namespace/name", or "name" for a cluster-wide object: how logs and explanations name an object.
func Name(obj metav1.Object) string {
	if obj.GetNamespace() == "" {
		return obj.GetName()
	}
	return obj.GetNamespace() + "/" + obj.GetName()
}
