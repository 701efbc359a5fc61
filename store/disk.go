package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"kubarium.dev/api"
)

const (
	// lockTimeout is how long Open waits for another process to let go of the file: a live daemon never does.
	lockTimeout = 50 * time.Millisecond
	// format numbers the layout of the file; a program refuses a file of a newer one.
	format = 1
	// sumSize is the length of the checksum before each object.
	sumSize = 4
)

// The file: one bucket a kind, from "namespace/name" to checksum and protobuf, and the bucket meta with three numbers.
var (
	metaBucket  = []byte("meta")
	formatKey   = []byte("format")
	revisionKey = []byte("revision") // of the last write
	objectsKey  = []byte("objects")  // how many there are: a lost page shows

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// disk is the store's file. Its methods are for one caller at a time.
type disk struct {
	db     *bbolt.DB
	broken error // set once nobody can tell what the file holds: no more writes
}

// openDisk opens or makes the file and reads all of it.
func openDisk(path string, noSync bool) (*disk, *state, error) {
	d, st := &disk{}, newState()
	err := guarded(func() (err error) {
		// The freelist is kept in the file (NoFreelistSync is off): opening needs no scan, and a torn file shows as an
		// error here instead of a panic in a goroutine of bbolt's.
		d.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockTimeout, NoSync: noSync, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
		})
		if err != nil {
			return openError(err)
		}
		return d.load(st)
	})
	if err == nil {
		return d, st, nil
	}
	if d.db != nil && !errors.Is(err, errFault) {
		err = errors.Join(err, d.db.Close())
	}
	return nil, nil, fmt.Errorf("open store %s: %w", path, err)
}

// openError tells apart why bbolt could not open a file.
func openError(err error) error {
	var path *os.PathError
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrInUse
	case errors.As(err, &path):
		return path.Err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// errFault marks an error that was a panic: bbolt's locks may be held, so its file cannot be closed.
var errFault = errors.New("cannot be read")

// guarded makes errors of the panics and memory faults that a torn file causes in bbolt.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %w: %v", ErrDamaged, errFault, r)
		}
	}()
	return fn()
}

// load reads every object into st, having made what a new file, or one of an older program, lacks.
func (d *disk) load(st *state) error {
	missing := true
	err := d.db.View(func(tx *bbolt.Tx) error {
		if err := checkFormat(tx); err != nil {
			return err
		}
		missing = tx.Bucket(metaBucket) == nil
		for _, k := range api.Kinds {
			missing = missing || tx.Bucket([]byte(k.String())) == nil
		}
		return nil
	})
	if err == nil && missing {
		err = d.db.Update(makeBuckets)
	}
	if err != nil {
		return err
	}
	return d.db.View(func(tx *bbolt.Tx) error { return loadAll(tx, st) })
}

func checkFormat(tx *bbolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		if name, _ := tx.Cursor().First(); name != nil {
			return fmt.Errorf("%w: it holds %q", ErrDamaged, name)
		}
		return nil
	}
	if f := number(meta, formatKey); f != format {
		return fmt.Errorf("it has format %d, this program reads format %d", f, format)
	}
	return nil
}

func makeBuckets(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	for _, k := range api.Kinds {
		if _, err := tx.CreateBucketIfNotExists([]byte(k.String())); err != nil {
			return err
		}
	}
	return meta.Put(formatKey, binary.BigEndian.AppendUint64(nil, format))
}

func loadAll(tx *bbolt.Tx, st *state) error {
	meta := tx.Bucket(metaBucket)
	st.revision = number(meta, revisionKey)
	for _, k := range api.Kinds {
		if err := loadKind(tx.Bucket([]byte(k.String())), k, st.tables[k]); err != nil {
			return err
		}
	}
	if got, want := st.size(), number(meta, objectsKey); got != want {
		return fmt.Errorf("%w: %d objects of %d", ErrDamaged, got, want)
	}
	return nil
}

func loadKind(b *bbolt.Bucket, k *api.Kind, t *table) error {
	return b.ForEach(func(key, value []byte) error {
		obj := k.New()
		if err := decode(obj, key, value); err != nil {
			return fmt.Errorf("%w: %s %s: %w", ErrDamaged, k, key, err)
		}
		t.put(k, obj)
		return nil
	})
}

// number reads one of meta's numbers; 0 if it is not there.
func number(meta *bbolt.Bucket, key []byte) uint64 {
	raw := meta.Get(key)
	if len(raw) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(raw)
}

// persist writes a group in one commit. durable is the revision of the last group that was written.
func (d *disk) persist(g *group, durable uint64) error {
	if d.broken != nil {
		return fmt.Errorf("no more writes until the cluster is started again: %w", d.broken)
	}
	err := d.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range g.writes {
			if err := w.persist(tx); err != nil {
				return err
			}
		}
		meta := tx.Bucket(metaBucket)
		if err := meta.Put(objectsKey, binary.BigEndian.AppendUint64(nil, g.state.size())); err != nil {
			return err
		}
		return meta.Put(revisionKey, binary.BigEndian.AppendUint64(nil, g.state.revision))
	})
	if err != nil {
		d.doubt(err, durable)
	}
	return err
}

// doubt looks at the file after a failed commit. As a rule the commit failed before its last page, and the file is as it was:
// a full disk can be emptied and the store goes on. When that page was written but not synced, nobody can tell what a crash
// would leave; then the file is written no more, so that what was acknowledged stays.
func (d *disk) doubt(cause error, durable uint64) {
	err := d.db.View(func(tx *bbolt.Tx) error {
		if at := number(tx.Bucket(metaBucket), revisionKey); at != durable {
			return fmt.Errorf("the file is at revision %d, acknowledged is %d: %w", at, durable, cause)
		}
		return nil
	})
	d.broken = err
}

func (w write) persist(tx *bbolt.Tx) error {
	b, key := tx.Bucket([]byte(w.Kind.String())), []byte(objectKey(w.Object))
	if w.Type == Deleted {
		return b.Delete(key)
	}
	return b.Put(key, w.value)
}

// protobuf is what every k8s.io/api type has.
type protobuf interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// encode is an object as the file holds it: a checksum of its key and protobuf, then the protobuf.
func encode(obj api.Object) ([]byte, error) {
	p := obj.(protobuf)
	value := make([]byte, sumSize+p.Size())
	n, err := p.MarshalToSizedBuffer(value[sumSize:])
	if err == nil && n != len(value)-sumSize {
		err = fmt.Errorf("%d bytes instead of %d", n, len(value)-sumSize)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", api.KindOf(obj), api.Name(obj), err)
	}
	binary.BigEndian.PutUint32(value, sum([]byte(objectKey(obj)), value[sumSize:]))
	return value, nil
}

func decode(obj api.Object, key, value []byte) error {
	if len(value) < sumSize || binary.BigEndian.Uint32(value) != sum(key, value[sumSize:]) {
		return errors.New("the checksum does not match")
	}
	return obj.(protobuf).Unmarshal(value[sumSize:])
}

func sum(key, raw []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, raw)
}
