package store

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
)

const (
	suffixLength = 5
	// maxGeneratedBase leaves room for the suffix in a name of 63 characters, as Kubernetes does.
	maxGeneratedBase = 63 - suffixLength
	// generateTries is how often a generated name that is taken is drawn again, as in Kubernetes.
	generateTries = 8
)

// errStale is Kubernetes' answer to a write that was based on an older version.
var errStale = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// Tx is one Update's view: the newest state and what the Update itself has written. It must not outlive the function. Its
// writes copy the object they are given and fill in, in the caller's, what the store decides (resourceVersion, uid, ...).
type Tx struct {
	state     *state
	cloned    map[*api.Kind]bool
	writes    []write
	now       func() time.Time
	meanwhile func() // or nil
}

// write is one write on its way to the disk.
type write struct {
	Event
	value []byte // as the file holds it; nil for Deleted
	size  int    // about what the event takes
}

func newTx(head *state, now func() time.Time) *Tx {
	return &Tx{state: head.next(), cloned: map[*api.Kind]bool{}, now: now}
}

// table returns a kind's table for writing.
func (tx *Tx) table(k *api.Kind) *table {
	if !tx.cloned[k] {
		tx.state.tables[k] = tx.state.tables[k].clone()
		tx.cloned[k] = true
	}
	return tx.state.tables[k]
}

// Get returns one object, or Kubernetes' NotFound.
func (tx *Tx) Get(kind *api.Kind, namespace, name string) (api.Object, error) {
	return tx.state.get(kind, namespace, name)
}

// List selects objects, this Update's writes included.
func (tx *Tx) List(kind *api.Kind, q Query) []api.Object { return tx.state.tables[kind].list(q) }

// Revision is the revision of the last write, this Update's included.
func (tx *Tx) Revision() uint64 { return tx.state.revision }

// Meanwhile leaves fn to be called when the Update's function has succeeded, outside the store's lock, while somebody else
// writes the disk: for work on what was written that will be needed once it is durable. An Update that has to write the disk
// itself does not call it. fn must not tell anybody of the writes yet.
func (tx *Tx) Meanwhile(fn func()) { tx.meanwhile = fn }

// Create adds a copy of obj, having filled in obj's name (from generateName), uid, creationTimestamp, generation and
// resourceVersion. Errors: AlreadyExists; Invalid without a name.
func (tx *Tx) Create(obj api.Object) error {
	k := api.KindOf(obj)
	if err := tx.name(k, obj); err != nil {
		return err
	}
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.NewTime(tx.now().Truncate(time.Second)))
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetGeneration(0)
	if generational(k) {
		obj.SetGeneration(1)
	}
	if k.Born != nil {
		k.Born(obj)
	}
	return tx.write(Added, obj, nil)
}

// name sees to it that obj has a name that nobody else has.
func (tx *Tx) name(k *api.Kind, obj api.Object) error {
	base, tries := obj.GetGenerateName(), 1
	if obj.GetName() != "" {
		base = ""
	} else if base != "" {
		tries = generateTries
	} else {
		required := field.Required(field.NewPath("metadata", "name"), "name or generateName is required")
		return apierrors.NewInvalid(k.GroupVersionKind().GroupKind(), "", field.ErrorList{required})
	}
	for range tries {
		if base != "" {
			obj.SetName(base[:min(len(base), maxGeneratedBase)] + rand.String(suffixLength))
		}
		if _, exists := tx.state.tables[k].get(obj.GetNamespace(), obj.GetName()); !exists {
			return nil
		}
	}
	return apierrors.NewAlreadyExists(k.GroupResource(), obj.GetName())
}

// generational tells whether Kubernetes counts the changes of a kind's spec: of the core group, pods only.
func generational(k *api.Kind) bool {
	switch k.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		return true
	case schema.GroupKind{Group: "apps", Kind: "ControllerRevision"}:
		return false
	}
	switch k.Group {
	case "apps", "batch", "discovery.k8s.io", "networking.k8s.io", "policy", "scheduling.k8s.io":
		return true
	}
	return false
}

