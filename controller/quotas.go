package controller

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// quotas counts what each ResourceQuota bounds: the API server counts what it admits, and nobody else what goes and what the
// controllers make.
//
// Work is named after the quota.
type quotas struct {
	specs map[string]map[string]*corev1.ResourceQuotaSpec // by namespace and name
}

func newQuotas() *quotas { return &quotas{specs: map[string]map[string]*corev1.ResourceQuotaSpec{}} }

func (c *quotas) touched(t *turn, ev store.Event) {
	if quota, ok := ev.Object.(*corev1.ResourceQuota); ok {
		c.quotaTouched(t, ev, quota)
	}
	namespace := ev.Object.GetNamespace()
	if len(c.specs[namespace]) == 0 || ev.Kind == api.Events {
		return
	}
	for name, spec := range c.specs[namespace] {
		var before, after corev1.ResourceList
		if ev.Type != store.Deleted {
			after = api.QuotaUsed(spec, ev.Object)
		} else {
			before = api.QuotaUsed(spec, ev.Object)
		}
		if ev.Old != nil && ev.Type == store.Modified {
			before = api.QuotaUsed(spec, ev.Old)
		}
		if !equality.Semantic.DeepEqual(before, after) {
			t.todo(c, namespace+"/"+name)
		}
	}
}

func (c *quotas) quotaTouched(t *turn, ev store.Event, quota *corev1.ResourceQuota) {
	if ev.Type == store.Deleted {
		delete(c.specs[quota.Namespace], quota.Name)
		return
	}
	if c.specs[quota.Namespace] == nil {
		c.specs[quota.Namespace] = map[string]*corev1.ResourceQuotaSpec{}
	}
	c.specs[quota.Namespace][quota.Name] = &quota.Spec
	if t.by != controller(c) {
		t.todo(c, api.Name(quota))
	}
}

func (c *quotas) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	quota, ok := find[*corev1.ResourceQuota](t, api.ResourceQuotas, namespace, plain)
	if !ok {
		return nil
	}
	status := api.QuotaStatus(quota, func(k *api.Kind) []api.Object {
		return t.tx.List(k, store.Query{Namespace: namespace})
	})
	if equality.Semantic.DeepEqual(status, quota.Status) {
		return nil
	}
	counted := api.Copy(quota)
	counted.Status = status
	return t.update(counted)
}
