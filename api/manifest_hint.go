package api

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Hint is one line of help for a manifest whose kind is not served under its apiVersion: "Deployment lives in apps/v1",
// `did you mean kind "Service"?`. It is empty for a kind that is served, and when there is nothing to say.
func Hint(m Manifest) string {
	if _, ok := KindFor(m.GVK); ok {
		return ""
	}
	var names []string
	for _, k := range Kinds {
		if k.Kind == m.GVK.Kind {
			return k.Kind + " lives in " + k.GroupVersion().String()
		}
		names = append(names, k.Kind)
	}
	for gvk := range Scheme.AllKnownTypes() {
		if gvk.Kind == m.GVK.Kind && !strings.HasSuffix(gvk.Kind, "List") {
			return "kubarium does not serve " + gvk.Kind + " yet"
		}
	}
	if near := Nearest(m.GVK.Kind, names); near != "" {
		return `did you mean kind "` + near + `"?`
	}
	return ""
}

// suggest says what an unknown field of a struct was perhaps meant to be: a field of nearly the same name, or one of just this
// name that belongs elsewhere in the object.
func (c *checker) suggest(t reflect.Type, name string) string {
	if near := Nearest(name, slices.Sorted(maps.Keys(jsonFields(t)))); near != "" {
		return `did you mean "` + near + `"?`
	}
	home, known := c.homes[name]
	if !known && len(c.homes) < maxHomeSearches {
		home = homeOf(c.root, name)
		c.homes[name] = home
	}
	if home == "" {
		return ""
	}
	return "it belongs in " + home
}

// maxHomeSearches bounds the searches for the homes of misplaced fields in one object: each looks at thousands of types.
const maxHomeSearches = 50

// maxHomeDepth is how far below the object's top a misplaced field is looked for: spec.template.spec.containers[0] is five deep.
const maxHomeDepth = 5

// homeOf is the path of the struct that has a field of that name, nearest to the top; "" when none or several are as near.
func homeOf(root reflect.Type, name string) string {
	type place struct {
		path string
		t    reflect.Type
	}
	level := []place{{"", root}}
	for range maxHomeDepth {
		var homes []string
		var next []place
		for _, p := range level {
			fields := jsonFields(p.t)
			if _, ok := fields[name]; ok && p.path != "" {
				homes = append(homes, p.path)
			}
			for _, n := range slices.Sorted(maps.Keys(fields)) {
				if n == "status" || n == "metadata" && p.path == "" {
					continue
				}
				if path, t := p.path+"."+n, structOf(fields[n]); t != nil {
					if fields[n].Kind() == reflect.Slice {
						path += "[]"
					}
					next = append(next, place{strings.TrimPrefix(path, "."), t})
				}
			}
		}
		if len(homes) > 0 {
			return single(homes)
		}
		level = next
	}
	return ""
}

func single(list []string) string {
	if len(list) != 1 {
		return ""
	}
	return list[0]
}

// structOf is the struct behind pointers and lists, or nil.
func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t
}

// Nearest is the candidate most like a misspelled word: the same letters in other case, or a few edits away; "" when none is.
// Of equals it is the first.
func Nearest(word string, candidates []string) string {
	best, least := "", max(1, len(word)/3)+1
	if len(word) > 64 {
		return ""
	}
	for _, c := range candidates {
		d := distance(strings.ToLower(word), strings.ToLower(c))
		if d < least {
			best, least = c, d
		}
	}
	return best
}

// distance counts the edits (insert, delete, replace, swap neighbours) between two words.
func distance(a, b string) int {
	before, last, now := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
