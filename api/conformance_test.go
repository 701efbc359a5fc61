package api

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// testdata/kubernetes-1.37.txt holds what Kubernetes' own validation says of random objects; this package says the same.
func TestValidationAgreesWithKubernetes(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/kubernetes-1.37.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for i := 0; i < len(lines); {
		object := lines[i]
		i++
		var want []string
		for ; i < len(lines) && strings.HasPrefix(lines[i], "\t"); i++ {
			want = append(want, lines[i][1:])
		}
		if strings.HasPrefix(object, "#") {
			continue
		}
		cases++
		got := verdict(t, strings.Split(object, "\t"))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-Kubernetes +kubarium):\n%s", object, d)
		}
	}
	if cases < 100 {
		t.Errorf("only %d cases", cases)
	}
}

// verdict creates or updates the object of a line and returns the sorted errors.
func verdict(t *testing.T, words []string) []string {
	kind := kindNamed(t, words[0])
	named := func(text string) Object {
		obj := kind.New()
		if err := json.Unmarshal([]byte(text), obj); err != nil {
			t.Fatal(err)
		}
		if len(words) == 3 || obj.GetName() == "" && obj.GetGenerateName() == "" {
			obj.SetName("web")
		}
		if kind.Namespaced {
			obj.SetNamespace("default")
		}
		Default(obj)
		return obj
	}
	obj := named(words[1])
	var errs []string
	if len(words) == 3 {
		old := named(words[2])
		PrepareForCreate(old)
		old.SetResourceVersion("7")
		PrepareForUpdate(obj, old)
		for _, e := range ValidateUpdate(obj, old) {
			errs = append(errs, e.Error())
		}
	} else {
		PrepareForCreate(obj)
		for _, e := range Validate(obj) {
			errs = append(errs, e.Error())
		}
	}
	slices.Sort(errs)
	return slices.Compact(errs)
}

func kindNamed(t *testing.T, plural string) *Kind {
	for _, k := range Kinds {
		if k.Plural == plural {
			return k
		}
	}
	t.Fatalf("no kind %v", schema.GroupResource{Resource: plural})
	return nil
}
