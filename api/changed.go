package api

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
)

// SpecChanged tells whether two objects of one kind differ in their spec: then the generation rises.
func SpecChanged(new, old Object) bool {
	a, b := reflect.ValueOf(new).Elem().FieldByName("Spec"), reflect.ValueOf(old).Elem().FieldByName("Spec")
	if !a.IsValid() || !b.IsValid() {
		return false
	}
	return !equality.Semantic.DeepEqual(a.Interface(), b.Interface())
}
