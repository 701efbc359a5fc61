package api

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Problem is a kind of mistake in a manifest's field.
type Problem string

// The mistakes UnknownFields finds.
const (
	UnknownField   Problem = "unknown field"
	DuplicateField Problem = "duplicate field"
	WrongType      Problem = "wrong type"
)

// FieldError is one mistake in one field of a manifest.
type FieldError struct {
	File       string
	Line       int
	Path       string // "spec.ports[0].prot"
	Problem    Problem
	Detail     string // of a wrong type: `expected an integer, found the string "eighty"`
	Suggestion string // what was perhaps meant; "" when nothing is near
}

// Error is one line: `svc.yaml:7: unknown field "spec.selectr" (did you mean "selector"?)`.
func (e FieldError) Error() string { return where(e.File, e.Line) + ": " + e.message() }

func (e FieldError) message() string {
	s := fmt.Sprintf("%s %q", e.Problem, e.Path)
	if e.Problem == WrongType {
		s = e.Path
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Suggestion != "" {
		s += " (" + e.Suggestion + ")"
	}
	return s
}

// UnknownFields compares the manifest with its Go type and returns every field the type does not have, every field written
// twice and every value of the wrong type, in the order of the file. It returns nothing for a kind that is not served.
func (m Manifest) UnknownFields() []FieldError {
	kind, ok := KindFor(m.GVK)
	if !ok || m.node == nil {
		return nil
	}
	c := checker{m: m, root: reflect.TypeOf(kind.New()).Elem(), homes: map[string]string{}}
	c.check(m.node, c.root, "", 0)
	return c.errs
}

type checker struct {
	m     Manifest
	root  reflect.Type
	errs  []FieldError
	homes map[string]string // what homeOf said of each name
	nodes int
}

func (c *checker) add(at *yaml.Node, e FieldError) {
	e.File, e.Line = c.m.File, at.Line
	c.errs = append(c.errs, e)
}

// Types that read themselves from JSON.
var (
	intOrString = reflect.TypeFor[intstr.IntOrString]()
	quantities  = reflect.TypeFor[resource.Quantity]()
	times       = []reflect.Type{reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]()}
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
	byteSlice   = reflect.TypeFor[[]byte]()
)

func (c *checker) check(node *yaml.Node, t reflect.Type, path string, depth int) {
	if c.nodes++; c.nodes > maxNodes || depth > maxDepth {
		return // ReadManifests has refused such a document
	}
	node = resolveAlias(node)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" || t.Kind() == reflect.Interface {
		return
	}
	if c.checkSpecial(node, t, path) {
		return
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		if node.Kind != yaml.MappingNode {
			c.wrong(node, path, "an object")
			return
		}
		c.checkMapping(node, t, path, depth)
	case reflect.Slice:
		if t == byteSlice {
			c.checkScalar(node, reflect.TypeFor[string](), path)
			return
		}
		if node.Kind != yaml.SequenceNode {
			c.wrong(node, path, "a list")
			return
		}
		for i, item := range node.Content {
			c.check(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	default:
		c.checkScalar(node, t, path)
	}
}

// checkSpecial handles types with a reading of their own, and tells whether t is one.
func (c *checker) checkSpecial(node *yaml.Node, t reflect.Type, path string) bool {
	switch {
	case t == intOrString:
		if v, ok := scalarOf(node); !ok || !isInteger(v) && !isString(v) {
			c.wrong(node, path, "an integer or a string")
		}
	case t == quantities:
		v, ok := scalarOf(node)
		if !ok || !isNumber(v) && !isString(v) {
			c.wrong(node, path, "a quantity such as 100m or 64Mi")
		} else if _, err := resource.ParseQuantity(node.Value); err != nil {
			c.wrong(node, path, "a quantity such as 100m or 64Mi")
		}
	case slices.Contains(times, t):
		if v, ok := scalarOf(node); !ok || !isString(v) {
			c.wrong(node, path, "a time such as 2026-01-02T15:04:05Z")
		}
	default:
		return reflect.PointerTo(t).Implements(unmarshaler)
	}
	return true
}

func (c *checker) checkMapping(node *yaml.Node, t reflect.Type, path string, depth int) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if isMerge(key) {
			continue
		}
		name, ok := keyName(key)
		if !ok {
			continue
		}
		at := name
		switch {
		case t.Kind() == reflect.Map:
			at = path + "[" + name + "]"
		case path != "":
			at = path + "." + name
		}
		if seen[name] {
			c.add(key, FieldError{Path: at, Problem: DuplicateField})
		}
		seen[name] = true
		if t.Kind() == reflect.Map {
			c.check(value, t.Elem(), at, depth+1)
			continue
		}
		if f, ok := jsonFields(t)[name]; ok {
			c.check(value, f, at, depth+1)
			continue
		}
		c.add(key, FieldError{Path: at, Problem: UnknownField, Suggestion: c.suggest(t, name)})
	}
}

