package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Manifest is one object as it stands in a file: its JSON, and where each of its fields is written.
type Manifest struct {
	File            string // as given to ReadManifests
	Start           int    // the line the object begins on, from 1
	JSON            []byte // the object, every field its writer wrote included, known or not
	GVK             schema.GroupVersionKind
	Namespace, Name string
	node            *yaml.Node // the object's mapping
}

// maxManifestBytes bounds what is read of one file, so that a wrong file name cannot fill the memory.
const maxManifestBytes = 32 << 20

// ManifestError says what is wrong with a file of manifests, and where.
type ManifestError struct {
	File    string
	Line    int // from 1; 0 when no line is to blame
	Message string
}

// Error is "svc.yaml:12: what is wrong".
func (e *ManifestError) Error() string { return where(e.File, e.Line) + ": " + e.Message }

func where(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// ReadManifests reads every object of a YAML or JSON stream: documents apart by ---, empty ones skipped, Lists taken apart.
// file is what errors call the stream. An error (a *ManifestError, or what r said) means that nothing was read: a file with a
// mistake in its syntax changes nothing. What objects say is judged later: UnknownFields, Hint, Validate.
func ReadManifests(r io.Reader, file string) ([]Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxManifestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(data) > maxManifestBytes {
		return nil, &ManifestError{File: file, Message: fmt.Sprintf("longer than %d MiB", maxManifestBytes>>20)}
	}
	data = untabJSON(data)
	var all []Manifest
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, syntaxError(data, file, err)
		}
		found, err := readDocument(&doc, file)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
}

// untabJSON lets JSON be indented with tabs: JSON allows them, YAML does not.
func untabJSON(data []byte) []byte {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) || !json.Valid(data) {
		return data
	}
	return bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
}

func readDocument(doc *yaml.Node, file string) ([]Manifest, error) {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil, nil
	}
	root := resolveAlias(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return nil, nil
	}
	return readObject(root, file, schema.GroupVersionKind{})
}

// readObject reads one object; implied is what an item of a typed list (ServiceList) is when it does not say.
func readObject(node *yaml.Node, file string, implied schema.GroupVersionKind) ([]Manifest, error) {
	fail := func(at *yaml.Node, format string, args ...any) ([]Manifest, error) {
		return nil, &ManifestError{File: file, Line: at.Line, Message: fmt.Sprintf(format, args...)}
	}
	if node.Kind != yaml.MappingNode {
		return fail(node, "expected an object (apiVersion, kind, metadata), found %s", describe(node))
	}
	m := Manifest{File: file, Start: node.Line, node: node}
	var err error
	if m.JSON, err = nodeJSON(node); err != nil {
		if e := new(ManifestError); errors.As(err, &e) {
			e.File = file
		}
		return nil, err
	}
	head := readHead(m.JSON)
	m.Namespace, m.Name = head.Metadata.Namespace, head.Metadata.Name
	if head.APIVersion == "" && head.Kind == "" && implied.Kind != "" {
		m.GVK = implied
		m.JSON = addGVK(m.JSON, implied)
		return []Manifest{m}, nil
	}
	if head.APIVersion == "" {
		return fail(node, "apiVersion not set")
	}
	if head.Kind == "" {
		return fail(node, "kind not set")
	}
	gv, err := schema.ParseGroupVersion(head.APIVersion)
	if err != nil {
		return fail(m.lookup("apiVersion"), "apiVersion: %v", err)
	}
	m.GVK = gv.WithKind(head.Kind)
	if items := m.listItems(); items != nil {
		return m.expand(items)
	}
	return []Manifest{m}, nil
}

// head is what every object begins with.
type head struct {
	APIVersion, Kind string
	Metadata         struct{ Namespace, Name string }
}

// readHead reads each word for itself: one of the wrong type does not hide the others, and is reported later.
func readHead(data []byte) head {
	var h head
	var top struct {
		APIVersion any `json:"apiVersion"`
		Kind       any `json:"kind"`
		Metadata   any `json:"metadata"`
	}
	if json.Unmarshal(data, &top) != nil {
		return h
	}
	h.APIVersion, _ = top.APIVersion.(string)
	h.Kind, _ = top.Kind.(string)
	if meta, ok := top.Metadata.(map[string]any); ok {
		h.Metadata.Namespace, _ = meta["namespace"].(string)
		h.Metadata.Name, _ = meta["name"].(string)
	}
	return h
}

// listItems is the list of items when the object is a List, or a list of one kind such as a ServiceList.
func (m *Manifest) listItems() *yaml.Node {
	if _, served := KindFor(m.GVK); served || !strings.HasSuffix(m.GVK.Kind, "List") {
		return nil
	}
	items := child(m.node, "items")
	if items == nil || items.Kind != yaml.SequenceNode {
		return nil
	}
	return items
}

func (m *Manifest) expand(items *yaml.Node) ([]Manifest, error) {
	var implied schema.GroupVersionKind
	if kind := strings.TrimSuffix(m.GVK.Kind, "List"); kind != "" {
		implied = m.GVK.GroupVersion().WithKind(kind)
	}
	all := []Manifest{}
	for _, item := range items.Content {
		found, err := readObject(resolveAlias(item), m.File, implied)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func addGVK(object []byte, gvk schema.GroupVersionKind) []byte {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	head := fmt.Sprintf(`{"apiVersion":%q,"kind":%q`, apiVersion, kind)
	if bytes.Equal(object, []byte("{}")) {
		return []byte(head + "}")
	}
	return append([]byte(head+","), object[1:]...)
}

// Object decodes the manifest into its Go type. A kind that is not served is a *meta.NoKindMatchError, worded
// `no matches for kind "Deployment" in version "v1"`; a value of the wrong type is a *ManifestError with its line.
func (m Manifest) Object() (Object, error) {
	kind, ok := KindFor(m.GVK)
	if !ok {
		return nil, &meta.NoKindMatchError{GroupKind: m.GVK.GroupKind(), SearchedVersions: []string{m.GVK.Version}}
	}
	obj := kind.New()
	if err := json.Unmarshal(m.JSON, obj); err != nil {
		for _, e := range m.UnknownFields() {
			if e.Problem == WrongType {
				return nil, &ManifestError{File: m.File, Line: e.Line, Message: e.message()}
			}
		}
		return nil, &ManifestError{File: m.File, Line: m.Start, Message: err.Error()}
	}
	return obj, nil
}
