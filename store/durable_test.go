package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

//
func TestReopeningGivesTheSameObjectsAndRevision(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.db")
	s, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		put(t, s, service(i))
		put(t, s, pod(fmt.Sprint("p", i), "n1"))
	}
	remove(t, s, api.Services, "svc-3", store.DeleteOptions{})
	remove(t, s, api.Pods, "p3", store.DeleteOptions{})
	everything := func(s *store.Store) (all []store.List) {
		for _, k := range api.Kinds {
			l, err := s.List(t.Context(), k, store.Query{})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
		return all
	}
	want := everything(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, path, store.Options{})
	if diff := cmp.Diff(want, everything(s)); diff != "" {
		t.Errorf("after reopening (-want +got):\n%s", diff)
	}
	const last = 63 // 20 pods and 20 Services, an address for each Service, a pod, a Service and its address removed
	if s.Revision() != last {
		t.Errorf("revision %d, want %d", s.Revision(), last)
	}
	if _, err := s.Watch(t.Context(), last); err != nil {
		t.Errorf("resuming at the revision before the restart: %v", err)
	}
	if _, err := s.Watch(t.Context(), last-1); !apierrors.IsResourceExpired(err) {
		t.Errorf("got %v, want revisions before the restart gone", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v, want 0600", info.Mode(), err)
	}
}

//
func TestAFailingDiskLosesNothingAcknowledgedAndTheStoreGoesOn(t *testing.T) {
	t.Parallel()
	const writers, writes = 8, 100
	full := errors.New("no space left on device")
	var mu sync.Mutex // guards the three below
	acked, refused, commits := []string{}, map[string]bool{}, 0
	s, path := open(t, store.Options{BeforeCommit: func() error {
		mu.Lock()
		defer mu.Unlock()
		if commits++; commits%3 == 0 {
			return full
		}
		return nil
	}})
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for j := range writes {
				name := fmt.Sprintf("w%d-%02d", i, j)
				_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(configMap(name, "1")) })
				mu.Lock()
				if err == nil {
					acked = append(acked, name)
				} else if refused[name] = true; !errors.Is(err, full) {
					t.Errorf("got %v, want the disk's error", err)
				}
				mu.Unlock()
			}
		})
	}
	writing.Wait()
	for range 2 { // as it is, and after reopening
		got := names(t, s, api.ConfigMaps, store.Query{})
		if len(got) != len(acked) || len(refused) == 0 || len(acked)+len(refused) != writers*writes {
			t.Errorf("%d objects, %d acknowledged, %d refused", len(got), len(acked), len(refused))
		}
		for _, name := range got {
			if refused[name] {
				t.Errorf("%s was refused and is there", name)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, path, store.Options{})
	}
}

//
func TestAnUncertainCommitEndsWritingButNotReading(t *testing.T) {
	t.Parallel()
	s, _ := open(t, store.Options{NoSync: true})
	put(t, s, configMap("a", "1"))
	cause := errors.New("input/output error")
	store.FailSync(s, cause)
	_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(configMap("b", "1")) })
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "no more writes until the cluster is started again") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"a"}, names(t, s, api.ConfigMaps, store.Query{})); diff != "" {
		t.Errorf("configmaps (-want +got):\n%s", diff)
	}
}

