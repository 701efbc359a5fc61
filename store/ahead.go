package store

import (
	"context"

	"kubarium.dev/api"
)

// Ahead is the store as its writers see it: with writes that are not durable yet. It is for roles whose effects (rules, records,
// routes) end with the process, and for who answers with writes, which cannot become durable before those they answer: the disk is
// then not on the way from a write to its effect. Nobody outside may be told of what is read here.
//
// When the disk fails, what is not durable is undone: watchers get a Gone error, as if they had fallen behind, and list again.
// Revisions that were undone do not come again while the process lives.
func (s *Store) Ahead() Ahead { return Ahead{s} }

// Ahead reads the newest writes; see Store.Ahead.
type Ahead struct{ store *Store }

// Update is Store.Update for a role that goes on before its writes are durable: it returns when fn has run. fn's own error is returned
// at once; durable waits for the disk, and fails as Store.Update does.
func (a Ahead) Update(ctx context.Context, fn func(*Tx) error) (durable func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := a.store.run(fn)
	if out.leads {
		go a.store.lead(out.group)
	}
	return out.durable, out.err
}

// Revision is that of the newest write, durable or not.
func (a Ahead) Revision() uint64 { return a.store.head.Load().revision }

// List implements Reader. It never fails.
func (a Ahead) List(_ context.Context, kind *api.Kind, q Query) (List, error) {
	return a.store.head.Load().list(kind, q), nil
}

// Watch implements Reader.
func (a Ahead) Watch(_ context.Context, from uint64, kinds ...*api.Kind) (Watcher, error) {
	return a.store.ahead.watch(from, kinds)
}
