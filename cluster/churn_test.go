package cluster_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"kubarium.dev/cluster"
)

// asDaemon tells the test binary, by a folder for its state, that it is a cluster's daemon, to be killed.
const asDaemon = "CLUSTER_TEST_AS_DAEMON"

// runDaemon runs a cluster of three nodes until its input ends.
func runDaemon() int {
	dir := os.Getenv(asDaemon)
	err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	var c *cluster.Cluster
	if err == nil {
		c, err = cluster.Start(context.Background(), cluster.Options{StateDir: dir, Nodes: 3})
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "kubeconfig"), c.Kubeconfig(), 0o600)
	}
	if err == nil {
		fmt.Println("up")
		io.Copy(io.Discard, os.Stdin)
		err = c.Close()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// churner makes pods, deletes them and kills whatever there is, in a daemon of its own.
type churner struct {
	t      testing.TB
	dir    string
	cmd    *exec.Cmd
	input  io.Closer
	client kubernetes.Interface
	made   int
	living []string // pods that were not deleted
	did    map[string]int
}

func newChurner(t testing.TB) *churner {
	c := &churner{t: t, dir: t.TempDir(), did: map[string]int{}}
	c.start()
	t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
	return c
}

func (c *churner) start() {
	c.t.Helper()
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Env = append(os.Environ(), asDaemon+"="+c.dir)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if c.input, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		c.t.Fatalf("start the daemon: %q %v", line, err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "kubeconfig"))
	if err != nil {
		c.t.Fatal(err)
	}
	config.QPS = -1
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		c.t.Fatal(err)
	}
}

// poll asks until cond holds.
func (c *churner) poll(what string, cond func() bool) {
	c.t.Helper()
	tick, timeout := time.NewTicker(20*time.Millisecond), time.NewTimer(time.Minute)
	defer tick.Stop()
	defer timeout.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout.C:
			c.t.Fatalf("%s did not come about", what)
		}
	}
}

func (c *churner) pods() map[string]corev1.Pod {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods("default").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	all := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		all[pod.Name] = pod
	}
	return all
}