// TestAnAnswerThatRestsOnAFailedWriteFailsWithIt holds the disk while a second Update sees the first one's object.
func TestAnAnswerThatRestsOnAFailedWriteFailsWithIt(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	committing, proceed := make(chan bool), make(chan error)
	s, _ := open(t, store.Options{BeforeCommit: func() error {
		committing <- true
		return <-proceed
	}})
	var running sync.WaitGroup
	outcome := func(want error, fn func(*store.Tx) error) {
		running.Go(func() {
			if _, err := s.Update(t.Context(), fn); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
	outcome(full, func(tx *store.Tx) error { return tx.Create(configMap("a", "1")) })
	<-committing
	seen := make(chan bool, 3)
	outcome(full, func(tx *store.Tx) error { seen <- true; return tx.Create(configMap("a", "1")) }) // AlreadyExists
	outcome(full, func(tx *store.Tx) error { seen <- true; return nil })                            // only looks
	outcome(full, func(tx *store.Tx) error { seen <- true; return tx.Create(configMap("b", "1")) })
	for range 3 {
		<-seen
	}
	if _, err := s.Get(api.ConfigMaps, "default", "a"); !apierrors.IsNotFound(err) {
		t.Errorf("a write that is not durable can be read: %v", err)
	}
	proceed <- full
	running.Wait()
	outcome(nil, func(tx *store.Tx) error { return tx.Create(configMap("a", "2")) })
	<-committing
	proceed <- nil
	running.Wait()
	if s.Revision() != 4 { // two failed, and one says so to those who read ahead
		t.Errorf("revision %d, want 4", s.Revision())
	}
}

//
func TestATornOrAlteredFileIsAClearErrorOrComplete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "good")
	s, err := store.Open(path, store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	const objects = 300
	for i := range objects {
		put(t, s, service(i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	try := func(what string, bad []byte) (damaged bool) {
		t.Helper()
		path := filepath.Join(dir, "bad")
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, bad, 0o600)); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(path, store.Options{})
		if err != nil {
			if !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%s: got %v, want ErrDamaged", what, err)
			}
			return true
		}
		defer s.Close()
		if got := names(t, s, api.Services, store.Query{}); len(got) != objects || s.Revision() != 2*objects { // each with an address
			t.Errorf("%s: opened with %d objects of %d at revision %d", what, len(got), objects, s.Revision())
		}
		return false
	}
	if try("the good file", good) {
		t.Fatal("the good file cannot be opened")
	}
	for size := page / 2; size < len(good)/2; size += page * 3 / 2 {
		try(fmt.Sprintf("cut to %d bytes of %d", size, len(good)), good[:size])
	}
	// The first two pages are bbolt's own and carry checksums; losing the newer one is how a crash in mid-commit looks.
	damaged := 0
	for range 100 {
		at := 2*page + rand.IntN(len(good)-2*page)
		bad := append([]byte(nil), good...)
		bad[at] ^= 1 << rand.IntN(8)
		if try(fmt.Sprintf("a bit of byte %d flipped", at), bad) {
			damaged++
		}
	}
	if damaged == 0 {
		t.Error("none of 100 altered bits was noticed")
	}
}

const (
	childWriters = 4
	childKeeps   = 5 // a writer deletes the pair it wrote so many pairs ago
)

// pair names the two objects of a writer's n-th transaction.
func pair(prefix string, writer, n int) []string {
	base := fmt.Sprintf("%s-w%d-%d", prefix, writer, n)
	return []string{base + "-left", base + "-right"}
}

// childWriter writes pairs for ever and prints "writer n revision" for each that was acknowledged.
func childWriter(path string) int {
	s, err := store.Open(path, store.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	prefix := os.Getenv("STORE_TEST_PREFIX")
	var writing sync.WaitGroup
	for w := range childWriters {
		writing.Go(func() {
			for n := 0; ; n++ {
				rev, err := s.Update(context.Background(), func(tx *store.Tx) (err error) {
					for i, name := range pair(prefix, w, n) {
						err = errors.Join(err, tx.Create(configMap(name, strings.Repeat("x", 10+rand.IntN(3000)))))
						if n >= childKeeps {
							old := pair(prefix, w, n-childKeeps)[i]
							err = errors.Join(err, tx.Delete(api.ConfigMaps, "default", old, store.DeleteOptions{}))
						}
					}
					return err
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Printf("%d %d %d\n", w, n, rev)
			}
		})
	}
	writing.Wait()
	return 1
}

// TestKillingAWriterLosesNothingAcknowledged is A-16 at the store; soak_test.go goes on for longer.
func TestKillingAWriterLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	killWriters(t, 100)
}

// killWriters sends SIGKILL to one writing process after the other, all on one and the same file. Every acknowledged write is
// there, none is half there, the revision never goes back.
func killWriters(t *testing.T, kills int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.db")
	var revision uint64
	for round := range kills {
		prefix := fmt.Sprint("r", round)
		last, acked := writeUntilKilled(t, path, prefix)
		s, err := store.Open(path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Check(s); err != nil {
			t.Error(err)
		}
		if s.Revision() < acked || s.Revision() < revision {
			t.Errorf("round %d: revision %d; acknowledged was %d, before the round %d", round, s.Revision(), acked, revision)
		}
		revision = s.Revision()
		for w, n := range last {
			checkWriter(t, s, prefix, w, n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeUntilKilled returns the last acknowledged pair of each writer (-1 for none) and the highest acknowledged revision.
func writeUntilKilled(t *testing.T, path, prefix string) (last [childWriters]int, revision uint64) {
	t.Helper()
	cmd, out := child(t, "writer", path, prefix)
	for i := range last {
		last[i] = -1
	}
	left := rand.IntN(80)
	for out.Scan() { // to the end: what was printed was acknowledged, read or not
		var w, n int
		var rev uint64
		if _, err := fmt.Sscan(out.Text(), &w, &n, &rev); err != nil {
			t.Fatalf("%q: %v", out.Text(), err)
		}
		last[w], revision = n, max(revision, rev)
		if left--; left == -1 { // some time into the commits that follow
			time.AfterFunc(rand.N(2*time.Millisecond), func() { cmd.Process.Kill() })
		}
	}
	cmd.Wait()
	if left >= 0 {
		t.Fatal("the writer ended by itself")
	}
	return last, revision
}

// checkWriter knows that pair n was acknowledged, and that pair n+1 may have been written.
func checkWriter(t *testing.T, s *store.Store, prefix string, w, n int) {
	t.Helper()
	there := func(n int) int {
		count := 0
		for _, name := range pair(prefix, w, n) {
			if _, err := s.Get(api.ConfigMaps, "default", name); err == nil {
				count++
			}
		}
		return count
	}
	for i := max(0, n-2*childKeeps); i <= n; i++ {
		want := 2
		if i <= n-childKeeps || i == n+1-childKeeps && there(n+1) == 2 {
			want = 0
		}
		if got := there(i); got != want {
			t.Errorf("%s writer %d: %d objects of pair %d, want %d (acknowledged up to %d)", prefix, w, got, i, want, n)
		}
	}
	if there(n+1) == 1 {
		t.Errorf("%s writer %d: pair %d is half there", prefix, w, n+1)
	}
}
