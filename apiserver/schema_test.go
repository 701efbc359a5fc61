package apiserver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/api"
)

// marks are what the comments of a field or type say of how it is merged.
type marks struct {
	List, Map string
	Keys      []string
}

// sourceMarks reads the marks of all types of a package: "Type" for a struct's own, "Type.field" for a field's.
func sourceMarks(t *testing.T, pkg string) map[string]marks {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*types.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no types of %s: %v", pkg, err)
	}
	found := map[string]marks{}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if g, ok := decl.(*ast.GenDecl); ok {
				readMarks(g, found)
			}
		}
	}
	return found
}

func readMarks(g *ast.GenDecl, found map[string]marks) {
	for _, s := range g.Specs {
		ts, ok := s.(*ast.TypeSpec)
		if !ok {
			continue
		}
		st, ok := ts.Type.(*ast.StructType)
		if !ok {
			continue
		}
		if m := parseMarks(g.Doc); m.Map != "" {
			found[ts.Name.Name] = m
		}
		for _, f := range st.Fields.List {
			if f.Tag == nil {
				continue
			}
			name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
			found[ts.Name.Name+"."+name] = parseMarks(f.Doc)
		}
	}
}

func parseMarks(doc *ast.CommentGroup) (m marks) {
	if doc == nil {
		return m
	}
	for _, c := range doc.List {
		key, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(c.Text, "//")), "=")
		switch key {
		case "+listType":
			m.List = value
		case "+listMapKey":
			m.Keys = append(m.Keys, value)
		case "+mapType", "+structType":
			if value == "atomic" {
				m.Map = value
			}
		}
	}
	return m
}

// The schemas made by reflection merge lists, maps and structs as the comments of Kubernetes' own types say.
func TestSchemasMergeAsTheTypesCommentsSay(t *testing.T) {
	t.Parallel()
	b := newSchemaBuilder()
	for _, k := range api.Kinds {
		b.addKind(k)
	}
	packages := map[string]string{
		"io.k8s.api.core.v1.": "k8s.io/api/core/v1", "io.k8s.api.apps.v1.": "k8s.io/api/apps/v1",
		"io.k8s.api.discovery.v1.":              "k8s.io/api/discovery/v1",
		"io.k8s.apimachinery.pkg.apis.meta.v1.": "k8s.io/apimachinery/pkg/apis/meta/v1",
	}
	for prefix, pkg := range packages {
		want := sourceMarks(t, pkg)
		for _, name := range slices.Sorted(maps.Keys(b.done)) {
			short, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			schema := b.done[name]
			if got := schema.Extensions["x-kubernetes-map-type"] == "atomic"; got != (want[short].Map != "") {
				t.Errorf("%s: atomic is %v in the schema, and %v in the source", name, got, !got)
			}
			for field, p := range schema.Properties {
				w := want[short+"."+field]
				if _, own := want[short+"."+field]; !own {
					continue // of an embedded struct: judged there
				}
				got := marks{}
				got.List, _ = p.Extensions["x-kubernetes-list-type"].(string)
				got.Map, _ = p.Extensions["x-kubernetes-map-type"].(string)
				keys, _ := p.Extensions["x-kubernetes-list-map-keys"].([]any)
				for _, k := range keys {
					got.Keys = append(got.Keys, k.(string))
				}
				if w.List == "" && len(p.Type) > 0 && p.Type[0] == "array" {
					w = byStrategy(p.Extensions)
				}
				if diff := cmp.Diff(w, got); diff != "" {
					t.Errorf("%s.%s (-source +schema):\n%s", name, field, diff)
				}
			}
		}
	}
}

// byStrategy is how Kubernetes merges a list without marks: by its patch strategy, or as a whole.
func byStrategy(ext map[string]any) marks {
	strategy, _ := ext["x-kubernetes-patch-strategy"].(string)
	key, _ := ext["x-kubernetes-patch-merge-key"].(string)
	switch {
	case strings.HasPrefix(strategy, "merge") && key != "":
		return marks{List: "map", Keys: []string{key}}
	case strings.HasPrefix(strategy, "merge"):
		return marks{List: "set"}
	}
	return marks{List: "atomic"}
}
