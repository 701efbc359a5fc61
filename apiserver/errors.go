package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	errPanic = errors.New("the server met an unexpected condition; its log tells where")
	// errDryRun undoes a transaction whose result is wanted without its effect.
	errDryRun = errors.New("dry run")
)

// fail answers r with the Status object of err; anything that is not an API error is a 500.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status.Code == http.StatusInternalServerError {
		s.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if status.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="kubarium"`)
	}
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(d.RetryAfterSeconds))
	}
	a, _ := parseAccept(r.Header.Get("Accept"), s.wire)
	a.as = ""
	s.wire.write(w, int(status.Code), a, status)
}

// statusOf makes the Status object that tells of err.
func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &known):
	case errors.As(err, &tooLarge):
		known = apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", tooLarge.Limit))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		known = apierrors.NewTimeoutError("the request did not finish: "+err.Error(), 0)
	default:
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if status.Code == 0 {
		status.Code = http.StatusInternalServerError
	}
	return &status
}

func errNoPath(method string) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, method, schema.GroupResource{}, "", "", 0, true)
}

func errNoMethod(c *call) error {
	verb := strings.ToLower(c.r.Method)
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, verb, c.kind.GroupResource(), c.name, "", 0, false)
}

// errOption refuses a query parameter the way Kubernetes refuses its options objects.
func errOption(kind string, errs ...*field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// errOther is an error with a code of its own and the message as it is.
func errOther(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}}
}
