package store

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
)

// Follow is how a role keeps up with some kinds: a list, then every change. The first batch of the Watcher is Fresh: it holds
// everything that exists, as Added events, in the order of kinds. After it each object's events follow in order, none of them
// twice. When events were lost, because the follower fell too far behind, the next batch is Fresh again instead of an error.
//
//	f := store.Follow(reader, api.Services, api.Nodes)
//	defer f.Close()
//	for {
//		b, err := f.Next(ctx)
//		if err != nil {
//			return err // ctx's, or the reader's
//		}
//		if b.Fresh {
//			model = newModel() // forget what was before
//		}
//		model.take(b.Events)
//		progress.Reach(b.Revision)
//	}
//
// Nothing is read before the first Next. A Next whose context ended can be called again, and nothing is lost. Next and Close are
// for one goroutine.
func Follow(r Reader, kinds ...*api.Kind) Watcher { return &follower{reader: r, kinds: kinds} }

type follower struct {
	reader Reader
	kinds  []*api.Kind
	watch  Watcher              // nil before the list
	listed map[*api.Kind]uint64 // the revision of each kind's list
}

// Close implements Watcher.
func (f *follower) Close() {
	if f.watch != nil {
		f.watch.Close()
		f.watch = nil
	}
}

// Next implements Watcher.
func (f *follower) Next(ctx context.Context) (Batch, error) {
	for {
		b, err := f.next(ctx)
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			return b, err
		}
		f.Close()
		if ctx.Err() != nil {
			return Batch{}, ctx.Err()
		}
	}
}

func (f *follower) next(ctx context.Context) (Batch, error) {
	if f.watch == nil {
		return f.begin(ctx)
	}
	b, err := f.watch.Next(ctx)
	b.Events = slices.DeleteFunc(b.Events, func(e Event) bool { return e.Revision <= f.listed[e.Kind] })
	return b, err
}

// begin lists every kind, and watches from the oldest of the lists.
func (f *follower) begin(ctx context.Context) (Batch, error) {
	all := Batch{Fresh: true}
	f.listed = map[*api.Kind]uint64{}
	for i, kind := range f.kinds {
		l, err := f.reader.List(ctx, kind, Query{})
		if err != nil {
			return Batch{}, err
		}
		for _, obj := range l.Items {
			all.Events = append(all.Events, Event{Type: Added, Kind: kind, Object: obj, Revision: l.Revision})
		}
		if f.listed[kind] = l.Revision; i == 0 || l.Revision < all.Revision {
			all.Revision = l.Revision
		}
	}
	w, err := f.reader.Watch(ctx, all.Revision, f.kinds...)
	if err != nil {
		return Batch{}, err
	}
	f.watch = w
	return all, nil
}
