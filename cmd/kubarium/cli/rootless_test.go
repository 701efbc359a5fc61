package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// nobody is the user and group that own nothing, on every Linux system.
const nobody = 65534

// N-17: an ordinary user has the same clusters. Every script runs once more, as such a user; for an ordinary user TestScripts
// has proven it already.
func TestAnOrdinaryUserHasTheSameClusters(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("the scripts themselves run as an ordinary user here")
		return
	}
	dir, err := os.MkdirTemp("", "kubarium-nobody-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The scripts are looked for from the package's folder, so the copy has the same layout.
	here := filepath.Join(dir, "cmd", "kubarium", "cli")
	home := filepath.Join(dir, "home")
	for _, err := range []error{
		os.MkdirAll(here, 0o755), os.MkdirAll(home, 0o755), os.Chmod(dir, 0o755),
		os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS(filepath.Join("..", "..", "..", "testdata"))),
		copyProgram(filepath.Join(dir, "cli.test")), os.Chown(home, nobody, nobody),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "cli.test"), "-test.run", "^TestScripts$")
	cmd.Dir = here
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// copyProgram leaves the writing to another process: a descriptor of this one that is open for writing would be inherited for a moment by
// whatever tests beside this one start, and the program be busy.
func copyProgram(to string) error {
	return exec.Command("install", "-m", "755", fmt.Sprintf("/proc/%d/exe", os.Getpid()), to).Run()
}
