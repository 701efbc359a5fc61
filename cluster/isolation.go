package cluster

import (
	"context"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// isolation is what a node's new pods wait for: where a namespace has NetworkPolicies, the node's own ruleset, which guards its pods.
// Rulesets of other nodes that do not know the pod yet let nothing of theirs to it that a policy would have to allow.
func (c *Cluster) isolation(node string) func(namespace string) func(context.Context, uint64) error {
	return func(namespace string) func(context.Context, uint64) error {
		policies, err := c.store.List(context.Background(), api.NetworkPolicies, store.Query{Namespace: namespace})
		if err == nil && len(policies.Items) == 0 {
			return nil
		}
		return func(ctx context.Context, revision uint64) error {
			m, err := c.machine(node)
			if err != nil {
				return err
			}
			return m.proxy.Progress().Wait(ctx, revision)
		}
	}
}
