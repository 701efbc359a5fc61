package api

import (
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Invalid is the answer to an object that does not pass validation: HTTP 422 with every cause and its field path, worded
// `Service "web" is invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive`.
func Invalid(kind *Kind, name string, errs field.ErrorList) *apierrors.StatusError {
	return apierrors.NewInvalid(kind.GroupVersionKind().GroupKind(), name, errs)
}
