package apiserver

import (
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// delete answers DELETE on one object.
func (s *Server) delete(c *call) error {
	opts, err := s.deleteOptions(c)
	if err != nil {
		return err
	}
	return s.deleteNamed(c, opts)
}

func (s *Server) deleteNamed(c *call, opts store.DeleteOptions) error {
	if err := admitDelete(c.kind, c.name); err != nil {
		return err
	}
	var before, after api.Object
	_, err := s.store.Update(c.r.Context(), func(tx *store.Tx) (err error) {
		before, after, err = deleteOne(tx, c.kind, types.NamespacedName{Namespace: c.namespace, Name: c.name}, opts)
		if err != nil {
			return err
		}
		return c.dry()
	})
	if err = realError(err); err != nil {
		return err
	}
	if after != nil {
		return s.respond(c, http.StatusOK, after)
	}
	if c.kind == api.Pods || c.kind == api.Services {
		return s.respond(c, http.StatusOK, before)
	}
	c.accept.as = ""
	s.wire.write(c.w, http.StatusOK, c.accept, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: c.name, Group: c.kind.Group, Kind: c.kind.Plural, UID: before.GetUID()},
	})
	return nil
}

// deleteOne deletes an object, which may leave it waiting for its end: then after is its new state, otherwise nil.
func deleteOne(tx *store.Tx, kind *api.Kind, name types.NamespacedName, opts store.DeleteOptions) (before, after api.Object, err error) {
	if before, err = tx.Get(kind, name.Namespace, name.Name); err != nil {
		return nil, nil, err
	}
	if err := tx.Delete(kind, name.Namespace, name.Name, opts); err != nil {
		return nil, nil, err
	}
	if kind.Namespaced {
		if err := refreshQuotas(tx, name.Namespace); err != nil {
			return nil, nil, err
		}
	}
	if kind == api.ClusterRoles {
		if err := aggregate(tx); err != nil {
			return nil, nil, err
		}
	}
	after, err = tx.Get(kind, name.Namespace, name.Name)
	if apierrors.IsNotFound(err) {
		return before, nil, nil
	}
	return before, after, err
}

// deleteOptions reads a DeleteOptions body and the query parameters of the same names; the body wins.
func (s *Server) deleteOptions(c *call) (store.DeleteOptions, error) {
	var o metav1.DeleteOptions
	body, media, err := c.readBody()
	if err != nil {
		return store.DeleteOptions{}, err
	}
	if len(body) > 0 {
		err = s.decodeDeleteOptions(c, body, media, &o)
	} else {
		err = queryDeleteOptions(c, &o)
	}
	if err != nil {
		return store.DeleteOptions{}, err
	}
	for _, v := range o.DryRun {
		if v != metav1.DryRunAll {
			return store.DeleteOptions{}, errOption("DeleteOptions",
				field.NotSupported(field.NewPath("dryRun"), v, []string{metav1.DryRunAll}))
		}
		c.dryRun = true
	}
	return storeOptions(&o)
}

// decodeDeleteOptions accepts DeleteOptions in any group and version, as clients send them in the resource's.
func (s *Server) decodeDeleteOptions(c *call, body []byte, media string, o *metav1.DeleteOptions) error {
	decoder, ok := s.wire.decoders[media]
	if !ok {
		return errMedia(media)
	}
	gvk := c.kind.GroupVersion().WithKind("DeleteOptions")
	if _, _, err := decoder.Decode(body, &gvk, o); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

func queryDeleteOptions(c *call, o *metav1.DeleteOptions) error {
	if v := c.query.Get("gracePeriodSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return apierrors.NewBadRequest("gracePeriodSeconds: " + err.Error())
		}
		o.GracePeriodSeconds = &n
	}
	if v := c.query.Get("propagationPolicy"); v != "" {
		p := metav1.DeletionPropagation(v)
		o.PropagationPolicy = &p
	}
	if v := c.query.Get("orphanDependents"); v != "" {
		orphan := isTrue(v)
		o.OrphanDependents = &orphan
	}
	return nil
}

