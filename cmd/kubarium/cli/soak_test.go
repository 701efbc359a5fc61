//go:build soak

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// stock kubectls of the three minor versions before ours do all that the linked one does. Each is a Go module in
// testdata/clients; building one takes minutes.
func TestSoakOlderKubectls(t *testing.T) {
	for _, version := range []string{"1.34", "1.35", "1.36"} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "kubectl"), ".")
			build.Dir = filepath.Join("..", "..", "..", "testdata", "clients", "kubectl-"+version)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build kubectl %s: %v\n%s", version, err, out)
			}
			runScripts(t, filepath.Join("clients", "kubectl"), func(env *testscript.Env) error {
				if err := clientHome(env); err != nil {
					return err
				}
				env.Setenv("PATH", dir+string(os.PathListSeparator)+env.Getenv("PATH"))
				return nil
			})
		})
	}
}
