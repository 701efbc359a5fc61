package apiserver

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

var noKind schema.GroupVersionKind

// get answers GET on one object, and on its status.
func (s *Server) get(c *call) error {
	obj, err := s.store.Get(c.kind, c.namespace, c.name)
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusOK, obj)
}

// update answers PUT on one object or its status.
func (s *Server) update(c *call) error {
	obj := c.form.New()
	if err := s.decodeBody(c, obj, c.form.GroupVersionKind()); err != nil {
		return err
	}
	obj = c.meant(obj)
	if err := c.place(obj); err != nil {
		return err
	}
	switch obj.GetName() {
	case "":
		obj.SetName(c.name)
	case c.name:
	default:
		return errMismatch(obj.GetName(), c.name)
	}
	code := http.StatusOK
	out, err := s.change(c, func(api.Object) (api.Object, error) { return api.Copy(obj), nil })
	if apierrors.IsNotFound(err) && c.sub == "" && bornByUpdate[c.kind] {
		code = http.StatusCreated
		out, err = s.createByUpdate(c, obj)
	}
	if err != nil {
		return err
	}
	return s.respond(c, code, out)
}

// bornByUpdate are the kinds of which a PUT creates what is not there, as in Kubernetes.
var bornByUpdate = map[*api.Kind]bool{
	api.Services: true, api.Endpoints: true, api.Events: true, api.LimitRanges: true, api.Leases: true,
	api.Roles: true, api.RoleBindings: true, api.ClusterRoles: true, api.ClusterRoleBindings: true,
}

// createByUpdate creates what a PUT was about. A body with a uid meant an object that is gone.
func (s *Server) createByUpdate(c *call, obj api.Object) (api.Object, error) {
	if err := s.authorizeAs(c, "create"); err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" {
		return nil, apierrors.NewConflict(c.kind.GroupResource(), c.name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: ", uid))
	}
	obj.SetResourceVersion("")
	return s.createObject(c, obj)
}

// change replaces the call's object by what next makes of its present state. next runs before the transaction, and once more
// inside when another writer came between, so it must depend on its argument alone.
func (s *Server) change(c *call, next func(now api.Object) (api.Object, error)) (api.Object, error) {
	before, err := s.store.Get(c.kind, c.namespace, c.name)
	if err != nil {
		return nil, err
	}
	wanted, err := s.prepare(c, before, next)
	if err != nil {
		return nil, err
	}
	var out api.Object
	_, err = s.store.Update(c.r.Context(), func(tx *store.Tx) error {
		now, err := tx.Get(c.kind, c.namespace, c.name)
		if err != nil {
			return err
		}
		if now.GetResourceVersion() != before.GetResourceVersion() {
			if wanted, err = s.prepare(c, now, next); err != nil {
				return err
			}
		}
		if err := s.put(tx, c, wanted, now); err != nil {
			return err
		}
		if out, err = tx.Get(c.kind, c.namespace, c.name); apierrors.IsNotFound(err) {
			out, err = wanted, nil // its last finalizer went, and it with it
		}
		if err != nil {
			return err
		}
		tx.Meanwhile(func() { s.encodeEarly(c, out) })
		return c.dry()
	})
	return out, realError(err)
}

// put writes wanted in place of now.
func (s *Server) put(tx *store.Tx, c *call, wanted, now api.Object) error {
	if err := admitSize(wanted); err != nil {
		return err
	}
	if svc, ok := wanted.(*corev1.Service); ok && c.sub == "" {
		if err := s.allocate(tx, svc, now.(*corev1.Service)); err != nil {
			return err
		}
	}
	if c.sub == "" && c.kind == api.Services || c.sub == "resize" {
		if err := admitQuota(tx, wanted, now); err != nil {
			return err
		}
	}
	if err := tx.Update(wanted); err != nil {
		return err
	}
	switch {
	case c.kind == api.ClusterRoles:
		return aggregate(tx)
	case c.kind == api.ResourceQuotas && c.sub == "":
		return refreshQuotas(tx, wanted.GetNamespace())
	}
	return nil
}

// prepare makes the object that is to replace now: next's result with what the server fills in, checked.
func (s *Server) prepare(c *call, now api.Object, next func(api.Object) (api.Object, error)) (api.Object, error) {
	obj, err := next(now)
	if err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" && uid != now.GetUID() {
		return nil, apierrors.NewConflict(c.kind.GroupResource(), c.name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, now.GetUID()))
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != now.GetResourceVersion() {
		return nil, errStale(c)
	}
	clearType(obj)
	if svc, ok := obj.(*corev1.Service); ok && c.sub == "" {
		keepAllocated(svc, now.(*corev1.Service))
	}
	api.Default(obj)
	if err := s.fields.track(c, now, obj); err != nil {
		return nil, err
	}
	wanted, err := s.prepareSub(c, obj, now)
	if err == nil {
		wanted.SetManagedFields(obj.GetManagedFields())
	}
	return wanted, err
}

// prepareSub takes from obj what the call may change of now, and checks it.
func (s *Server) prepareSub(c *call, obj, now api.Object) (api.Object, error) {
	switch c.sub {
	case "status":
		api.PrepareForStatusUpdate(obj, now)
		if errs := api.ValidateStatusUpdate(obj, now); len(errs) > 0 {
			return nil, api.Invalid(c.kind, c.name, errs)
		}
	case "ephemeralcontainers":
		pod := api.Copy(now.(*corev1.Pod))
		pod.Spec.EphemeralContainers = obj.(*corev1.Pod).Spec.EphemeralContainers
		if errs := api.ValidateEphemeral(pod, now.(*corev1.Pod)); len(errs) > 0 {
			return nil, api.Invalid(c.kind, c.name, errs)
		}
		return pod, nil
	case "resize":
		pod := api.Copy(now.(*corev1.Pod))
		pod.Spec = obj.(*corev1.Pod).Spec
		if errs := api.ValidateResize(pod, now.(*corev1.Pod)); len(errs) > 0 {
			return nil, api.Invalid(c.kind, c.name, errs)
		}
		if err := s.checkLimits(c, pod); err != nil {
			return nil, err
		}
		return pod, s.admitResize(pod, now.(*corev1.Pod))
	case "finalize":
		finalizers := obj.(*corev1.Namespace).Spec.Finalizers
		obj = api.Copy(now)
		obj.(*corev1.Namespace).Spec.Finalizers = finalizers
	default:
		api.PrepareForUpdate(obj, now)
		if errs := api.ValidateUpdate(obj, now); len(errs) > 0 {
			return nil, api.Invalid(c.kind, c.name, errs)
		}
		if err := s.admitGrant(c, obj, now); err != nil {
			return nil, err
		}
		if err := s.admitPriorityClass(obj); err != nil {
			return nil, err
		}
		c.warnOf(obj)
	}
	return obj, nil
}

// errStale refuses a write that was made from an older state; Kubernetes' words.
func errStale(c *call) error {
	return apierrors.NewConflict(c.kind.GroupResource(), c.name, fmt.Errorf(
		"the object has been modified; please apply your changes to the latest version and try again"))
}
