package apiserver_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/api"
)

// A list is put together from items encoded one by one. It must read as if it had been encoded as a whole.
func TestAListReadsAsIfItWereEncodedAsAWhole(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, k := range api.Kinds {
		path := "/api/" + k.GroupVersion().String() + "/" + k.Plural
		if k.Group != "" {
			path = strings.Replace(path, "/api/", "/apis/", 1)
		}
		for _, name := range []string{"", "one", "two"} {
			if name != "" {
				obj := k.New()
				obj.SetName(name)
				if k.Namespaced {
					obj.SetNamespace("dev")
				}
				obj.SetAnnotations(map[string]string{"html": "<&>", "newline": "\n"})
				c.put(t, obj)
			}
			for range 2 { // encoded now, and remembered
				res, body := c.ask(t, http.MethodGet, path, "")
				list := k.NewList()
				if err := json.Unmarshal([]byte(body), list); err != nil {
					t.Fatalf("%s: %v\n%s", path, err, body)
				}
				want, err := json.Marshal(list)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want)+"\n", body); diff != "" || res.ContentLength != int64(len(body)) {
					t.Errorf("%s: length %d of %d (-want +got):\n%s", path, res.ContentLength, len(body), diff)
				}
			}
		}
	}
}
