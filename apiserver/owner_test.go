package apiserver

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kubarium.dev/api"
)

// scrawl fills v at random: few fields and fewer values, so that many objects have one shape.
func scrawl(r *rand.Rand, v reflect.Value, depth int) {
	if depth > 9 || r.IntN(3) == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		scrawl(r, v.Elem(), depth+1)
	case reflect.Struct:
		if v.Type() == rawType {
			v.Set(reflect.ValueOf(runtime.RawExtension{Raw: fmt.Appendf(nil, `{"k%d":{}}`, r.IntN(3))}))
			return
		}
		if v.NumField() == 0 || v.Type() == metaType || reflect.PointerTo(v.Type()).Implements(marshalerType) {
			return
		}
		for range 2 {
			if f := v.Field(r.IntN(v.NumField())); f.CanSet() {
				scrawl(r, f, depth+1)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 2))
		for i := range v.Len() {
			scrawl(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			value := reflect.New(v.Type().Elem()).Elem()
			scrawl(r, value, depth+1)
			v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("k%d", r.IntN(2))).Convert(v.Type().Key()), value)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("v%d", r.IntN(3)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(r.Int64N(120))
	}
}

// the fields that a new object's writer owns follow from its shape: computed for each of many random objects of every kind by
// Kubernetes' own library, they are the same for all of one shape.
func TestObjectsOfOneShapeHaveTheSameFields(t *testing.T) {
	t.Parallel()
	f := newFieldManagers(newWire().scheme, &schemas{})
	c := &call{r: httptest.NewRequest(http.MethodPost, "/", http.NoBody)}
	r := rand.New(rand.NewPCG(1, 2))
	again := 0
	for _, k := range api.Kinds {
		c.kind = k
		known := map[string]string{}
		for range 1500 {
			obj := k.New()
			scrawl(r, reflect.ValueOf(obj).Elem(), 0)
			obj.SetManagedFields(nil)
			obj.SetName(fmt.Sprint(r.Uint32())) // a name makes no shape
			shape := string(shapeOf(k, obj))
			if err := f.bornAnew(c, obj); err != nil {
				t.Fatal(err)
			}
			fields := owned(obj.GetManagedFields())
			was, seen := known[shape]
			if seen && was != fields {
				t.Fatalf("%s of one shape:\n%s\n%s\n%s", k, shape, was, fields)
			}
			if seen {
				again++
			}
			known[shape] = fields
		}
	}
	if again < 1000 {
		t.Errorf("only %d objects had the shape of another: nothing is proven", again)
	}
}

func owned(entries []metav1.ManagedFieldsEntry) string {
	text := ""
	for _, e := range entries {
		text += string(e.FieldsV1.Raw)
	}
	return text
}
