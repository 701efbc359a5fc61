package cli

import (
	"reflect"
	"strings"
	"testing"

	"kubarium.dev/cluster"
)

// fieldsOf are the fields of a struct of the configuration, with those of the structs in it.
func fieldsOf(t reflect.Type) (names []string) {
	for field := range t.Fields() {
		if name := field.Tag.Get("yaml"); name != "" {
			names = append(names, name)
			if field.Type.Kind() == reflect.Struct {
				names = append(names, fieldsOf(field.Type)...)
			}
		}
	}
	return names
}

func TestConfigInitShowsEveryField(t *testing.T) {
	t.Parallel()
	fields := fieldsOf(reflect.TypeFor[cluster.Config]())
	if len(fields) < 20 {
		t.Errorf("only the fields %q are looked for", fields)
	}
	for _, name := range fields {
		if !strings.Contains(configTemplate, "\n"+name+":") && !strings.Contains(configTemplate, "  "+name+":") && !strings.Contains(configTemplate, "# "+name+":") {
			t.Errorf("%s is missing", name)
		}
	}
}
