package cluster

import (
	"context"
	"fmt"

	"kubarium.dev/store"
)

// consumer is one place that has to put a write into effect.
type consumer struct {
	name     string
	progress *store.Progress
}

// Programmed is the barrier by revision: it returns when the write with this revision, and all that followed from it, is in
// effect in every place that serves it: controllers, each connected node's ruleset, DNS, the ingress, the loopback forwarders. Its
// error names the place that was being waited for.
func (c *Cluster) Programmed(ctx context.Context, revision uint64) error {
	revision, err := c.manager.Settle(ctx, revision)
	if err != nil {
		return fmt.Errorf("wait for the controllers: %w", err)
	}
	for _, k := range c.consumers {
		if err := k.progress.Wait(ctx, revision); err != nil {
			return fmt.Errorf("wait for %s: %w", k.name, err)
		}
	}
	for m, hearing := range c.connected() {
		if err := waitConnected(ctx, hearing, m.proxy.Progress(), revision); err != nil {
			return fmt.Errorf("wait for the ruleset of node %s: %w", m.Name, err)
		}
	}
	return nil
}

// waitConnected waits for a machine as long as it hears of what is written: one that lost its power or its way serves nobody.
func waitConnected(ctx context.Context, hearing *connection, p *store.Progress, revision uint64) error {
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(hearing.ctx, cancel)()
	err := p.Wait(either, revision)
	if ctx.Err() == nil && hearing.ctx.Err() != nil {
		return nil
	}
	return err
}