// Update replaces the stored object by a copy of obj, having filled in obj's uid, creationTimestamp, generation,
// resourceVersion and deletion marks. An obj with a resourceVersion must have the stored one's. An update that changes nothing
// writes nothing; one that takes the last finalizer off a deleted object removes it. Errors: NotFound, Conflict.
func (tx *Tx) Update(obj api.Object) error {
	k := api.KindOf(obj)
	old, err := tx.Get(k, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return err
	}
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {

		return conflict(k, obj.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID()))
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		return conflict(k, obj.GetName(), errStale)
	}
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetGeneration(old.GetGeneration())
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	if generational(k) && api.SpecChanged(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	if finished(obj) {
		last := api.Copy(obj)
		err := tx.write(Deleted, last, old)
		obj.SetResourceVersion(last.GetResourceVersion())
		return err
	}
	return tx.change(obj, old)
}

// change writes obj over old, if they differ.
func (tx *Tx) change(obj, old api.Object) error {
	if same(obj, old) {
		return nil
	}
	return tx.write(Modified, obj, old)
}

func conflict(k *api.Kind, name string, err error) error {
	return apierrors.NewConflict(k.GroupResource(), name, err)
}

// finished tells that nothing holds a deleted object back: no finalizer, and for a pod no grace.
func finished(obj api.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		return o.DeletionGracePeriodSeconds == nil || *o.DeletionGracePeriodSeconds == 0
	case *corev1.Namespace:
		return len(o.Spec.Finalizers) == 0
	}
	return true
}

// same tells that two objects would be stored as the same bytes.
func same(a, b api.Object) bool {
	if a.(protobuf).Size() != b.(protobuf).Size() {
		return false
	}
	x, errx := encode(a)
	y, erry := encode(b)
	return errx == nil && erry == nil && bytes.Equal(x, y)
}

// write numbers a write and files a copy of obj, made by way of the file's bytes so that readers see today what they would see
// after a restart; of Deleted, obj itself. On an error nothing is filed.
func (tx *Tx) write(t EventType, obj, old api.Object) error {
	k := api.KindOf(obj)
	before := obj.GetResourceVersion()
	obj.SetResourceVersion(strconv.FormatUint(tx.state.revision+1, 10))
	w := write{Event: Event{Type: t, Kind: k, Old: old, Revision: tx.state.revision + 1}}
	if t == Deleted {
		w.Object, w.size = obj, obj.(protobuf).Size()
		tx.table(k).remove(objectKey(obj))
	} else {
		var err error
		if w.value, err = encode(obj); err == nil {
			w.Object = k.New()
			err = w.Object.(protobuf).Unmarshal(w.value[sumSize:])
		}
		if err != nil {
			obj.SetResourceVersion(before)
			return err
		}
		w.size = len(w.value)
		tx.state.fields.share(w.Object)
		shareSpec(w.Object, old)
		tx.table(k).put(w.Object)
	}
	tx.state.revision++
	tx.writes = append(tx.writes, w)
	if k.Beside != nil {
		return tx.writeBeside(k, w)
	}
	return nil
}

// writeBeside creates what lives and dies with the object of a write and is not there yet, and removes what only its old state
// had.
func (tx *Tx) writeBeside(k *api.Kind, w write) error {
	var needed []api.Object
	if w.Type != Deleted {
		needed = k.Beside(w.Object)
	}
	if w.Old != nil {
		for _, gone := range k.Beside(w.Old) {
			if slices.ContainsFunc(needed, func(o api.Object) bool { return o.GetName() == gone.GetName() }) {
				continue
			}
			if old, err := tx.Get(api.KindOf(gone), gone.GetNamespace(), gone.GetName()); err == nil {
				if err := tx.write(Deleted, shallow(old), old); err != nil {
					return err
				}
			}
		}
	}
	for _, o := range needed {
		if _, err := tx.Get(api.KindOf(o), o.GetNamespace(), o.GetName()); err == nil {
			continue
		}
		if err := tx.Create(o); err != nil {
			return err
		}
	}
	return nil
}

// shallow copies an object's own fields and shares what they point to.
func shallow(obj api.Object) api.Object {
	from := reflect.ValueOf(obj).Elem()
	to := reflect.New(from.Type())
	to.Elem().Set(from)
	return to.Interface().(api.Object)
}
