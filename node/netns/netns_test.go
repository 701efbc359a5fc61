package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kubarium.dev/node/netns"
)

const inside = "NETNS_TEST_INSIDE"

// TestMain runs the tests as root of a user namespace when the user is an ordinary one.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdout, os.Stderr, append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func own(t *testing.T, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// The trap of style.md: 500 concurrent switches, and the process as a whole must still stand where it stood.
func TestSwitchingNeverMovesTheMainThread(t *testing.T) {
	t.Parallel()
	home := own(t, "/proc/self/ns/net")
	n := newNS(t)
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			err := n.Do(func() error {
				if got := own(t, "/proc/thread-self/ns/net"); got != fmt.Sprintf("net:[%d]", n.Inode()) {
					return fmt.Errorf("fn ran in %s, want %d", got, n.Inode())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := own(t, "/proc/self/ns/net"); got != home {
		t.Errorf("the main thread stands in %s, want %s", got, home)
	}
	if got := own(t, "/proc/thread-self/ns/net"); got != home {
		t.Errorf("an ordinary goroutine runs in %s, want %s", got, home)
	}
}

func TestSocketsMeetInsideOnly(t *testing.T) {
	t.Parallel()
	a, b := newNS(t), newNS(t)
	ln, err := a.Listen(t.Context(), "tcp4", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	})
	var calls sync.WaitGroup
	for range 200 {
		calls.Go(func() {
			c, err := a.DialContext(t.Context(), "tcp", "127.0.0.1:80")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 5)
			if _, err := c.Read(buf); err != nil || string(buf) != "hello" {
				t.Errorf("got %q %v", buf, err)
			}
		})
	}
	calls.Wait()
	if _, err := b.DialContext(t.Context(), "tcp", "127.0.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from another namespace: got %v, want refused", err)
	}
	ln.Close()
	served.Wait()
}

func TestDialHonoursTheContext(t *testing.T) {
	t.Parallel()
	n := newNS(t)
	ln, err := n.Listen(t.Context(), "tcp4", "127.0.0.1:81")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	// Nobody accepts: once the backlog is full, a SYN is not answered.
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range 10000 {
		c, err := n.DialContext(ctx, "tcp", "127.0.0.1:81")
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the context's end", err)
			}
			return
		}
		held = append(held, c)
	}
	t.Error("ten thousand connections that nobody accepted")
}

func TestUDPWorksAndAProcessStandsInside(t *testing.T) {
	t.Parallel()
	n := newNS(t)
	pc, err := n.ListenPacket(t.Context(), "udp4", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := n.DialContext(t.Context(), "udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if k, _, err := pc.ReadFrom(buf); err != nil || string(buf[:k]) != "ping" {
		t.Fatalf("got %q %v", buf[:k], err)
	}
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	var out strings.Builder
	cmd.Stdout = &out
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("net:[%d]\n", n.Inode()); out.String() != want {
		t.Errorf("the process stood in %s, want %s", out.String(), want)
	}
}

func TestAClosedNamespaceSaysSo(t *testing.T) {
	t.Parallel()
	n := newNS(t)
	n.Close()
	if err := n.Do(func() error { return nil }); !errors.Is(err, netns.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		n, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		n.Close()
	}
}

// N-10: threads that have worked in a namespace do not keep it once it is closed: its interfaces end with it.
func TestNoThreadHoldsAClosedNamespace(t *testing.T) {
	t.Parallel()
	n := newNS(t)
	var all sync.WaitGroup
	together := make(chan struct{})
	for range 4 { // as many as there are threads: each stands in it
		all.Go(func() {
			if err := n.Do(func() error { <-together; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	close(together)
	all.Wait()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	held := func() bool {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(tasks, func(path string) bool {
			at, err := os.Readlink(path)
			return err == nil && at == fmt.Sprintf("net:[%d]", n.Inode())
		})
	}
	deadline := time.After(10 * time.Second)
	for held() {
		select {
		case <-deadline:
			t.Fatal("a thread still stands in the closed namespace")
		case <-time.After(time.Millisecond):
		}
	}
}
