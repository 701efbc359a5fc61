package apiserver

import (
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// serveScale answers GET, PUT and PATCH on an object's scale.
func (s *Server) serveScale(c *call) error {
	c.accept.as = ""
	if c.r.Method == http.MethodGet {
		obj, err := s.store.Get(c.kind, c.namespace, c.name)
		if err != nil {
			return err
		}
		s.wire.write(c.w, http.StatusOK, c.accept, scaleOf(obj))
		return nil
	}
	next, err := s.readScale(c)
	if err != nil {
		return err
	}
	inner := *c // the object itself is what changes
	inner.sub, inner.recorded = "", c.sub
	out, err := s.change(&inner, func(now api.Object) (api.Object, error) {
		scale, err := next(scaleOf(now))
		if err != nil {
			return nil, err
		}
		if scale.Spec.Replicas < 0 {
			return nil, errNegative(c.name, scale.Spec.Replicas)
		}
		obj := api.Copy(now)
		obj.SetResourceVersion(scale.ResourceVersion)
		*replicasOf(obj) = &scale.Spec.Replicas
		return obj, nil
	})
	if err != nil {
		return err
	}
	s.wire.write(c.w, http.StatusOK, c.accept, scaleOf(out))
	return nil
}

// readScale reads the body of a PUT or PATCH and returns what it makes of a scale.
func (s *Server) readScale(c *call) (func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error), error) {
	body, media, err := c.readBody()
	if err != nil {
		return nil, err
	}
	switch c.r.Method {
	case http.MethodPut:
		scale := &autoscalingv1.Scale{}
		if err := s.decode(c, body, media, scale, scaleKind); err != nil {
			return nil, err
		}
		return func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return scale, nil }, nil
	case http.MethodPatch:
		if err := checkPatch(types.PatchType(media), body); err != nil {
			return nil, err
		}
		return func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			scale := &autoscalingv1.Scale{}
			return scale, patchInto(s, c, now, scale, types.PatchType(media), body)
		}, nil
	}
	return nil, errNoMethod(c)
}

func errNegative(name string, replicas int32) error {
	return apierrors.NewInvalid(scaleKind.GroupKind(), name, field.ErrorList{
		field.Invalid(field.NewPath("spec", "replicas"), replicas, "must be greater than or equal to 0")})
}

// scaleOf is an object's scale.
func scaleOf(obj api.Object) *autoscalingv1.Scale {
	scale := &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: scaleKind.Kind, APIVersion: scaleKind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
	}
	if r := *replicasOf(obj); r != nil {
		scale.Spec.Replicas = *r
	}
	var selector *metav1.LabelSelector
	switch o := obj.(type) {
	case *appsv1.Deployment:
		scale.Status.Replicas, selector = o.Status.Replicas, o.Spec.Selector
	case *appsv1.ReplicaSet:
		scale.Status.Replicas, selector = o.Status.Replicas, o.Spec.Selector
	case *appsv1.StatefulSet:
		scale.Status.Replicas, selector = o.Status.Replicas, o.Spec.Selector
	}
	if parsed, err := metav1.LabelSelectorAsSelector(selector); err == nil {
		scale.Status.Selector = parsed.String()
	}
	return scale
}

// replicasOf is where an object keeps how many replicas it wants.
func replicasOf(obj api.Object) **int32 {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Replicas
	case *appsv1.ReplicaSet:
		return &o.Spec.Replicas
	case *appsv1.StatefulSet:
		return &o.Spec.Replicas
	}
	panic("apiserver: no replicas in " + api.KindOf(obj).String())
}
