package node

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/podinit"
)

// spawnerOf is the pid of the fabric's spawner; 0 while there is none.
func spawnerOf(f *Fabric) int {
	f.spawner.mu.Lock()
	defer f.spawner.mu.Unlock()
	if f.spawner.running == nil {
		return 0
	}
	return f.spawner.running.cmd.Process.Pid
}

// N-16: the helper that starts pods' processes may be killed at any time, in the midst of a start, too: every pod starts, another helper
// follows, and no process is left, not even a dead one.
func TestPodsStartWhileTheirSpawnerIsKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *NodeConfig) { c.PodCIDR = netip.MustParsePrefix("10.244.1.0/24") })
	over := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		n := 0
		defer func() { killed <- n }()
		for tick := time.NewTicker(3 * time.Millisecond); ; {
			select {
			case <-over:
				tick.Stop()
				return
			case <-tick.C:
			}
			if pid := spawnerOf(b.fabric); pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
	}()
	var pods []*corev1.Pod
	for i := range 12 {
		pod := commandPod(fmt.Sprint("p-", i), "sh", "-c", stay)
		pods = append(pods, pod)
		b.create(pod)
	}
	for i, pod := range pods {
		if i == len(pods)/2 { // the rest starts in peace
			close(over)
		}
		b.awaitReady(pod)
	}
	if n := <-killed; n < 3 {
		t.Errorf("the spawner was killed %d times only", n)
	}
	for _, pod := range pods {
		b.remove(pod, 0)
		b.awaitGone(pod)
	}
	b.awaitNoWorker()
	b.until("no process of a pod, alive or dead", func() bool { return len(strays(b.fabric)) == 0 })
	last := commandPod("last", "sh", "-c", stay)
	b.create(last)
	b.awaitReady(last)
	if spawnerOf(b.fabric) == 0 {
		t.Error("there is no spawner")
	}
}

// strays are the children of this process that came from a fabric's spawner and were never known here.
func strays(f *Fabric) (all []int) {
	f.spawner.mu.Lock()
	defer f.spawner.mu.Unlock()
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		raw, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(word); err == nil && f.spawner.known[pid] == nil && f.spawner.isStray(pid) {
				all = append(all, pid)
			}
		}
	}
	return all
}

// A spawner that cannot start anything says why, and so does the pod.
func TestASpawnerOfNoUseSaysSo(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	s, err := newSpawner("/bin/false", b.fabric.wire.NS)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	box, err := beginSandbox(sandboxConfig{spawner: s, ns: b.NS()})
	if err == nil {
		box.close()
		t.Fatal("a container began without a first process")
	}
	if !strings.Contains(err.Error(), "start the container's first process: the spawner of pods' processes has ended") {
		t.Errorf("got %v", err)
	}
	if _, err := newSpawner("/no/such/program", b.fabric.wire.NS); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("got %v", err)
	}
}

// A program that is replaced while a cluster runs, as by a new build, does not change what starts its pods.
func TestPodsStartAfterTheProgramWasReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	program := filepath.Join(t.TempDir(), "program")
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, program)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSpawner(program, b.fabric.wire.NS)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	begin := func() {
		t.Helper()
		box, err := beginSandbox(sandboxConfig{spawner: s, ns: b.NS()})
		if err != nil {
			t.Fatal(err)
		}
		if err := box.become(t.Context(), podinit.Setup{Hostname: "one", Name: "one"}, nil); err != nil {
			t.Fatal(err)
		}
		box.close()
	}
	begin()
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	begin()
}
