package cluster

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/ingress"
)

// WhyIngress explains an Ingress as the ingress serves it, with everything that was written before the call.
func (c *Cluster) WhyIngress(ctx context.Context, name types.NamespacedName) (ingress.Description, error) {
	if _, err := c.store.Get(api.Ingresses, name.Namespace, name.Name); err != nil {
		return ingress.Description{}, err
	}
	if err := c.ingress.Progress().Wait(ctx, c.store.Revision()); err != nil {
		return ingress.Description{}, err
	}
	d, ok := c.ingress.Describe(name)
	if !ok { // deleted meanwhile
		return d, apierrors.NewNotFound(api.Ingresses.GroupResource(), name.Name)
	}
	return d, nil
}
