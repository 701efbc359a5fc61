// Package controller decides what should exist: the ReplicaSets of a Deployment, the pods of a ReplicaSet, the node of a pod, the
// EndpointSlices and Endpoints of a Service, the end of a namespace's contents and of objects whose owner is gone.
//
//	m := controller.New(controller.Config{Store: s, Log: log})
//	go m.Run(ctx)                            // or errgroup.Group.Go
//	reached, err := m.Settle(ctx, revision)  // all that follows from revision is written, up to reached
//
// All controllers work in one loop over the store's events. A batch of events is answered in one store.Update: a controller's
// write is handed to the others at once, inside the same transaction, until nothing is left to do. So one write of a
// Deployment brings its ReplicaSet, its pods, their nodes and the slices to the disk together, and a consumer never sees the
// half of it. Work that grows beyond a bound (turnWrites) is cut into several transactions, so that other writers get in.
//
// Each controller is change-driven: an event names the few objects it touches, through the store's indexes. The deciding
// halves are pure functions (planScale, place, planSlices, subsets) and have the table tests.
//
// It will not run pods (package node does), allocate Service addresses (package apiserver does, with the write).
package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Config is what a Manager works with.
type Config struct {
	Store *store.Store
	Log   *slog.Logger     // nil: silent
	Now   func() time.Time // nil for time.Now
	// ClusterDomain is the DNS domain of the cluster; no controller of today needs it.
	ClusterDomain string
	// NodeGrace is how long a node's lease may go without being renewed before the node counts as lost; 0 for 40 s. For how long pods
	// stay there goes with it (Toleration).
	NodeGrace time.Duration
	// LoadBalancers are the ranges that Services of type LoadBalancer get their addresses from, at most one address of each
	// family for each Service. Without any, such Services stay pending.
	LoadBalancers []netip.Prefix
	// RootCA is the certificate, in PEM, that pods are to trust: each namespace has it in the ConfigMap kube-root-ca.crt. "" for none.
	RootCA string
	// MountTokens gives every pod that a controller makes the volume with its ServiceAccount's token, as the API server's does.
	MountTokens bool
	// Admit says whether an object that a controller is about to create may be, as the API server does for its clients: by quotas and
	// limits. It writes nothing. nil for a cluster without bounds.
	Admit func(tx *store.Tx, obj api.Object) error
}

// Manager runs every controller.
type Manager struct {
	o        Config
	progress store.Progress // everything up to here is handled, its consequences included
	written  atomic.Uint64  // revision of the controllers' own last write
}

// retryAfter is how long the manager waits after the store failed (a full disk) before it begins anew.
const retryAfter = 500 * time.Millisecond

// New makes a Manager that does nothing until Run.
func New(o Config) *Manager {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Manager{o: o}
}

// Run is every controller's work; it blocks until ctx ends or the store closes, and then returns nil. When the store fails,
// or events were lost because the manager fell too far behind, it starts over from what the store holds.
func (m *Manager) Run(ctx context.Context) error {
	for {
		err := m.follow(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
			return nil
		}
		m.o.Log.Warn("controllers start over", "cause", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter):
		}
	}
}

// Settle returns once every controller has handled revision and all writes that the controllers themselves made in
// consequence; it returns the revision of the last of them (or revision, if they had nothing to write). Writes of others, such
// as a node's word on a pod, do not prolong it. It fails with ctx's error alone.
func (m *Manager) Settle(ctx context.Context, revision uint64) (uint64, error) {
	if err := m.progress.Wait(ctx, revision); err != nil {
		return 0, err
	}
	// A batch's consequences are written before progress reaches it, and they answer each other within the transaction: there
	// is nothing left to loop over.
	return max(revision, m.written.Load()), nil
}

// follow answers the store's events until something fails.
func (m *Manager) follow(ctx context.Context) error {
	e := newEngine(m.o)
	ahead := m.o.Store.Ahead() // what controllers write in reply cannot be durable before what they reply to
	seen := ahead.Revision()
	w, err := ahead.Watch(ctx, seen)
	if err != nil {
		return err
	}
	defer w.Close()
	events, err := e.everything(ctx)
	if err != nil {
		return err
	}
	polling, cancel := context.WithCancel(ctx)
	cancel() // a Next under it returns what there is and does not wait
	wake := newWake(m)
	defer wake.end()
	for {
		done, err := e.turn(ctx, events)
		if err != nil {
			return err
		}
		wait, settled := polling, uint64(0)
		if e.idle() {
			wait, settled = ctx, seen
		}
		if err := wake.add(done, settled); err != nil {
			return err
		}
		batch, err := e.next(wait, w)
		if err != nil {
			return err
		}
		events, seen = batch.Events, max(seen, batch.Revision)
	}
}