// create makes one pod of those there are: a server, a command, one that fails again and again, one with volumes.
func (c *churner) create() {
	c.t.Helper()
	c.made++
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p-", c.made)}}
	main := corev1.Container{Name: "main", Image: "web:1"}
	switch rand.IntN(5) {
	case 0:
		main.Command = []string{"sleep", "1000"}
	case 1:
		main.Command = []string{"sh", "-c", "exit 3"}
	case 2:
		main.Command = []string{"sh", "-c", "echo x >/v/f; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"}
		main.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	pod.Spec.Containers = []corev1.Container{main}
	if _, err := c.client.CoreV1().Pods("default").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.living = append(c.living, pod.Name)
	c.did["created"]++
}

// delete removes one of the living pods.
func (c *churner) delete(grace int64) {
	c.t.Helper()
	if len(c.living) == 0 {
		return
	}
	i := rand.IntN(len(c.living))
	name := c.living[i]
	c.living = append(c.living[:i], c.living[i+1:]...)
	err := c.client.CoreV1().Pods("default").Delete(c.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
	c.did["deleted"]++
}

// killOne kills a process of a pod: its first one, which is the daemon's helper, or another.
func (c *churner) killOne() {
	if below := descendants(c.cmd.Process.Pid); len(below) > 0 {
		syscall.Kill(below[rand.IntN(len(below))], syscall.SIGKILL)
		c.did["processes killed"]++
	}
}

// descendants are the processes below one.
func descendants(pid int) []int {
	var all []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		for _, word := range strings.Fields(string(raw)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// crash kills the daemon, looks for what it left behind, starts it again, and compares the pods with those of before.
func (c *churner) crash() {
	c.t.Helper()
	before := c.pods()
	processes, err := cluster.Inside(cluster.Held(c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	c.poll("the end of every process of the killed daemon", func() bool {
		left, err := cluster.Leftovers(processes, c.dir)
		return err == nil && len(left) == 0
	})
	c.start()
	c.did["daemons killed"]++
	for name, old := range c.pods() {
		if was := before[name]; was.Status.PodIP != "" && was.DeletionTimestamp == nil && (old.UID != was.UID || old.Status.PodIP != was.Status.PodIP) {
			c.t.Errorf("pod %s was %s at %s and is %s at %s", name, was.UID, was.Status.PodIP, old.UID, old.Status.PodIP)
		}
	}
	for name, was := range before {
		if _, ok := c.pods()[name]; !ok && was.DeletionTimestamp == nil {
			c.t.Errorf("pod %s is gone", name)
		}
	}
}

// explained fails for a state that no event explains: a restart needs a start or a loss of power told of, a wait its reason.
func (c *churner) explained() {
	c.t.Helper()
	pods := c.pods() // before the events: a container may start at any time
	list, err := c.client.CoreV1().Events("default").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	told := map[string]int32{}
	for _, e := range list.Items {
		told[e.InvolvedObject.Name+" "+e.Reason] += max(e.Count, 1)
	}
	for name, pod := range pods {
		if told[name+" Scheduled"] == 0 {
			c.t.Errorf("%s: nothing tells that it was placed on %s", name, pod.Spec.NodeName)
		}
		for _, s := range pod.Status.ContainerStatuses {
			if starts := told[name+" Started"] + told[name+" SandboxChanged"]; s.RestartCount > 0 && starts <= s.RestartCount {
				c.t.Errorf("%s: %d restarts, %d told of", name, s.RestartCount, starts)
			}
			if s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" && told[name+" BackOff"] == 0 {
				c.t.Errorf("%s waits and no event says why", name)
			}
		}
	}
}

// settled waits until every pod runs, or waits for its next start.
func (c *churner) settled() {
	c.t.Helper()
	c.poll("rest", func() bool {
		for _, pod := range c.pods() {
			if len(pod.Status.ContainerStatuses) == 0 || pod.DeletionTimestamp != nil {
				return false
			}
			s := pod.Status.ContainerStatuses[0].State
			if s.Running == nil && (s.Waiting == nil || s.Waiting.Reason != "CrashLoopBackOff") {
				return false
			}
		}
		return true
	})
}

// churn makes so many pods and ends them, in random order, while processes and the daemon are killed; nothing may be left.
func churn(t testing.TB, pods, crashes int) map[string]int {
	c := newChurner(t)
	state := func() string {
		pid := c.cmd.Process.Pid
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("namespaces %d, processes %d, pods' volumes %d", len(cluster.Held(pid)), len(descendants(pid)),
			strings.Count(string(mounts), c.dir+"/volumes-")-len(volumeFolders(c.dir)))
	}
	before := state()
	for c.made < pods {
		switch n := rand.IntN(100); {
		case n < 50:
			c.create()
		case n < 85:
			c.delete(int64(n % 2))
		default:
			c.killOne()
		}
		if c.did["daemons killed"] < crashes*c.made/pods {
			c.crash()
		}
	}
	c.settled()
	c.explained()
	for len(c.living) > 0 {
		c.delete(0)
	}
	c.poll("the end of every pod", func() bool { return len(c.pods()) == 0 })
	c.poll("nothing more than at the beginning: "+before, func() bool { return state() == before })
	processes, err := cluster.Inside(cluster.Held(c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	c.input.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	if left, err := cluster.Leftovers(processes, c.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	return c.did
}

// volumeFolders are the nodes' folders for volumes, a mount each once they were wanted.
func volumeFolders(dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, "volumes-*"))
	return all
}

// N-12, N-16, issue C: pods come and go in any order while their processes, the helpers and the daemon are killed.
// TestSoakManyPodsComeAndGo is the long form.
func TestNothingIsLeftOfPodsThatComeAndGoWhileEverythingIsKilled(t *testing.T) {
	t.Parallel()
	t.Log(churn(t, 150, 2))
}
