package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// a disk that is really full, once by a limit on the file's size and once a small tmpfs in a mount namespace of its own.
// The writes that do not fit get a clear error, those acknowledged stay, and the store goes on when there is room again.
func TestAFullDiskLosesNothingAcknowledgedAndTheStoreGoesOn(t *testing.T) {
	t.Parallel()
	for role, cause := range map[string]string{"limit": "file too large", "tmpfs": "no space left on device"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "s.db")
			cmd, out := child(t, role, path, "")
			var want []string
			refused := 0
			for out.Scan() {
				name, rest, _ := strings.Cut(out.Text(), " ")
				if strings.HasPrefix(rest, "true") {
					want = append(want, name)
				} else if refused++; !strings.Contains(rest, "write the store: ") || !strings.Contains(rest, cause) {
					t.Errorf("%s was refused with: %s", name, rest)
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			if refused != 3 || len(want) < 5 {
				t.Errorf("%d refused, %d written", refused, len(want))
			}
			s := reopen(t, path, store.Options{})
			if diff := cmp.Diff(want, names(t, s, api.ConfigMaps, store.Query{})); diff != "" {
				t.Errorf("after reopening (-want +got):\n%s", diff)
			}
		})
	}
}

// childFullDisk fills its file until it is refused, prints what became of each write, then gets room and writes again. narrow
// makes the room small and returns what makes it large.
func childFullDisk(path string, narrow func(path string) (widen func() error, err error)) int {
	s, err := store.Open(path, store.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n := 0
	write := func() bool {
		n++
		name := fmt.Sprintf("c%03d", n)
		_, err := s.Update(context.Background(), func(tx *store.Tx) error {
			return tx.Create(configMap(name, strings.Repeat("x", 5000)))
		})
		fmt.Println(name, err == nil, err)
		return err == nil
	}
	widen, err := narrow(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for write() {
	}
	write()
	write()
	if err := widen(); err != nil || !write() || !write() {
		fmt.Fprintln(os.Stderr, "the store did not go on:", err)
		return 1
	}
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// limited bounds the size of every file this process writes.
func limited(string) (func() error, error) {
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 200_000, Max: ^uint64(0)}
	return func() error {
		limit.Cur = limit.Max
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	}, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
}

// childOnTmpfs is childFullDisk on a file system of 1 MiB, most of which another file takes until it is removed. In the end the
// store's file is copied to path, for the file system ends with this process.
func childOnTmpfs(path string) int {
	dir := filepath.Join(filepath.Dir(path), "small")
	err := errors.Join(os.Mkdir(dir, 0o700), syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	small := filepath.Join(dir, "s.db")
	code := childFullDisk(small, func(string) (func() error, error) {
		ballast := filepath.Join(dir, "ballast")
		return func() error { return os.Remove(ballast) }, os.WriteFile(ballast, make([]byte, 600_000), 0o600)
	})
	content, err := os.ReadFile(small)
	if err := errors.Join(err, os.WriteFile(path, content, 0o600)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// child runs this test binary as another program. In the role tmpfs it has a mount namespace of its own.
func child(t *testing.T, role, path, prefix string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+role, "STORE_TEST_FILE="+path, "STORE_TEST_PREFIX="+prefix)
	cmd.Stderr = os.Stderr
	if role == "tmpfs" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if uid := os.Geteuid(); uid != 0 { // what may mount is the root of a user namespace
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}
