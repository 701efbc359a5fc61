// Package store keeps the cluster's objects: durable in one bbolt file, whole in memory, every write numbered by a revision
// that only rises, every write watchable by revision without loss.
//
// Writes go through Update: its function runs alone, sees its own writes, and all of them become durable together or none does.
// Updates that wait at the same time share one commit of the disk. Readers (List, Watch, Get) see durable states only, take no
// lock that a writer holds across a commit, and get shared objects, which must not be changed.
package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
)

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("the store is closed")

const (
	// defaultHistory is how many events are held for watchers that resume: at a thousand writes a second, 16 seconds.
	defaultHistory = 16384
	// lockTimeout is how long Open waits for another process to let go of the file: a live daemon never does.
	lockTimeout = 100 * time.Millisecond
)

var (
	metaBucket  = []byte("meta")
	revisionKey = []byte("revision")
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
	db  *bbolt.DB
	o   Options
	log *ring

	// write serialises Updates' functions and guards head and queue.
	write  sync.Mutex
	head   *state     // newest state, not yet durable where queue is not empty
	queue  []*pending // Updates that wait for the disk, in order
	closed bool

	// commit is held by the one writer that is writing the disk.
	commit sync.Mutex

	mu     sync.RWMutex // guards shared
	shared *state       // newest durable state
}

// pending is one Update's outcome on its way to the disk.
type pending struct {
	state  *state
	events []Event
	err    error
	done   bool
}

// Open opens or makes a store file (mode 0600). Errors: the file is held by another process; the file is not a store.
func Open(path string, o Options) (*Store, error) {
	if o.History == 0 {
		o.History = defaultHistory
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, NoSync: o.NoSync, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: it is in use by another process", path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("open store: %w", err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w; the file is damaged or not a store", path, err)
	}
	s := &Store{db: db, o: o}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return s, nil
}

// load makes the buckets and reads every object.
func (s *Store) load() error {
	st := newState()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		if raw := meta.Get(revisionKey); raw != nil {
			st.revision = binary.BigEndian.Uint64(raw)
		}
		for _, k := range api.Kinds {
			b, err := tx.CreateBucketIfNotExists([]byte(k.String()))
			if err != nil {
				return err
			}
			if err := loadKind(b, k, st.tables[k]); err != nil {
				return err
			}
		}
		return nil
	})
	s.head, s.shared = st, st
	s.log = newRing(s.o.History, st.revision)
	return err
}

func loadKind(b *bbolt.Bucket, k *api.Kind, t *table) error {
	return b.ForEach(func(key, raw []byte) error {
		obj := k.New()
		if err := decode(obj, raw); err != nil {
			return fmt.Errorf("%s %s: %w", k, key, err)
		}
		t.put(k, obj)
		return nil
	})
}

// wire is what every k8s.io/api type has: protobuf.
type wire interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func encode(obj api.Object) ([]byte, error)  { return obj.(wire).Marshal() }
func decode(obj api.Object, raw []byte) error { return obj.(wire).Unmarshal(raw) }

// Close ends the store: watchers fail with ErrClosed, a running commit ends first.
func (s *Store) Close() error {
	s.write.Lock()
	s.closed = true
	s.write.Unlock()
	s.commit.Lock()
	defer s.commit.Unlock()
	s.log.close()
	return s.db.Close()
}

// Revision is the newest durable revision.
func (s *Store) Revision() uint64 { return s.now().revision }

func (s *Store) now() *state {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.shared
}

// Get returns one object. Errors: NotFound, as Kubernetes words it.
func (s *Store) Get(kind *api.Kind, namespace, name string) (api.Object, error) {
	obj, ok := s.now().tables[kind].get(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	return obj, nil
}

// List implements Reader. It never fails.
func (s *Store) List(_ context.Context, kind *api.Kind, q Query) (List, error) {
	st := s.now()
	return List{Items: st.tables[kind].list(q), Revision: st.revision}, nil
}

// Watch implements Reader.
func (s *Store) Watch(_ context.Context, from uint64, kinds ...*api.Kind) (Watcher, error) {
	return s.log.watch(from, kinds)
}

// Update runs fn alone and makes its writes durable, all or none. It returns the revision of the last write (the current
// revision if fn wrote nothing). fn must not block and must not keep tx. Errors: fn's own; ErrClosed; a failed disk, in which
// case nothing was written and the store goes on.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p, revision, err := s.run(fn)
	if err != nil || p == nil {
		return revision, err
	}
	return revision, s.settle(p)
}

// run executes fn on the newest state and queues what it wrote.
func (s *Store) run(fn func(*Tx) error) (*pending, uint64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return nil, 0, ErrClosed
	}
	tx := &Tx{state: s.head.next(), cloned: map[*api.Kind]bool{}, now: s.o.Now}
	if err := fn(tx); err != nil {
		return nil, 0, err
	}
	if len(tx.events) == 0 {
		// What fn saw may still be on its way to the disk: its answer must wait for it.
		if n := len(s.queue); n > 0 {
			return s.queue[n-1], s.head.revision, nil
		}
		return nil, s.head.revision, nil
	}
	p := &pending{state: tx.state, events: tx.events}
	s.head = tx.state
	s.queue = append(s.queue, p)
	return p, p.state.revision, nil
}

// settle returns when p is durable. Whoever gets the commit lock first writes the disk for all that queued meanwhile.
func (s *Store) settle(p *pending) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if p.done {
		return p.err
	}
	s.write.Lock()
	batch := s.queue
	s.queue = nil
	s.write.Unlock()
	// An Update that runs from here on builds on batch's states; were the batch to fail, it fails too (abandon).
	if err := s.persist(batch); err != nil {
		s.abandon(batch, fmt.Errorf("write the store: %w", err))
		return p.err
	}
	s.publish(batch)
	return p.err
}

func (s *Store) publish(batch []*pending) {
	s.mu.Lock()
	s.shared = batch[len(batch)-1].state
	s.mu.Unlock()
	for _, p := range batch {
		p.done = true
		s.log.append(p.events)
	}
	s.log.wake()
}

// abandon fails a batch and all that was built on it meanwhile, and goes back to the last durable state.
func (s *Store) abandon(batch []*pending, err error) {
	s.write.Lock()
	defer s.write.Unlock()
	batch = append(batch, s.queue...)
	s.queue = nil
	for _, p := range batch {
		p.done, p.err = true, err
	}
	s.head = s.now()
}

// persist writes a batch in one commit of the disk.
func (s *Store) persist(batch []*pending) error {
	if s.o.BeforeCommit != nil {
		if err := s.o.BeforeCommit(); err != nil {
			return err
		}
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, p := range batch {
			for _, e := range p.events {
				if err := persistEvent(tx, e); err != nil {
					return err
				}
			}
		}
		last := binary.BigEndian.AppendUint64(nil, batch[len(batch)-1].state.revision)
		return tx.Bucket(metaBucket).Put(revisionKey, last)
	})
}

func persistEvent(tx *bbolt.Tx, e Event) error {
	b, key := tx.Bucket([]byte(e.Kind.String())), []byte(objectKey(e.Object))
	if e.Type == Deleted {
		return b.Delete(key)
	}
	raw, err := encode(e.Object)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}
