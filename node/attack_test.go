package node

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"
)

// attacker tells the test binary that it is a pod's program, whose words are the host's secret file and abstract socket.
const attacker = "NODE_TEST_ATTACKER"

// hostKey is a key in the session keyring that the daemon of these tests inherits.
const hostKey = "kubarium-test-key"

// keepSecret puts a key where a process that inherits the keyring finds it. A kernel without keys keeps none.
func keepSecret() {
	if _, err := unix.KeyctlJoinSessionKeyring("kubarium-test"); err != nil {
		return
	}
	unix.AddKey("user", hostKey, []byte("the host's"), unix.KEY_SPEC_SESSION_KEYRING)
}

// attack tries what takes system calls of a program's own, and writes a line for each attempt that got somewhere.
func attack(words []string) {
	secret, abstract := words[0], words[1]
	for what, try := range map[string]func() error{
		"read a key of the host": func() error {
			_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", hostKey, 0)
			return err
		},
		"connect to an abstract socket of the host": func() error {
			c, err := net.Dial("unix", "@"+abstract)
			if err == nil {
				c.Close()
			}
			return err
		},
		"trace process 1":                func() error { return unix.PtraceAttach(1) },
		"read the memory of process 1":   func() error { return readFile("/proc/1/mem") },
		"open the files of process 1":    func() error { return readFile("/proc/1/fd/3") },
		"open a raw socket":              func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
		"open a packet socket":           func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
		"enter the namespaces of 1":      func() error { return enterOne() },
		"load a module":                  func() error { return unix.InitModule([]byte("x"), "") },
		"open a file by its handle":      func() error { return byHandle(secret) },
		"climb out by a second root":     func() error { return secondRoot(secret) },
		"mount the host's disks":         func() error { return unix.Mount("/dev/vda", "/mnt", "ext4", 0, "") },
		"remount the root writable":      func() error { return unix.Mount("", "/usr/bin/env", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"make a device":                  func() error { return unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))) },
		"move into another cgroup":       func() error { return writeAny("/sys/fs/cgroup/*/cgroup.procs", "/sys/fs/cgroup/cgroup.procs") },
		"write to /sys":                  func() error { return writeAny("/sys/kernel/*", "/sys/power/state", "/sys/module/*/parameters/*") },
		"write to the machine's sysctls": func() error { return writeAny("/proc/sys/kernel/*", "/proc/sys/vm/*", "/proc/sys/fs/*") },
		"ask the kernel for a reset":     func() error { return writeAny("/proc/sysrq-trigger") },
		"read the kernel's log":          func() error { _, err := unix.Klogctl(3, make([]byte, 100)); return err },
		"set the time":                   func() error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) },
		"make a user namespace":          func() error { return newNamespace(unix.CLONE_NEWUSER) },
		"make a cgroup namespace":        func() error { return newNamespace(unix.CLONE_NEWCGROUP) },
		"open a file system":             func() error { return openFileSystem("cgroup2", "proc", "sysfs", "tmpfs", "mqueue") },
		"load a program into the kernel": func() error { return bpf() },
		"watch the machine's events":     func() error { return perf() },
		"copy a file of process 1":       func() error { return fileOfOne() },
		"read the memory of 1 another way": func() error {
			_, err := unix.ProcessVMReadv(1, []unix.Iovec{{Base: new(byte), Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0)
			return err
		},
	} {
		if err := try(); err == nil {
			fmt.Println(what)
		}
	}
	fmt.Println("done")
}

func readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

func socket(family, kind, proto int) error {
	fd, err := unix.Socket(family, kind, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// newNamespace asks in a process of its own: a thread of many may not.
func newNamespace(kind uintptr) error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: kind}
	return cmd.Run()
}

func openFileSystem(kinds ...string) error {
	err := error(unix.ENOENT)
	for _, kind := range kinds {
		var fd int
		if fd, err = unix.Fsopen(kind, unix.FSOPEN_CLOEXEC); err == nil {
			return unix.Close(fd)
		}
	}
	return err
}

// bpf makes the map that every program for the kernel begins with.
func bpf() error {
	const mapCreate, array = 0, 2
	attr := [4]uint32{array, 4, 4, 1}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, mapCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return errno
	}
	return nil
}

// perf counts what the whole machine does on its first CPU.
func perf() error {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}, -1, 0, -1, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func fileOfOne() error {
	one, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return err
	}
	defer unix.Close(one)
	fd, err := unix.PidfdGetfd(one, 3, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// enterOne tries to stand where process 1 stood before it built the container.
func enterOne() error {
	err := error(unix.EPERM)
	for _, kind := range []string{"net", "mnt", "user", "pid"} {
		fd, openErr := unix.Open("/proc/1/ns/"+kind, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if openErr != nil {
			continue
		}
		if err = unix.Setns(fd, 0); err == nil {
			return nil
		}
	}
	return err
}

// byHandle opens a file by a guessed handle: the way out of an early container engine.
func byHandle(string) error {
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	const rootInode = 2
	var handle [8]byte
	*(*uint32)(unsafe.Pointer(&handle)) = rootInode
	fd, err := unix.OpenByHandleAt(root, unix.NewFileHandle(1, handle[:]), unix.O_RDONLY)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// secondRoot leaves a root by changing it while the working folder stays outside the new one.
func secondRoot(secret string) error {
	if err := os.Mkdir("/tmp/second", 0o700); err != nil {
		return err
	}
	if err := unix.Chroot("/tmp/second"); err != nil {
		return err
	}
	_, err := os.ReadFile(strings.Repeat("../", 20) + secret)
	return err
}

// writeAny tries to write to whatever matches. Writing nothing changes nothing, and opening is what must fail.
func writeAny(patterns ...string) error {
	for _, p := range patterns {
		files, _ := filepath.Glob(p)
		for _, path := range files {
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				f.Close()
				fmt.Println("writable:", path)
				return nil
			}
		}
	}
	return unix.EACCES
}

// N-18: what a program of the pod's own may try beyond a shell's means; the program itself comes by a hostPath that the
// configuration names.
func TestNoSystemCallLeadsOutOfAPod(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("processes shared ", shared), func(t *testing.T) { attackFrom(t, shared) })
	}
}

func attackFrom(t *testing.T, shared bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", hostKey, 0); err != nil && err != unix.ENOSYS {
		t.Fatalf("the host's own key is not found: %v", err)
	}
	abstract := fmt.Sprintf("kubarium-test-%d-%t", os.Getpid(), shared)
	ln, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b := newBench(t, func(c *NodeConfig) { c.HostPaths = []string{filepath.Dir(exe)} })
	pod := commandPod("sly", "/client/"+filepath.Base(exe), secret, abstract)
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: attacker, Value: "1"}}
	c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true), Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"ALL"}}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "client", MountPath: "/client"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "client", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(exe)}}}}
	pod.Spec.RestartPolicy, pod.Spec.ShareProcessNamespace = corev1.RestartPolicyNever, &shared
	b.create(pod)
	b.await(pod, "over", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	if log := b.logs(pod, LogRequest{}); log != "done\n" {
		t.Errorf("got through:\n%s", log)
	}
}
