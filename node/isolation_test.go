package node

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// N-18: each line is an attempt to get out of a pod; it says what it got.
func TestNothingGetsOutOfAPod(t *testing.T) {
	t.Parallel()
	secret := t.TempDir()
	if err := os.WriteFile(filepath.Join(secret, "secret"), []byte("the host's\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := net.Listen("unix", filepath.Join(secret, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	b := newBench(t, nil)
	if err := os.WriteFile(filepath.Join(b.cfg.StateDir, "key"), []byte("the cluster's\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	victim, sly, web := commandPod("victim", "sleep", "4321"), commandPod("sly", "sh", "-c", stay), webPod("web-1")
	victim.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	victim.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	sly.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr(true), AllowPrivilegeEscalation: ptr(true),
		Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"ALL"}}}
	shared := kin("kin")
	for _, pod := range []*corev1.Pod{victim, sly, web, shared} {
		b.create(pod)
		b.awaitReady(pod)
	}
	b.expect(victim, "main", "echo mine >/v/file; echo mine >/tmp/file", "")
	daemon := os.Getpid()
	for what, script := range map[string]string{
		"see another pod's process":    "pgrep -f '[4]321'",
		"signal the daemon":            fmt.Sprintf("kill -0 %d 2>/dev/null && grep -q node.test /proc/%d/comm && echo reached", daemon, daemon),
		"read the host's files":        "cat " + secret + "/secret 2>/dev/null",
		"read the cluster's keys":      "cat " + b.cfg.StateDir + "/key 2>/dev/null",
		"read another pod's volume":    "ls " + b.cfg.StateDir + "/* 2>/dev/null; find / -xdev -path '*volumes-n1*' 2>/dev/null",
		"read the users' homes":        "ls -A /root /home 2>/dev/null | grep -v :$ | grep .",
		"reach a host's socket":        "curl -s --max-time 2 --unix-socket " + secret + "/socket http://x/ && echo reached; ls /run/*.sock /var/run/*.sock 2>/dev/null",
		"reach the host's network":     fmt.Sprintf("curl -s --max-time 2 http://%s/ && echo reached", ln.Addr()),
		"see the host's interfaces":    "ls /sys/class/net | grep -vx -e lo -e eth0; grep -c docker /proc/net/dev | grep -v ^0",
		"change its own interfaces":    "(ip link set eth0 down || ip addr add 10.9.9.9/32 dev eth0 || ip route del default) 2>/dev/null && echo changed",
		"change its node's rules":      "nft add table ip evil 2>/dev/null && echo changed",
		"mount something":              "(mount -t tmpfs x /mnt || mount --bind /etc /mnt || mount -t proc x /mnt) 2>/dev/null && echo mounted",
		"make a device":                "mknod /tmp/sda b 8 0 2>/dev/null && echo made",
		"open a disk":                  "for d in /dev/vda /dev/sda /dev/nvme0n1 /dev/mem /dev/kmsg; do test -e $d && echo $d; done",
		"change the kernel":            "(echo x >/proc/sys/kernel/hostname || echo 1 >/proc/sysrq-trigger || echo 1 >/proc/sys/vm/drop_caches) 2>/dev/null && echo changed",
		"see the host's devices":       "ls -d /sys/firmware /sys/bus /sys/block /sys/module /sys/power /sys/devices/pci* /sys/kernel/debug /sys/fs/cgroup/* 2>/dev/null",
		"trace process 1":              "cat /proc/1/maps /proc/1/environ 2>/dev/null; readlink /proc/1/fd/*; cat /proc/1/fd/* 2>/dev/null",
		"gain by a new user namespace": "unshare -Urm sh -c 'cat /proc/self/status >/dev/null; cat " + secret + "/secret' 2>/dev/null",
		"join another namespace":       "nsenter -t 1 -n true 2>/dev/null && nsenter -t 1 -m ls " + secret + " 2>/dev/null",
		"gain by a set-user-id file":   "grep -q 'NoNewPrivs:.1' /proc/self/status || echo can gain",
		"set the clock or the name":    "(date -s 2000-01-01 || hostname evil) >/dev/null 2>&1 && echo set",
		"inherit a descriptor":         "for f in /proc/self/fd/*; do case $(readlink $f) in pipe:*|/dev/null|/proc/*|'') ;; *) readlink $f;; esac; done; test -e /proc/self/fd/9 && echo open",
		"climb out of the root":        "cat /proc/1/root/../../.." + secret + "/secret 2>/dev/null; cd / && cat ../../../.." + secret + "/secret 2>/dev/null",
	} {
		for _, pod := range []*corev1.Pod{sly, web, shared} {
			out, _ := b.execIn(pod, "", "sh", "-c", script)
			if strings.TrimSpace(out) != "" {
				t.Errorf("%s: %s: got %q", pod.Name, what, out)
			}
		}
	}
	b.expect(victim, "main", "cat /v/file /tmp/file; hostname", "mine\nmine\nvictim")
}

// N-18: what process 1 holds is its own: a socket to the daemon, and the runtime's.
func TestProcessOneHoldsNoFileOfTheHost(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sh", "-c", stay)
	b.create(pod)
	b.awaitReady(pod)
	helper := b.find("dev", "jump").containers[0].current().box.pid
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", helper))
	if err != nil || len(fds) == 0 {
		t.Fatalf("got %v %v", fds, err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if kind, _, _ := strings.Cut(to, ":"); err == nil && !slices.Contains([]string{"pipe", "socket", "anon_inode", "/dev/null"}, kind) {
			t.Errorf("process 1 holds %s", to)
		}
	}
}

// N-16: whoever dies, the pod comes back, and nothing is left.
func TestKilledProcessesAndHelpersAreStartedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("jump", "sh", "-c", stay)
	b.create(pod)
	b.awaitReady(pod)
	w := b.find("dev", "jump")
	if err := syscall.Kill(w.containers[0].current().box.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	got := b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if e := got.Status.ContainerStatuses[0].LastTerminationState.Terminated; e == nil || e.ExitCode != 137 {
		t.Errorf("got %+v", e)
	}
	b.execIn(pod, "", "sh", "-c", "kill -9 $(pgrep -f 'trap')")
	b.await(pod, "backing off", func(p *corev1.Pod) bool { return waitingReason(p.Status.ContainerStatuses[0]) == "CrashLoopBackOff" })
	b.remove(pod, 0)
	b.awaitGone(pod)
}

// N-16, issue 4: pods come and go in any order while their processes die; then there is nothing more than there was.
func TestNothingIsLeftAfterManyPodsAndKills(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	if err := b.Registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.put(configMap("cfg", map[string]string{"a": "1"}))
	links := func() int {
		all, err := b.machine.link.netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := links()
	pods := b.comeAndGo()
	for _, pod := range pods {
		b.awaitGone(pod)
	}
	b.awaitNoWorker()
	b.until("the end of the interfaces", func() bool { return links() == before })
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if len(b.machine.used) > 0 || len(b.machine.nets) > 0 {
		t.Errorf("left: addresses %v, networks %v", b.machine.used, b.machine.nets)
	}
	if left, _ := os.ReadDir(filepath.Join(b.cfg.StateDir, "volumes-n1")); len(left) > 0 {
		t.Errorf("left: volumes %v", left)
	}
	if len(b.workers) > 0 {
		t.Errorf("left: workers %v", b.workers)
	}
}

// comeAndGo makes pods and removes them, and kills some of them in between.
func (b *bench) comeAndGo() []*corev1.Pod {
	b.t.Helper()
	var pods []*corev1.Pod
	for i := range 60 {
		pod := webPod(fmt.Sprint("p-", i))
		if i%3 == 0 {
			pod = commandPod(pod.Name, "sh", "-c", stay)
			pod.Spec.Volumes = []corev1.Volume{{Name: "cfg", VolumeSource: fromConfigMap("cfg")}}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "cfg", MountPath: "/cfg"}}
		}
		b.create(pod)
		pods = append(pods, pod)
		if i%2 == 1 {
			b.remove(pods[i/2], int64(i%4/3))
		}
		if w := b.find("dev", pods[i*7%len(pods)].Name); w != nil && i%5 == 0 {
			if r := w.containers[0].current(); r != nil {
				r.kill()
			}
		}
	}
	for _, pod := range pods {
		_, err := b.store.Update(b.t.Context(), func(tx *store.Tx) error {
			err := tx.Delete(api.Pods, pod.Namespace, pod.Name, store.DeleteOptions{GracePeriodSeconds: ptr[int64](0)})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return pods
}

// N-4, N-5: a hostPort leads to the pod while it is there, for TCP and UDP.
func TestAHostPortLeadsToThePod(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1")
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 53, HostPort: 5353, Protocol: corev1.ProtocolUDP}}
	b.create(pod)
	b.awaitReady(pod)
	if body, err := b.get("172.30.0.11:8080", "/"); err != nil || !strings.HasPrefix(body, "pod: web-1\n") {
		t.Errorf("got %q %v", body, err)
	}
	conn, err := b.fabric.Outside().DialContext(t.Context(), "udp4", "172.30.0.11:5353")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, word := range []string{"hello", "again"} {
		conn.Write([]byte(word))
		buf := make([]byte, 10)
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != word {
			t.Errorf("got %q %v", buf[:n], err)
		}
	}
	second := webPod("web-2")
	second.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
	b.create(second)
	b.awaitEvent(second, "FailedCreatePodSandBox")
	b.remove(pod, 0)
	b.awaitReady(second)
	if body, err := b.get("172.30.0.11:8080", "/"); err != nil || !strings.HasPrefix(body, "pod: web-2\n") {
		t.Errorf("got %q %v", body, err)
	}
}

// N-5: hostname, subdomain and aliases are what a pod calls itself and others.
func TestAPodIsCalledAsItsManifestSays(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("named", "sh", "-c", stay)
	pod.Spec.Hostname, pod.Spec.Subdomain, pod.Spec.SetHostnameAsFQDN = "db-0", "db", ptr(true)
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"foo.local", "bar.local"}}}
	b.create(pod)
	ip := b.awaitReady(pod).Status.PodIP
	b.expect(pod, "main", "hostname; getent hosts foo.local | tr -s ' '; getent hosts db-0 | tr -s ' '",
		"db-0.db.dev.svc.cluster.local\n192.0.2.7 foo.local bar.local\n"+ip+" db-0.db.dev.svc.cluster.local db-0")
	onNode := commandPod("onnode", "sh", "-c", stay)
	onNode.Spec.HostNetwork = true
	b.create(onNode)
	if got := b.awaitReady(onNode); got.Status.PodIP != "172.30.0.11" {
		t.Errorf("got %s", got.Status.PodIP)
	}
	b.expect(onNode, "main", "readlink /proc/self/ns/net; hostname", fmt.Sprintf("net:[%d]\nn1", b.NS().Inode()))
}

// N-16: the daemon's end by kill -9 ends every process of every pod.
func TestNoProcessOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	mine := fmt.Sprintf("sleep 1%09d", os.Getpid()) // nobody else's on this machine
	pod := commandPod("jump", "sh", "-c", mine+" & "+stay)
	b.create(pod)
	b.awaitReady(pod)
	box := b.find("dev", "jump").containers[0].current().box
	var pids []string
	b.until("its process", func() bool {
		out, err := exec.Command("pgrep", "-f", mine).Output()
		pids = strings.Fields(string(out))
		return err == nil
	})
	box.conn.Close()                                  // what the kernel does when the daemon dies
	b.until("the end of its processes", func() bool { // the pod's next ones have other numbers
		return !slices.ContainsFunc(pids, func(pid string) bool {
			raw, _ := os.ReadFile("/proc/" + pid + "/cmdline") // nothing of one that has ended
			return len(raw) > 0
		})
	})
	if _, err := store.Get[*corev1.Pod](b.store, api.Pods, "dev", "jump"); err != nil {
		t.Errorf("the pod is gone: %v", err)
	}
}