func (c *checker) checkScalar(node *yaml.Node, t reflect.Type, path string) {
	v, ok := scalarOf(node)
	want, fits := "", false
	switch t.Kind() {
	case reflect.String:
		want, fits = "a string", isString(v)
	case reflect.Bool:
		_, isBool := v.(bool)
		want, fits = "true or false", isBool
	case reflect.Float32, reflect.Float64:
		want, fits = "a number", isNumber(v)
	default:
		want, fits = "an integer", isInteger(v) && !overflows(v, t)
	}
	if !ok || !fits {
		c.wrong(node, path, want)
	}
}

// wrong reports a value of the wrong type, and the usual cause: quotes that are missing, or too many.
func (c *checker) wrong(node *yaml.Node, path, want string) {
	e := FieldError{Path: path, Problem: WrongType, Detail: fmt.Sprintf("expected %s, found %s", want, describe(node))}
	_, isScalar := scalarOf(node)
	switch {
	case want == "a string" && isScalar && node.Style == 0:
		e.Suggestion = fmt.Sprintf("quote it: %q", node.Value)
	case (want == "an integer" || want == "true or false") && isScalar && node.Style != 0:
		if v, err := scalar(&yaml.Node{Kind: yaml.ScalarNode, Value: node.Value}); err == nil && !isString(v) && v != nil {
			e.Suggestion = "without the quotes: " + node.Value
		}
	}
	c.add(node, e)
}

func scalarOf(node *yaml.Node) (any, bool) {
	if node.Kind != yaml.ScalarNode {
		return nil, false
	}
	v, err := scalar(node)
	return v, err == nil
}

func isString(v any) bool { _, ok := v.(string); return ok }

func isInteger(v any) bool {
	switch n := v.(type) {
	case int, int64, uint64:
		return true
	case float64:
		return n == math.Trunc(n) && math.Abs(n) < 1<<53
	}
	return false
}

func isNumber(v any) bool { _, ok := v.(float64); return ok || isInteger(v) }

func overflows(v any, t reflect.Type) bool {
	n := reflect.ValueOf(v)
	target := reflect.New(t).Elem()
	switch {
	case n.CanInt() && target.CanInt():
		return target.OverflowInt(n.Int())
	case n.CanInt() && target.CanUint():
		return n.Int() < 0 || target.OverflowUint(uint64(n.Int()))
	case n.CanUint() && target.CanInt():
		return n.Uint() > math.MaxInt64 || target.OverflowInt(int64(n.Uint()))
	case n.CanFloat() && target.CanInt():
		return target.OverflowInt(int64(n.Float()))
	}
	return false
}

// fieldsByType remembers jsonFields: map[reflect.Type]map[string]reflect.Type.
var fieldsByType sync.Map

// jsonFields lists a struct's fields by their JSON names, those of embedded structs included. The map is shared: read only.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	if known, ok := fieldsByType.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	fields := map[string]reflect.Type{}
	defer fieldsByType.Store(t, fields)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if name == "" && (f.Anonymous || strings.Contains(options, "inline")) && inner.Kind() == reflect.Struct {
			for n, ft := range jsonFields(inner) {
				fields[n] = ft
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	return fields
}
