package apiserver

import (
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	// maxGeneratedBase is how much of generateName is kept, so that name and suffix fit a DNS label; as in Kubernetes.
	maxGeneratedBase = 58
	// suffixLength is the number of random characters behind generateName; as in Kubernetes.
	suffixLength = 5
	// nameTries is how often a generated name may turn out to be taken before the client hears of it.
	nameTries = 8
)

// create answers POST on a collection.
func (s *Server) create(c *call) error {
	obj := c.form.New()
	if err := s.decodeBody(c, obj, c.form.GroupVersionKind()); err != nil {
		return err
	}
	obj = c.meant(obj)
	if err := c.place(obj); err != nil {
		return err
	}
	if obj.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	out, err := s.createObject(c, obj)
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusCreated, out)
}

// place checks that obj's namespace is the request's, and fills it in.
func (c *call) place(obj api.Object) error {
	if !c.kind.Namespaced {
		obj.SetNamespace("")
		return nil
	}
	switch obj.GetNamespace() {
	case "", c.namespace:
		obj.SetNamespace(c.namespace)
		return nil
	}
	return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
}

// createObject fills in, checks and writes a new object.
func (s *Server) createObject(c *call, obj api.Object) (api.Object, error) {
	if err := admitNamespace(s.store, obj); err != nil {
		return nil, err
	}
	clearType(obj)
	defaultSent(obj)
	if err := s.fields.born(c, obj); err != nil {
		return nil, err
	}
	if svc, ok := obj.(*corev1.Service); ok {
		normalizeClusterIPs(svc, nil)
	}
	if err := s.admitNew(c, obj); err != nil {
		return nil, err
	}
	api.Default(obj)
	api.PrepareForCreate(obj)
	if err := s.admitGrant(c, obj, nil); err != nil {
		return nil, err
	}
	if err := s.checkLimits(c, obj); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		base := obj.GetGenerateName()
		generated := obj.GetName() == "" && base != ""
		if generated {
			obj.SetName(base[:min(len(base), maxGeneratedBase)] + utilrand.String(suffixLength))
		}
		errs := api.Validate(obj)
		if c.form == api.EventsV1 {
			errs = append(errs, api.ValidateNewEvent(obj.(*corev1.Event))...)
		}
		if len(errs) > 0 {
			return nil, api.Invalid(c.kind, obj.GetName(), errs)
		}
		c.warnOf(obj)
		out, err := s.writeNew(c, obj)
		if !generated || !apierrors.IsAlreadyExists(err) || try == nameTries {
			return out, err
		}
		obj.SetName("")
	}
}

// defaultSent fills in what Kubernetes fills in while it reads a body: all defaults, but not a Service's address families, which are
// decided with its addresses. So much belongs to the writer.
func defaultSent(obj api.Object) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		api.Default(obj)
		return
	}
	families, policy := svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy
	api.Default(svc)
	svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = families, policy
}

func (s *Server) writeNew(c *call, obj api.Object) (out api.Object, err error) {
	if err := admitSize(obj); err != nil {
		return nil, err
	}
	_, err = s.store.Update(c.r.Context(), func(tx *store.Tx) error {
		if err := admitNamespace(tx, obj); err != nil {
			return err
		}
		fresh := api.Copy(obj)
		if svc, ok := fresh.(*corev1.Service); ok {
			if err := s.allocate(tx, svc, nil); err != nil {
				return err
			}
		}
		if err := admitQuota(tx, fresh, nil); err != nil {
			return err
		}
		if err := tx.Create(fresh); err != nil {
			return err
		}
		if c.kind == api.ResourceQuotas {
			if err := refreshQuotas(tx, fresh.GetNamespace()); err != nil {
				return err
			}
		}
		if c.kind == api.ClusterRoles {
			if err := aggregate(tx); err != nil {
				return err
			}
		}
		if out, err = tx.Get(c.kind, fresh.GetNamespace(), fresh.GetName()); err != nil {
			return err
		}
		tx.Meanwhile(func() { s.encodeEarly(c, out) })
		return c.dry()
	})
	return out, realError(err)
}

// dry undoes the transaction it ends when the client asked for a dry run.
func (c *call) dry() error {
	if c.dryRun {
		return errDryRun
	}
	return nil
}

// realError is err, but nil for a transaction that was undone on purpose.
func realError(err error) error {
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// clearType forgets kind and apiVersion, which the Go type tells already, so that equal objects are stored equal.
func clearType(obj api.Object) {
	obj.GetObjectKind().SetGroupVersionKind(noKind)
}

// errMismatch refuses a body whose name is not the request's.
func errMismatch(body, url string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", body, url))
}
