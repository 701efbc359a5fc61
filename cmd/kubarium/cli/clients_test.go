//go:build soak

package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// helm installs, upgrades, rolls back and uninstalls a chart. It is a tool of a Go module in testdata/clients, as
// helm is no part of what everyone who builds kubarium has to fetch.
func TestSoakHelm(t *testing.T) {
	dir := buildClient(t, "helm", "helm.sh/helm/v4/cmd/helm")
	runScripts(t, filepath.Join("clients", "helm"), inPath(dir))
}

// buildClient builds a program of a module in testdata/clients, and returns the folder that it is in.
func buildClient(t *testing.T, module, program string) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // four minutes with nothing cached, on two busy cores
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+string(os.PathSeparator), program)
	build.Dir = filepath.Join("..", "..", "..", "testdata", "clients", module)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s of %s: %v\n%s", program, module, err, out)
	}
	return dir
}

// inPath is clientHome with the programs of a folder before all others.
func inPath(dir string) func(*testscript.Env) error {
	return func(env *testscript.Env) error {
		env.Setenv("PATH", dir+string(os.PathListSeparator)+env.Getenv("PATH"))
		return clientHome(env)
	}
}

// an operator on controller-runtime: leader election between two processes, cache, index, watches, owner references,
// patches, apply, status and finalizer.
func TestSoakManager(t *testing.T) {
	dir := buildClient(t, "manager", ".")
	runScripts(t, filepath.Join("clients", "manager"), inPath(dir))
}