func storeOptions(o *metav1.DeleteOptions) (store.DeleteOptions, error) {
	out := store.DeleteOptions{GracePeriodSeconds: o.GracePeriodSeconds}
	if p := o.Preconditions; p != nil {
		if p.UID != nil {
			out.UID = *p.UID
		}
		if p.ResourceVersion != nil {
			out.ResourceVersion = *p.ResourceVersion
		}
	}
	path := field.NewPath("propagationPolicy")
	switch {
	case o.PropagationPolicy != nil && o.OrphanDependents != nil:
		return out, errOption("DeleteOptions", field.Invalid(path, *o.PropagationPolicy,
			"orphanDependents and deletionPropagation cannot be both set"))
	case o.PropagationPolicy != nil:
		out.Propagation = *o.PropagationPolicy
	case o.OrphanDependents != nil && *o.OrphanDependents:
		out.Propagation = metav1.DeletePropagationOrphan
	}
	switch out.Propagation {
	case "", metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan:
		return out, nil
	}
	return out, errOption("DeleteOptions", field.NotSupported(path, out.Propagation, []metav1.DeletionPropagation{
		metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}))
}

// deleteCollection answers DELETE on a collection: all that the selectors choose, in one transaction.
func (s *Server) deleteCollection(c *call) error {
	sel, err := readSelection(c)
	if err != nil {
		return err
	}
	opts, err := s.deleteOptions(c)
	if err != nil {
		return err
	}
	var gone []api.Object
	rev, err := s.store.Update(c.r.Context(), func(tx *store.Tx) error {
		gone = gone[:0]
		for _, obj := range tx.List(c.kind, sel.query) {
			if !sel.matches(obj) || admitDelete(c.kind, obj.GetName()) != nil {
				continue
			}
			name := types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
			before, _, err := deleteOne(tx, c.kind, name, opts)
			if err != nil {
				return err
			}
			gone = append(gone, before)
		}
		return c.dry()
	})
	if err = realError(err); err != nil {
		return err
	}
	return s.respondList(c, page{items: gone, revision: rev})
}

// evict answers POST on a pod's eviction: a deletion, with the DeleteOptions inside the body.
func (s *Server) evict(c *call) error {
	if c.r.Method != http.MethodPost {
		return errNoMethod(c)
	}
	var body policyv1.Eviction
	if err := s.decodeBody(c, &body, policyv1.SchemeGroupVersion.WithKind("Eviction")); err != nil {
		return err
	}
	var opts store.DeleteOptions
	if o := body.DeleteOptions; o != nil {
		var err error
		if opts, err = storeOptions(o); err != nil {
			return err
		}
		c.dryRun = c.dryRun || len(o.DryRun) > 0
	}
	c.accept.as = ""
	return s.finishAction(c, func(tx *store.Tx) error {
		pod, err := tx.Get(c.kind, c.namespace, c.name)
		if err != nil {
			return err
		}
		if err := admitEviction(tx, pod.(*corev1.Pod)); err != nil {
			return err
		}
		return tx.Delete(c.kind, c.namespace, c.name, opts)
	})
}

// bind answers POST on a pod's binding: the pod goes to a node.
func (s *Server) bind(c *call) error {
	if c.r.Method != http.MethodPost {
		return errNoMethod(c)
	}
	var binding corev1.Binding
	if err := s.decodeBody(c, &binding, corev1.SchemeGroupVersion.WithKind("Binding")); err != nil {
		return err
	}
	if binding.Target.Name == "" {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), c.name,
			field.ErrorList{field.Required(field.NewPath("target", "name"), "")})
	}
	return s.finishAction(c, func(tx *store.Tx) error {
		found, err := tx.Get(c.kind, c.namespace, c.name)
		if err != nil {
			return err
		}
		pod := api.Copy(found).(*corev1.Pod)
		if pod.Spec.NodeName != "" {
			return apierrors.NewConflict(c.kind.GroupResource(), c.name,
				fmt.Errorf("pod %s is already assigned to node %q", pod.Name, pod.Spec.NodeName))
		}
		pod.Spec.NodeName = binding.Target.Name
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.cfg.Now()),
		})
		return tx.Update(pod)
	})
}

// finishAction runs an action that answers with a bare success.
func (s *Server) finishAction(c *call, act func(*store.Tx) error) error {
	_, err := s.store.Update(c.r.Context(), func(tx *store.Tx) error {
		if err := act(tx); err != nil {
			return err
		}
		return c.dry()
	})
	if err = realError(err); err != nil {
		return err
	}
	s.wire.write(c.w, http.StatusCreated, c.accept, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated,
	})
	return nil
}
