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

// The file: one bucket a kind, from "namespace/name" to checksum and protobuf, and the bucket meta with one record.
var (
	metaBucket = []byte("meta")
	headKey    = []byte("head")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// head is the record in meta: a checksum and three numbers.
type head struct {
	format   uint64
	revision uint64 // of the last write
	objects  uint64 // how many there are: a lost page shows
}

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

// checkFormat refuses a file that is another program's, or a newer one's.
func checkFormat(tx *bbolt.Tx) error {
	if tx.Bucket(metaBucket) == nil {
		if name, _ := tx.Cursor().First(); name != nil {
			return fmt.Errorf("%w: it holds %q", ErrDamaged, name)
		}
		return nil
	}
	h, err := readHead(tx)
	if err == nil && h.format != format {
		err = fmt.Errorf("it has format %d, this program reads format %d", h.format, format)
	}
	return err
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, k := range api.Kinds {
		if _, err := tx.CreateBucketIfNotExists([]byte(k.String())); err != nil {
			return err
		}
	}
	if tx.Bucket(metaBucket) != nil {
		return nil
	}
	if _, err := tx.CreateBucket(metaBucket); err != nil {
		return err
	}
	return writeHead(tx, newState())
}

func loadAll(tx *bbolt.Tx, st *state) error {
	h, err := readHead(tx)
	if err != nil {
		return err
	}
	st.revision = h.revision
	for _, k := range api.Kinds {
		if err := loadKind(tx.Bucket([]byte(k.String())), k, st); err != nil {
			return err
		}
	}
	if got := st.size(); got != h.objects {
		return fmt.Errorf("%w: %d objects of %d", ErrDamaged, got, h.objects)
	}
	return nil
}

func loadKind(b *bbolt.Bucket, k *api.Kind, st *state) error {
	return b.ForEach(func(key, value []byte) error {
		obj := k.New()
		if err := decode(obj, key, value); err != nil {
			return fmt.Errorf("%w: %s %s: %w", ErrDamaged, k, key, err)
		}
		st.fields.share(obj)
		st.tables[k].put(obj)
		return nil
	})
}

func readHead(tx *bbolt.Tx) (head, error) {
	value := tx.Bucket(metaBucket).Get(headKey)
	if err := checkSum(headKey, value); err != nil || len(value) < sumSize+24 {
		return head{}, fmt.Errorf("%w: the head: %w", ErrDamaged, errSum)
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(value[sumSize+8*i:]) }
	return head{format: n(0), revision: n(1), objects: n(2)}, nil
}

func writeHead(tx *bbolt.Tx, st *state) error {
	value := make([]byte, sumSize, sumSize+24)
	for _, n := range []uint64{format, st.revision, st.size()} {
		value = binary.BigEndian.AppendUint64(value, n)
	}
	putSum(headKey, value)
	return tx.Bucket(metaBucket).Put(headKey, value)
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
		return writeHead(tx, g.state)
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
		h, err := readHead(tx)
		if err == nil && h.revision != durable {
			err = fmt.Errorf("the file is at revision %d, acknowledged is %d: %w", h.revision, durable, cause)
		}
		return err
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
	putSum([]byte(objectKey(obj)), value)
	return value, nil
}

func decode(obj api.Object, key, value []byte) error {
	if err := checkSum(key, value); err != nil {
		return err
	}
	return obj.(protobuf).Unmarshal(value[sumSize:])
}

var errSum = errors.New("the checksum does not match")

// putSum writes the checksum of a key and what follows the checksum in its value.
func putSum(key, value []byte) { binary.BigEndian.PutUint32(value, sum(key, value[sumSize:])) }

func checkSum(key, value []byte) error {
	if len(value) < sumSize || binary.BigEndian.Uint32(value) != sum(key, value[sumSize:]) {
		return errSum
	}
	return nil
}

func sum(key, raw []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, raw)
}
