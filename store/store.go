// Package store keeps the cluster's objects: durable in one bbolt file, whole in memory, every write numbered by a revision
// that only rises, every write watchable by revision without loss.
//
// Writes go through Update: its function runs alone, sees its own writes, and all of them become durable together or none does.
// Updates that wait at the same time share one commit of the disk. Readers (List, Watch, Get) see durable states only (but for
// those of Ahead), take no lock that a writer holds across a commit, and get shared objects, which must not be changed.
//
// The store knows no timer, and starts no goroutine but for Ahead's Updates: the first Update that waits for the disk commits for all
// that wait with it.
// It knows nothing of defaults, validation or who may write: that is the API server's.
package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
)

var (
	// ErrClosed is returned by Update, Watch and Watcher.Next after Close.
	ErrClosed = errors.New("the store is closed")
	// ErrInUse is returned by Open while another process has the file open.
	ErrInUse = errors.New("it is in use by another process")
	// ErrDamaged is returned by Open for a file that is torn, altered or not a store; nothing in it was changed.
	ErrDamaged = errors.New("the file is damaged or not a store")
)

// Options of a Store; the zero value is for production.
type Options struct {
	History int              // events held for watchers; 0 for 16384
	Now     func() time.Time // nil for time.Now
	NoSync  bool             // do not sync the disk: for tests and benchmarks of other things
	// BeforeCommit, if set, is called before each commit of the disk; an error fails the commit. For tests.
	BeforeCommit func() error
}

// Store is one open store file.
type Store struct {
	disk *disk
	o    Options
	log  *ring // what is durable

	// write serialises Updates' functions and guards the three below; it is held where head and ahead are written.
	write  sync.Mutex
	next   *group // collects Updates for the next commit; nil while there are none
	last   *group // the newest group of all: once it is done, head is durable
	closed bool

	// commit is held by the one Update that is writing the disk. It is taken before write, never while holding it.
	commit sync.Mutex

	durable atomic.Pointer[state] // newest durable state: what readers see
	head    atomic.Pointer[state] // newest state of all; its last writes may not be durable yet
	ahead   *ring                 // every write, durable or not yet
}

// Open opens or makes a store file (mode 0600). Errors: ErrInUse, ErrDamaged, os.ErrPermission and the file system's own.
func Open(path string, o Options) (*Store, error) {
	if o.History == 0 {
		o.History = defaultHistory
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d, st, err := openDisk(path, o.NoSync)
	if err != nil {
		return nil, err
	}
	s := &Store{disk: d, o: o, log: newRing(o.History, st.revision), ahead: newRing(o.History, st.revision)}
	s.durable.Store(st)
	s.head.Store(st)
	return s, nil
}

// Close ends the store: Updates under way are made durable first, then watchers fail with ErrClosed. What was read stays valid.
func (s *Store) Close() error {
	s.write.Lock()
	s.closed = true
	last := s.last
	s.write.Unlock()
	if last != nil {
		<-last.done
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	s.log.close()
	s.ahead.close()
	return s.disk.db.Close()
}

// Revision is the newest durable revision; 0 for a store nothing was ever written to.
func (s *Store) Revision() uint64 { return s.durable.Load().revision }

// Get returns one object. Errors: NotFound, as Kubernetes words it.
func (s *Store) Get(kind *api.Kind, namespace, name string) (api.Object, error) {
	return s.durable.Load().get(kind, namespace, name)
}

// List implements Reader. It never fails.
func (s *Store) List(_ context.Context, kind *api.Kind, q Query) (List, error) {
	return s.durable.Load().list(kind, q), nil
}

// Watch implements Reader.
func (s *Store) Watch(_ context.Context, from uint64, kinds ...*api.Kind) (Watcher, error) {
	return s.log.watch(from, kinds)
}

func (s *state) list(kind *api.Kind, q Query) List {
	return List{Items: s.tables[kind].list(q), Revision: s.revision}
}

func (s *state) get(kind *api.Kind, namespace, name string) (api.Object, error) {
	obj, ok := s.tables[kind].get(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	return obj, nil
}
