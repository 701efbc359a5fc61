package api

import (
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Line is the line on which a field is written, the field given by a path such as "spec.ports[0].nodePort" or
// "metadata.labels[app.kubernetes.io/name]"; the nearest parent's line when the field itself is not written.
func (m Manifest) Line(path string) int {
	if n := m.lookup(path); n != nil && n.Line > 0 {
		return n.Line
	}
	return m.Start
}

// Where is "svc.yaml:12": the file and the line of a field.
func (m Manifest) Where(path string) string { return where(m.File, m.Line(path)) }

// lookup finds the node that stands for a path: a field's key, or a list's item; the deepest one there is.
func (m Manifest) lookup(path string) *yaml.Node {
	if m.node == nil {
		return nil
	}
	node, found := m.node, m.node
	for _, step := range steps(path) {
		node = resolveAlias(node)
		key, value := find(node, step)
		if value == nil {
			return found
		}
		node, found = value, key
	}
	return found
}

// steps takes a path apart: "a.b[0][x.y/z].c" is a, b, 0, x.y/z, c.
func steps(path string) []string {
	var all []string
	for path != "" {
		if path[0] == '[' {
			inside, rest, ok := strings.Cut(path[1:], "]")
			if !ok {
				return append(all, path[1:])
			}
			all, path = append(all, inside), strings.TrimPrefix(rest, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return append(all, path)
		}
		if end > 0 {
			all = append(all, path[:end])
		}
		path = path[end:]
		path = strings.TrimPrefix(path, ".")
	}
	return all
}

// find takes one step down: the key (or item) whose line is meant, and the value to go on from.
func find(node *yaml.Node, step string) (key, value *yaml.Node) {
	switch node.Kind {
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	case yaml.MappingNode:
		entries, err := (&jsonWriter{}).entries(node, 0)
		if err != nil {
			return nil, nil
		}
		for _, e := range entries {
			if e.name == step {
				return e.key, e.value
			}
		}
		for _, e := range entries { // Kubernetes misspells a few of its paths
			if strings.EqualFold(e.name, step) {
				return e.key, e.value
			}
		}
	}
	return nil, nil
}

// child is a field's value, or nil.
func child(node *yaml.Node, name string) *yaml.Node {
	_, value := find(node, name)
	if value == nil {
		return nil
	}
	return resolveAlias(value)
}
