// Package kubarium_test holds the tests of the repository as a whole: the floors its packages stand on, and its README.
package kubarium_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "kubarium.dev/"

// floors is docs' floor table: a package may import packages of lower floors only. Packages of one floor do not know each other.
var floors = map[string]int{
	"cmd/kubarium":            5,
	"cmd/demo":                5,
	"cmd/kubarium/cli":        4,
	"cmd/kubarium/cli/locale": 0,
	"cluster/clustertest":     4,
	"cluster/bench":           3,
	"cluster":                 3,
	"apiserver":               2,
	"controller":              2,
	"node":                    2,
	"dns":                     2,
	"proxy":                   2,
	"ingress":                 2,
	"store":                   1,
	"api":                     0,
	"node/netns":              0,
	"node/podinit":            0,
	"node/app":                0,
	"node/image":              0,
	"web":                     0,
}

// owners names the one package that may import an outside library, tests aside.
var owners = map[string][]string{
	"go.etcd.io/bbolt":                       {"store"},
	"github.com/google/nftables":             {"proxy"},
	"github.com/miekg/dns":                   {"dns"},
	"github.com/spf13/cobra":                 {"cmd/kubarium/cli"},
	"gopkg.in/yaml.v3":                       {"api", "cluster"},
	"k8s.io/kubectl":                         {"cmd/kubarium/cli", "cmd/kubarium/cli/locale"},
	"k8s.io/klog":                            {"cmd/kubarium/cli"},
	"k8s.io/apiserver":                       {},
	"k8s.io/kubernetes":                      {},
	"github.com/gorilla/websocket":           {"apiserver"},
	"github.com/valyala/fasthttp":            {"ingress"},
	"github.com/google/go-containerregistry": {"node/image"},
}

// packages lists every package of the module with what it imports, without its tests.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string][]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if name := strings.TrimPrefix(words[0], module); name != words[0] {
			all[name] = words[1:]
		}
	}
	return all
}

func TestImportsGoDownTheFloors(t *testing.T) {
	t.Parallel()
	all := packages(t)
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages: %v", len(all), all)
	}
	for name, imports := range all {
		floor, ok := floors[name]
		if !ok {
			t.Errorf("package %s has no floor: add it to the table, or put it where it belongs", name)
			continue
		}
		for _, i := range imports {
			below, ours := strings.CutPrefix(i, module)
			if ours && floors[below] >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down only", name, floor, below, floors[below])
			}
		}
	}
}

func TestOnePackageOwnsEachLibrary(t *testing.T) {
	t.Parallel()
	for name, imports := range packages(t) {
		for _, i := range imports {
			for library, allowed := range owners {
				if (i == library || strings.HasPrefix(i, library+"/")) && !slices.Contains(allowed, name) {
					t.Errorf("%s imports %s, which belongs to %v", name, i, allowed)
				}
			}
		}
	}
}

// The first process of a pod is this program too. Whatever podinit imported, every pod would pay for.
func TestPodinitUsesTheStandardLibraryAlone(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./node/podinit").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	got := strings.Fields(string(out))
	if want := []string{module + "node/podinit"}; !slices.Equal(got, want) {
		t.Errorf("podinit depends on %v, want %v", got, want)
	}
}

// The top level tells the story: the folders of the architecture and nothing else.
func TestTheTopLevelHoldsTheLayoutAndNothingElse(t *testing.T) {
	t.Parallel()
	allowed := strings.Fields(`.ci .git .gitignore .golangci.yml CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md api apiserver
		arch_test.go bin cluster cmd controller dns docs go.mod go.sum ingress node proxy readme_test.go store testdata web`)
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s is not in the layout", e.Name())
		}
	}
}
