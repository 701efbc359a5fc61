package controller

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// revisions is the history of a DaemonSet's or a StatefulSet's template, a ControllerRevision each: kubectl rollout history reads
// it, kubectl rollout undo sends one of them back.
type revisions struct {
	all     []*appsv1.ControllerRevision // oldest first
	current *appsv1.ControllerRevision   // of the template as it is now
	// collisions is the owner's new count when the name of a revision was taken by a stranger.
	collisions *int32
}

// templatePatch is a template in the form that kubectl sends back.
func templatePatch(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// chronicle finds the revision of a template, and writes one down where there is none. A template that comes back has its old
// revision brought to the front, under a new number.
func chronicle(t *turn, owner api.Object, template *corev1.PodTemplateSpec, collisions *int32) (revisions, error) {
	h := revisions{collisions: collisions}
	data, err := templatePatch(template)
	if err != nil {
		return h, err
	}
	// Those that an owner of this name left behind are taken over: the pods they describe need not be replaced.
	for _, r := range query[*appsv1.ControllerRevision](t, api.ControllerRevisions, matching(owner.GetNamespace(), podSelector(nil)(owner))) {
		if err := adopt(t, r, api.KindOf(owner), podSelector(nil)); err != nil {
			return h, err
		}
	}
	h.all = owned[*appsv1.ControllerRevision](t, api.ControllerRevisions, owner)
	slices.SortStableFunc(h.all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Name, b.Name))
	})
	next := int64(1)
	if len(h.all) > 0 {
		next = h.all[len(h.all)-1].Revision + 1
	}
	i := slices.IndexFunc(h.all, func(r *appsv1.ControllerRevision) bool { return bytes.Equal(r.Data.Raw, data) })
	if i >= 0 {
		h.current = h.all[i]
		if i == len(h.all)-1 {
			return h, nil
		}
		again := api.Copy(h.current)
		again.Revision = next
		if err := t.update(again); err != nil {
			return h, err
		}
		h.current = again
		h.all = append(slices.Delete(h.all, i, i+1), again)
		return h, nil
	}
	return h, h.add(t, owner, template, &appsv1.ControllerRevision{Revision: next, Data: runtime.RawExtension{Raw: data}})
}

// add writes a new revision under a name that is free.
func (h *revisions) add(t *turn, owner api.Object, template *corev1.PodTemplateSpec, r *appsv1.ControllerRevision) error {
	hash := templateHash(template, h.collisions)
	for {
		if _, taken := find[*appsv1.ControllerRevision](t, api.ControllerRevisions, owner.GetNamespace(), owner.GetName()+"-"+hash); !taken {
			break
		}
		n := wantedOr(h.collisions, 0) + 1
		h.collisions = &n
		hash = templateHash(template, h.collisions)
	}
	r.ObjectMeta = metav1.ObjectMeta{
		Namespace: owner.GetNamespace(), Name: owner.GetName() + "-" + hash,
		Labels: with(template.Labels, appsv1.ControllerRevisionHashLabelKey, hash), Annotations: maps.Clone(owner.GetAnnotations()),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, api.KindOf(owner).GroupVersionKind())},
	}
	if err := t.create(r); err != nil {
		return fmt.Errorf("revision of %s: %w", api.Name(owner), err)
	}
	h.current = r
	h.all = append(h.all, r)
	return nil
}

// hash is what the label of a DaemonSet's pods says of the current template.
func (h revisions) hash() string { return h.current.Labels[appsv1.ControllerRevisionHashLabelKey] }

// forget deletes the oldest revisions beyond the limit, but for the current one and those that live.
func (h revisions) forget(t *turn, limit *int32, live func(*appsv1.ControllerRevision) bool) error {
	var dead []*appsv1.ControllerRevision
	for _, r := range h.all {
		if r != h.current && !live(r) {
			dead = append(dead, r)
		}
	}
	for i := 0; i < len(dead)-int(wantedOr(limit, 10)); i++ {
		if err := t.delete(dead[i], store.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}
