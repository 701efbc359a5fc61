package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
)

// LogSource hands out what containers wrote. Logs writes to r.Out until the log ends or, with Follow, until ctx ends; an
// API status error before the first byte becomes the request's answer.
type LogSource interface {
	Logs(ctx context.Context, r LogRequest) error
}

// LogRequest says which part of which log is wanted.
type LogRequest struct {
	Namespace, Pod, Container string
	Follow                    bool       // go on as more is written
	Previous                  bool       // of the container's last run before this one
	Timestamps                bool       // an RFC 3339 time before each line
	Tail                      *int64     // the last so many lines; nil for all
	Limit                     *int64     // at most so many bytes; nil for all
	Since                     *time.Time // what was written from then on; nil for all
	Out                       io.Writer  // each Write reaches the client at once
}

// serveLog answers GET on a pod's log.
func (s *Server) serveLog(c *call) error {
	if c.r.Method != http.MethodGet {
		return errNoMethod(c)
	}
	pod, err := s.podOf(c)
	if err != nil {
		return err
	}
	req, err := s.readLogRequest(c, pod)
	if err != nil {
		return err
	}
	if s.cfg.Logs == nil {
		return errOther(http.StatusNotImplemented, "NotImplemented", "this server hands out no logs")
	}
	out := &flushed{w: c.w, control: http.NewResponseController(c.w)}
	req.Out = out
	c.w.Header().Set("Content-Type", "text/plain")
	if req.Follow {
		out.control.Flush()
		out.began = true
	}
	err = s.cfg.Logs.Logs(c.r.Context(), req)
	if err != nil && out.began {
		s.log.Debug("log ended", "pod", api.Name(pod), "err", err)
		return nil
	}
	return err
}

func (s *Server) podOf(c *call) (*corev1.Pod, error) {
	obj, err := s.store.Get(api.Pods, c.namespace, c.name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

func (s *Server) readLogRequest(c *call, pod *corev1.Pod) (LogRequest, error) {
	q := c.query
	req := LogRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Follow: isTrue(q.Get("follow")), Previous: isTrue(q.Get("previous")),
		Timestamps: isTrue(q.Get("timestamps")),
	}
	var err error
	if req.Container, err = containerOf(pod, q.Get("container")); err != nil {
		return req, err
	}
	if req.Tail, err = count(q.Get("tailLines"), "tailLines", 0); err != nil {
		return req, err
	}
	if req.Limit, err = count(q.Get("limitBytes"), "limitBytes", 1); err != nil {
		return req, err
	}
	seconds, err := count(q.Get("sinceSeconds"), "sinceSeconds", 1)
	if err != nil {
		return req, err
	}
	if seconds != nil {
		since := s.cfg.Now().Add(-time.Duration(*seconds) * time.Second)
		req.Since = &since
	}
	if v := q.Get("sinceTime"); v != "" {
		since, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return req, apierrors.NewBadRequest("sinceTime: " + err.Error())
		}
		req.Since = &since
	}
	return req, nil
}

// count reads a number parameter that must be at least least; nil when it is not there.
func count(text, name string, least int64) (*int64, error) {
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(name + ": " + err.Error())
	}
	if n < least {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), "",
			field.ErrorList{field.Invalid(field.NewPath(name), n, fmt.Sprintf("must be greater than or equal to %d", least))})
	}
	return &n, nil
}

// containerOf finds the container that is meant: the named one, the only one, or the one an annotation makes the default.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var all, inits []string
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	known := append(append([]string{}, all...), inits...)
	for _, c := range pod.Spec.EphemeralContainers {
		known = append(known, c.Name)
	}
	if name == "" && len(all) == 1 {
		return all[0], nil
	}
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	for _, n := range known {
		if n == name {
			return name, nil
		}
	}
	if name != "" {
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(all, " "))
	if len(inits) > 0 {
		message += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(inits, " "))
	}
	return "", apierrors.NewBadRequest(message)
}

// flushed sends every write to the client at once.
type flushed struct {
	w       io.Writer
	control *http.ResponseController
	began   bool
}

// Write sends p.
func (f *flushed) Write(p []byte) (int, error) {
	f.began = true
	n, err := f.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.control.Flush()
}
