package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"gopkg.in/yaml.v3"
)

// Bounds on what aliases may make of a small file: "billion laughs" grow a kilobyte into gigabytes.
const (
	maxNodes = 1 << 20
	maxDepth = 1000
)

// nodeJSON writes a YAML node as the JSON that Kubernetes' own reader would make of it.
func nodeJSON(node *yaml.Node) ([]byte, error) {
	w := jsonWriter{}
	if err := w.write(node, 0); err != nil {
		return nil, err
	}
	return w.buf.Bytes(), nil
}

type jsonWriter struct {
	buf   bytes.Buffer
	nodes int
}

func (w *jsonWriter) write(node *yaml.Node, depth int) error {
	if w.nodes++; w.nodes > maxNodes || depth > maxDepth {
		return &ManifestError{Line: node.Line, Message: "too large or too deep (aliases?)"}
	}
	switch node.Kind {
	case yaml.AliasNode:
		return w.write(node.Alias, depth+1)
	case yaml.MappingNode:
		return w.writeMapping(node, depth)
	case yaml.SequenceNode:
		w.buf.WriteByte('[')
		for i, item := range node.Content {
			if i > 0 {
				w.buf.WriteByte(',')
			}
			if err := w.write(item, depth+1); err != nil {
				return err
			}
		}
		w.buf.WriteByte(']')
		return nil
	case yaml.ScalarNode:
		return w.writeScalar(node)
	}
	return &ManifestError{Line: node.Line, Message: "not a value"}
}

func (w *jsonWriter) writeMapping(node *yaml.Node, depth int) error {
	entries, err := w.entries(node, depth)
	if err != nil {
		return err
	}
	w.buf.WriteByte('{')
	for i, e := range entries {
		if i > 0 {
			w.buf.WriteByte(',')
		}
		key, _ := json.Marshal(e.name)
		w.buf.Write(key)
		w.buf.WriteByte(':')
		if err := w.write(e.value, depth+1); err != nil {
			return err
		}
	}
	w.buf.WriteByte('}')
	return nil
}

// entry is one field of a mapping.
type entry struct {
	name       string
	key, value *yaml.Node
}

// entries lists a mapping's fields, merges (<<) resolved; of a field written twice the last one counts.
func (w *jsonWriter) entries(node *yaml.Node, depth int) ([]entry, error) {
	var own, merged []entry
	at := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if isMerge(key) {
			more, err := w.mergeEntries(value, depth+1)
			if err != nil {
				return nil, err
			}
			merged = append(merged, more...)
			continue
		}
		name, ok := keyName(key)
		if !ok {
			return nil, &ManifestError{Line: key.Line, Message: "a field's name must be a word, not " + describe(key)}
		}
		if j, dup := at[name]; dup {
			own[j] = entry{name, key, value}
			continue
		}
		at[name] = len(own)
		own = append(own, entry{name, key, value})
	}
	for _, e := range merged {
		if _, ok := at[e.name]; !ok {
			at[e.name] = len(own)
			own = append(own, e)
		}
	}
	return own, nil
}

func (w *jsonWriter) mergeEntries(value *yaml.Node, depth int) ([]entry, error) {
	if w.nodes++; w.nodes > maxNodes || depth > maxDepth {
		return nil, &ManifestError{Line: value.Line, Message: "too large or too deep (aliases?)"}
	}
	value = resolveAlias(value)
	switch value.Kind {
	case yaml.MappingNode:
		return w.entries(value, depth)
	case yaml.SequenceNode:
		var all []entry
		for _, item := range value.Content {
			more, err := w.mergeEntries(item, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
		return all, nil
	}
	return nil, &ManifestError{Line: value.Line, Message: "<< takes a mapping, found " + describe(value)}
}

func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && (key.Tag == "" || key.ShortTag() == "!!merge")
}

// keyName is a field's name; numbers and booleans are names too, as Kubernetes' reader has it.
func keyName(key *yaml.Node) (string, bool) {
	key = resolveAlias(key)
	if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
		return "", false
	}
	if b, ok := oldBool(key); ok {
		return fmt.Sprint(b), true
	}
	switch key.ShortTag() {
	case "!!bool", "!!int", "!!float":
		var v any
		if key.Decode(&v) == nil {
			return fmt.Sprint(v), true
		}
	}
	return key.Value, true
}

// Unquoted words that YAML 1.1, which Kubernetes reads, takes for booleans.
var (
	oldTrue  = []string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}
	oldFalse = []string{"n", "N", "no", "No", "NO", "off", "Off", "OFF"}
)

func oldBool(node *yaml.Node) (value, ok bool) {
	if node.Kind != yaml.ScalarNode || node.Style != 0 || node.ShortTag() != "!!str" {
		return false, false
	}
	value = slices.Contains(oldTrue, node.Value)
	return value, value || slices.Contains(oldFalse, node.Value)
}

func (w *jsonWriter) writeScalar(node *yaml.Node) error {
	value, err := scalar(node)
	if err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return &ManifestError{Line: node.Line, Message: err.Error()}
	}
	w.buf.Write(data)
	return nil
}

// scalar is a scalar's value: nil, a bool, a string, an integer or a float64. Dates are strings, as in JSON.
func scalar(node *yaml.Node) (any, error) {
	if b, ok := oldBool(node); ok {
		return b, nil
	}
	switch node.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float", "!!binary":
		var v any
		if err := node.Decode(&v); err != nil {
			return nil, &ManifestError{Line: node.Line, Message: fmt.Sprintf("%q is not %s", node.Value, describeTag(node.ShortTag()))}
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return nil, &ManifestError{Line: node.Line, Message: fmt.Sprintf("%s is not a number JSON knows", node.Value)}
		}
		return v, nil
	}
	return node.Value, nil
}

// resolveAlias follows *alias to what it stands for.
func resolveAlias(node *yaml.Node) *yaml.Node {
	for i := 0; node.Kind == yaml.AliasNode && node.Alias != nil && i < maxDepth; i++ {
		node = node.Alias
	}
	return node
}

// describe names what a node is, for people: `the string "eighty"`, "a list".
func describe(node *yaml.Node) string {
	node = resolveAlias(node)
	switch node.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	if _, ok := oldBool(node); ok {
		return fmt.Sprintf("the boolean %s", node.Value)
	}
	switch tag := node.ShortTag(); tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the boolean " + node.Value
	case "!!int", "!!float":
		return "the number " + node.Value
	}
	return fmt.Sprintf("the string %q", node.Value)
}

func describeTag(tag string) string {
	switch tag {
	case "!!bool":
		return "a boolean"
	case "!!int":
		return "an integer"
	case "!!float":
		return "a number"
	}
	return "base64"
}
