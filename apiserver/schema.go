package apiserver

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"kubarium.dev/api"
)

// schemas makes OpenAPI schemas out of the Go types, on first use. Its zero value is ready.
type schemas struct {
	once  sync.Once
	built managedfields.TypeConverter
	err   error
}

const refPrefix = "#/components/schemas/"

// converter tells field managers the shape of every kind; it is made once.
func (s *schemas) converter() (managedfields.TypeConverter, error) {
	s.once.Do(func() {
		b := newSchemaBuilder()
		for _, k := range api.Kinds {
			b.addKind(k)
		}
		s.built, s.err = managedfields.NewTypeConverter(b.done, false)
	})
	return s.built, s.err
}

// schemaBuilder gathers the schemas of types and of all they are made of.
type schemaBuilder struct{ done map[string]*spec.Schema }

func newSchemaBuilder() *schemaBuilder { return &schemaBuilder{done: map[string]*spec.Schema{}} }

func (b *schemaBuilder) addKind(k *api.Kind) {
	t := reflect.TypeOf(k.New()).Elem()
	name := b.add(t)
	b.done[name].AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind}})
	if k.HasScale {
		b.add(reflect.TypeFor[autoscalingv1.Scale]())
	}
}

// documented is what Kubernetes' generated types know of themselves.
type documented interface{ SwaggerDoc() map[string]string }

// modelName is the name of a type in Kubernetes' OpenAPI documents: "io.k8s.api.core.v1.Pod".
func modelName(t reflect.Type) string {
	if named, ok := reflect.Zero(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	return strings.ReplaceAll(t.PkgPath(), "/", ".") + "." + t.Name()
}

// add makes the schema of a struct and returns its name.
func (b *schemaBuilder) add(t reflect.Type) string {
	name := modelName(t)
	if b.done[name] != nil {
		return name
	}
	schema := &spec.Schema{}
	b.done[name] = schema
	docs := map[string]string{}
	if d, ok := reflect.Zero(t).Interface().(documented); ok {
		docs = d.SwaggerDoc()
	}
	schema.Description = docs[""]
	if opaque(t, schema) {
		return name
	}
	schema.Type = spec.StringOrArray{"object"}
	schema.Properties = map[string]spec.Schema{}
	b.fields(t, schema, docs)
	if atomicStructs[name] {
		schema.AddExtension("x-kubernetes-map-type", "atomic")
	}
	return name
}

// opaque fills in the schema of a type that is not encoded field by field, and tells whether t is one.
func opaque(t reflect.Type, schema *spec.Schema) bool {
	switch zero := reflect.Zero(t).Interface().(type) {
	case interface{ OpenAPIV3OneOfTypes() []string }:
		for _, kind := range zero.OpenAPIV3OneOfTypes() {
			schema.OneOf = append(schema.OneOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{kind}}})
		}
		if f, ok := zero.(interface{ OpenAPISchemaFormat() string }); ok {
			schema.Format = f.OpenAPISchemaFormat()
		}
	case interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}:
		schema.Type, schema.Format = zero.OpenAPISchemaType(), zero.OpenAPISchemaFormat()
	case metav1.FieldsV1, runtime.RawExtension:
		schema.Type = spec.StringOrArray{"object"}
	default:
		return false
	}
	return true
}

// fields adds a struct's fields to its schema; those of embedded structs are its own.
func (b *schemaBuilder) fields(t reflect.Type, schema *spec.Schema, docs map[string]string) {
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			if f.Type.Kind() == reflect.Struct {
				inner := docs
				if d, ok := reflect.Zero(f.Type).Interface().(documented); ok {
					inner = d.SwaggerDoc()
				}
				b.fields(f.Type, schema, inner)
			}
			continue
		}
		property := b.schemaOf(f.Type)
		property.Description = docs[name]
		annotate(&property, modelName(t)+"."+name, f.Tag)
		schema.Properties[name] = property
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			schema.Required = append(schema.Required, name)
		}
	}
}

// annotate says how a field's list or map is merged: by what the table knows of it, or by its strategic merge tags.
func annotate(property *spec.Schema, path string, tag reflect.StructTag) {
	strategy, key := tag.Get("patchStrategy"), tag.Get("patchMergeKey")
	if strategy != "" {
		property.AddExtension("x-kubernetes-patch-strategy", strategy)
	}
	if key != "" {
		property.AddExtension("x-kubernetes-patch-merge-key", key)
	}
	if value, ok := keyDefaults[path]; ok {
		property.Default = value
	}
	isList := len(property.Type) > 0 && property.Type[0] == "array"
	known, ok := merging[path]
	switch {
	case ok && known.keys != nil:
		setListMap(property, known.keys)
	case ok && isList:
		property.AddExtension("x-kubernetes-list-type", known.how)
	case ok:
		property.AddExtension("x-kubernetes-map-type", known.how)
	case !isList:
	case strings.HasPrefix(strategy, "merge") && key != "":
		setListMap(property, []any{key})
	case strings.HasPrefix(strategy, "merge"):
		property.AddExtension("x-kubernetes-list-type", "set")
	default:
		property.AddExtension("x-kubernetes-list-type", "atomic")
	}
}

func setListMap(property *spec.Schema, keys []any) {
	property.AddExtension("x-kubernetes-list-type", "map")
	property.AddExtension("x-kubernetes-list-map-keys", keys)
}

// schemaOf is the schema of a field's type; structs are referred to by name.
func (b *schemaBuilder) schemaOf(t reflect.Type) spec.Schema {
	props := func(kind, format string) spec.Schema {
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{kind}, Format: format}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.schemaOf(t.Elem())
	case reflect.Struct:
		ref := spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(refPrefix + b.add(t))}}
		return spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{ref}}}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return props("string", "byte")
		}
		item := b.schemaOf(t.Elem())
		s := props("array", "")
		s.Items = &spec.SchemaOrArray{Schema: &item}
		return s
	case reflect.Map:
		element := b.schemaOf(t.Elem())
		s := props("object", "")
		s.AdditionalProperties = &spec.SchemaOrBool{Allows: true, Schema: &element}
		return s
	case reflect.String:
		return props("string", "")
	case reflect.Bool:
		return props("boolean", "")
	case reflect.Int32:
		return props("integer", "int32")
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return props("integer", "int64")
	case reflect.Float32, reflect.Float64:
		return props("number", "double")
	}
	panic(fmt.Sprintf("apiserver: no schema for a field of type %s", t))
}
