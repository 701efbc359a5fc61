package controller

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A field that a newer Kubernetes adds to what is compared must be compared too.
func TestEveryFieldOfAnEndpointIsCompared(t *testing.T) {
	t.Parallel()
	for kind, fields := range map[reflect.Type]int{
		reflect.TypeFor[discoveryv1.Endpoint](): 8, reflect.TypeFor[discoveryv1.EndpointConditions](): 3, reflect.TypeFor[discoveryv1.EndpointHints](): 2,
		reflect.TypeFor[discoveryv1.EndpointPort](): 4, reflect.TypeFor[corev1.EndpointSubset](): 3, reflect.TypeFor[corev1.EndpointAddress](): 4,
		reflect.TypeFor[corev1.EndpointPort](): 4,
	} {
		if got := kind.NumField(); got != fields {
			t.Errorf("%v has %d fields, %d are compared", kind, got, fields)
		}
	}
	yes, word := true, "x"
	full := func() discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, Hostname: &word, NodeName: &word, Zone: &word}
	}
	for name, edit := range map[string]func(*discoveryv1.Endpoint){
		"addresses":   func(e *discoveryv1.Endpoint) { e.Addresses = []string{"10.0.0.2"} },
		"ready":       func(e *discoveryv1.Endpoint) { e.Conditions.Ready = &yes },
		"serving":     func(e *discoveryv1.Endpoint) { e.Conditions.Serving = &yes },
		"terminating": func(e *discoveryv1.Endpoint) { e.Conditions.Terminating = &yes },
		"hostname":    func(e *discoveryv1.Endpoint) { e.Hostname = nil },
		"target":      func(e *discoveryv1.Endpoint) { e.TargetRef = &corev1.ObjectReference{UID: "1"} },
		"topology":    func(e *discoveryv1.Endpoint) { e.DeprecatedTopology = map[string]string{"a": "b"} },
		"node":        func(e *discoveryv1.Endpoint) { e.NodeName = new(string) },
		"zone":        func(e *discoveryv1.Endpoint) { e.Zone = new(string) },
		"hints":       func(e *discoveryv1.Endpoint) { e.Hints = &discoveryv1.EndpointHints{} },
	} {
		a, b := full(), full()
		edit(&b)
		if !sameEntry(&a, &a) || sameEntry(&a, &b) || sameEntry(&b, &a) {
			t.Errorf("%s: a difference was not seen, or one where there is none", name)
		}
	}
}
