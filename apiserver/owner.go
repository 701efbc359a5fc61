package apiserver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"kubarium.dev/api"
)

// maxShapes bounds how many shapes of new objects are known. At a KiB each that is 1 MiB; what does not fit is computed anew.
const maxShapes = 1024

// ownedShapes knows which fields the writer of a new object owns, by the object's shape: to compute them takes 30 to 60 µs, to look
// at the shape a few. Its zero value is ready.
type ownedShapes struct {
	mu    sync.Mutex // guards known
	known map[string]*metav1.FieldsV1
}

func (o *ownedShapes) get(shape []byte) *metav1.FieldsV1 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.known[string(shape)]
}

func (o *ownedShapes) put(shape []byte, fields *metav1.FieldsV1) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || len(o.known) >= maxShapes {
		o.known = map[string]*metav1.FieldsV1{}
	}
	o.known[string(shape)] = fields
}

// born records that the writer of a new object, its defaults filled in, owns what it says. An apply that creates has recorded
// its own.
func (f *fieldManagers) born(c *call, obj api.Object) error {
	if c.applying {
		return nil
	}
	if obj.GetManagedFields() != nil { // the client has something to say about it
		return f.bornAnew(c, obj)
	}
	shape := shapeOf(c.kind, obj)
	fields := f.shapes.get(shape)
	if fields == nil {
		if err := f.bornAnew(c, obj); err != nil || len(obj.GetManagedFields()) != 1 {
			return err
		}
		f.shapes.put(shape, obj.GetManagedFields()[0].FieldsV1)
		return nil
	}
	now := metav1.Now().Rfc3339Copy()
	obj.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: c.manager(), Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: c.kind.GroupVersion().String(), Time: &now,
		FieldsType: "FieldsV1", FieldsV1: fields,
	}})
	return nil
}

// bornAnew computes the owned fields of a new object.
func (f *fieldManagers) bornAnew(c *call, obj api.Object) error {
	manager, err := f.of(c.kind, "")
	if err != nil {
		return err
	}
	said := api.Copy(obj)
	said.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind())
	obj.SetManagedFields(ownersOf(manager, typed(c.kind, c.kind.New()), said, c.manager()))
	return nil
}

// track records the owner of the fields that an ordinary write changes. An object that the cluster itself made has no owners, and
// gets them with its first apply; Kubernetes treats one so that was made before there was such a record.
func (f *fieldManagers) track(c *call, now, next api.Object) error {
	if c.applying {
		return nil
	}
	if len(now.GetManagedFields()) == 0 && len(next.GetManagedFields()) == 0 {
		next.SetManagedFields(nil)
		return nil
	}
	manager, err := f.of(c.kind, cmp.Or(c.recorded, c.sub))
	if err != nil {
		return err
	}
	next.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind())
	defer clearType(next)
	next.SetManagedFields(ownersOf(manager, typed(c.kind, now), next, c.manager()))
	return nil
}

// ownersOf is who owns what when writer replaces now by next. Objects that have no field sets (an element of a list without its key;
// in protobuf, a value that JSON cannot say, at which the library panics) leave the record as it was: whether they are any good is
// for validation to say.
func ownersOf(manager *managedfields.FieldManager, now, next runtime.Object, writer string) (owners []metav1.ManagedFieldsEntry) {
	before := now.(metav1.Object).GetManagedFields()
	defer func() {
		if recover() != nil {
			owners = before
		}
	}()
	found, err := manager.Update(now, next, writer)
	if err != nil {
		return before
	}
	return found.(metav1.Object).GetManagedFields()
}

// shapeOf says of an object what decides which fields it has: two objects of one shape have the same, whatever their values. It is
// finer than need be, as it knows no schema: of the elements of a list it holds the values as well, since some of them are keys.
func shapeOf(kind *api.Kind, obj api.Object) []byte {
	var out bytes.Buffer
	out.WriteString(kind.Kind)
	writeShape(&out, reflect.ValueOf(obj).Elem(), false)
	return out.Bytes()
}

// unowned are the fields of metadata that nobody owns.
var unowned = map[string]bool{
	"Name": true, "Namespace": true, "UID": true, "ResourceVersion": true, "Generation": true, "CreationTimestamp": true,
	"SelfLink": true, "ManagedFields": true,
}

var (
	metaType      = reflect.TypeFor[metav1.ObjectMeta]()
	rawType       = reflect.TypeFor[runtime.RawExtension]()
	marshalerType = reflect.TypeFor[json.Marshaler]()
)

func writeShape(out *bytes.Buffer, v reflect.Value, values bool) {
	if v.IsZero() {
		out.WriteByte('0')
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		out.WriteByte('*')
		writeShape(out, v.Elem(), values)
	case reflect.Struct:
		writeStructShape(out, v, values)
	case reflect.Map:
		writeMapShape(out, v)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			out.WriteByte('1')
			break
		}
		out.WriteByte('[')
		for i := range v.Len() {
			writeShape(out, v.Index(i), true)
			out.WriteByte(',')
		}
		out.WriteByte(']')
	default:
		writeScalarShape(out, v, values)
	}
}

func writeStructShape(out *bytes.Buffer, v reflect.Value, values bool) {
	switch t := v.Type(); {
	case t == rawType: // any JSON at all
		raw := v.Interface().(runtime.RawExtension)
		out.WriteString(strconv.Quote(string(raw.Raw)))
		return
	case t.Implements(marshalerType) || reflect.PointerTo(t).Implements(marshalerType):
		out.WriteByte('1') // one value in JSON
		return
	}
	out.WriteByte('{')
	for i := range v.NumField() {
		if v.Type() == metaType && unowned[metaType.Field(i).Name] {
			continue
		}
		writeShape(out, v.Field(i), values)
	}
	out.WriteByte('}')
}

func writeMapShape(out *bytes.Buffer, v reflect.Value) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	out.WriteByte('<')
	for _, key := range keys {
		out.WriteString(strconv.Quote(key.String()))
		writeShape(out, v.MapIndex(key), false)
	}
	out.WriteByte('>')
}

func writeScalarShape(out *bytes.Buffer, v reflect.Value, values bool) {
	switch {
	case !values:
		out.WriteByte('1')
	case v.Kind() == reflect.String:
		out.WriteString(strconv.Quote(v.String()))
	case v.CanInt():
		out.WriteString(strconv.FormatInt(v.Int(), 10) + ";")
	case v.Kind() == reflect.Bool:
		out.WriteString(strconv.FormatBool(v.Bool()))
	default:
		out.WriteByte('1')
	}
}
