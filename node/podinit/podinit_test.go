package podinit_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"kubarium.dev/node/podinit"
)

const inside = "PODINIT_TEST_INSIDE"

// TestMain runs the tests as root of a user namespace when the user is an ordinary one, as the cluster's own process is run.
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

// box is a container's first process, seen from the caller's side.
type box struct {
	t    testing.TB
	cmd  *exec.Cmd
	conn *net.UnixConn
	next uint32
	main podinit.Event // the last that was told of the main command
}

// start makes a container.
func start(t testing.TB, s podinit.Setup) *box {
	t.Helper()
	b := begin(t, s)
	if e, _ := b.receive(); e.Kind != podinit.Ready {
		t.Fatalf("got %+v, want ready", e)
	}
	return b
}

// begin starts a first process and tells it what to make.
func begin(t testing.TB, s podinit.Setup) *box {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	size := 1
	if os.Getenv(inside) == "" {
		size = 65536
	}
	b := &box{t: t, conn: conn.(*net.UnixConn), next: 100, cmd: &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{podinit.Word}, Env: []string{"GOMAXPROCS=1"}, Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{Size: size}}, GidMappings: []syscall.SysProcIDMap{{Size: size}},
		},
	}}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.conn.Close(); b.cmd.Wait() })
	b.send(s.Pack())
	return b
}

func (b *box) send(body []byte, files ...*os.File) {
	b.t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := b.conn.WriteMsgUnix(body, syscall.UnixRights(fds...), nil); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) receive() (podinit.Event, []int) {
	b.t.Helper()
	b.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf, oob := make([]byte, podinit.MaxMessage), make([]byte, 64)
	n, oobn, _, _, err := b.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		b.t.Fatal(err)
	}
	var e podinit.Event
	if err := e.Unpack(buf[:n]); err != nil {
		b.t.Fatal(err)
	}
	var fds []int
	if oobn > 0 {
		c, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			b.t.Fatal(err)
		}
		fds, err = syscall.ParseUnixRights(&c[0])
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return e, fds
}

// run runs a shell command in the container and returns what it wrote, and how it ended.
func (b *box) run(args ...string) (string, podinit.Event) {
	b.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		b.t.Fatal(err)
	}
	defer null.Close()
	b.next++
	b.send(podinit.Command{ID: b.next, Args: args, Env: []string{"A=b", "HOME=/root"}}.Pack(), null, w, w)
	w.Close()
	var out bytes.Buffer
	if _, err := io.Copy(&out, r); err != nil {
		b.t.Fatal(err)
	}
	for {
		e, _ := b.receive()
		if e.ID == podinit.MainID {
			b.main = e
		}
		if e.Kind == podinit.Exited && e.ID == b.next {
			return out.String(), e
		}
	}
}

func (b *box) sh(script string) string {
	b.t.Helper()
	out, e := b.run("sh", "-c", script)
	if e.Code != 0 {
		b.t.Errorf("%s: exit %d %s\n%s", script, e.Code, e.Text, out)
	}
	return strings.TrimSpace(out)
}

// N-5, N-13, N-21
func TestAContainerHasItsOwnViewOfTheMachine(t *testing.T) {
	t.Parallel()
	b := start(t, podinit.Setup{Hostname: "jump", Name: "shop:1.0", Files: []podinit.File{{Path: "/etc/resolv.conf", Content: "nameserver 10.96.0.10\n"}}})
	for script, want := range map[string]string{
		"hostname":             "jump",
		"cat /etc/resolv.conf": "nameserver 10.96.0.10",
		"id -u":                "0",
		"echo $A":              "b",
		"tr '\\0' '\\n' < /proc/1/cmdline | head -1":        "shop:1.0",
		"cat /proc/1/comm":                                  "shop:1.0",
		"ls /home /mnt /tmp | grep -v :":                    "",
		"ls /root; ls /run | grep -v mount":                 "",
		"echo x > /dev/null; test -c /dev/null && echo yes": "yes",
		"ls /sys": "", // no mount of it came along
		"grep NoNewPrivs /proc/self/status | tr -d '\\t'":               "NoNewPrivs:1",
		"grep CapBnd /proc/self/status | tr -d '\\t'":                   "CapBnd:00000000a80425fb",
		"grep CapEff /proc/self/status | tr -d '\\t'":                   "CapEff:00000000a80425fb",
		"ls -d /proc/[0-9]* | wc -l | awk '{print ($1 < 7)}'":           "1",
		"mount -t tmpfs x /mnt 2>/dev/null || echo refused":             "refused",
		"(echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused": "refused",
		"chmod 000 /dev/null 2>/dev/null || echo refused":               "refused",
		"cat /proc/1/environ 2>/dev/null || echo refused":               "refused",
		"unshare -U true 2>/dev/null || echo refused":                   "refused",
	} {
		if got := b.sh(script + "; true"); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
}

// N-18: what was looked at may be a link by the time it is opened.
func TestASourceWithALinkInItsPathIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/real", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/real/file", []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for source, fine := range map[string]bool{
		dir + "/real": true, dir + "/link": false, dir + "/link/file": false, fmt.Sprintf("/proc/%d/root", os.Getpid()): false,
	} {
		b := begin(t, podinit.Setup{Hostname: "a", Mounts: []podinit.Mount{{Source: source, Target: "/mnt/x"}}})
		e, _ := b.receive()
		if fine := map[bool]podinit.EventKind{true: podinit.Ready, false: podinit.Failed}[fine]; e.Kind != fine {
			t.Errorf("%s: got %c %s", source, e.Kind, e.Text)
		}
		if e.Kind == podinit.Failed && !strings.Contains(e.Text, "too many levels of symbolic links") {
			t.Errorf("%s: got %s", source, e.Text)
		}
	}
}

// N-18: the machine's passwords and keys are not shown, even to root's number.
func TestPasswordsAndKeysAreNotShown(t *testing.T) {
	t.Parallel()
	b := start(t, podinit.Setup{Hostname: "a"})
	if got := b.sh("ls -A /etc/ssh /etc/ssl/private 2>/dev/null | grep -v :$ | grep .; true"); got != "" {
		t.Errorf("keys: got %s", got)
	}
	if os.Getenv(inside) != "" {
		return // an ordinary user could not read them anyway
	}
	users, err := os.ReadFile("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.sh("wc -l </etc/shadow; stat -c %a /etc/shadow"), fmt.Sprintf("%d\n600", bytes.Count(users, []byte("\n"))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := b.sh("cut -d: -f2 /etc/shadow | sort -u"); got != "*" {
		t.Errorf("got %s", got)
	}
}

// architecture.md: command [rm, -rf, /etc] harms nobody. N-18
func TestWritingAndRemovingHarmsNobody(t *testing.T) {
	t.Parallel()
	before, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	b, other := start(t, podinit.Setup{Hostname: "a"}), start(t, podinit.Setup{Hostname: "b"})
	if os.Getenv(inside) == "" {
		b.sh("echo mine >> /etc/passwd && tail -n 1 /etc/passwd | grep mine")
		b.sh("rm -rf /etc 2>/dev/null; ! test -e /etc/passwd")
	}
	b.sh("echo mine > /etc/fresh; echo mine > /tmp/fresh; cat /etc/fresh /tmp/fresh")
	if got := other.sh("ls /etc/fresh /tmp/fresh 2>/dev/null; true"); got != "" {
		t.Errorf("another container sees %q", got)
	}
	if after, err := os.ReadFile("/etc/passwd"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the host's /etc/passwd changed (%v)", err)
	}
	if _, err := os.Stat("/etc/fresh"); err == nil {
		t.Error("the host has /etc/fresh")
	}
}

func TestExitCodesAreTold(t *testing.T) {
	t.Parallel()
	b := start(t, podinit.Setup{Hostname: "a"})
	for _, c := range []struct {
		args []string
		code uint32
		text string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"no-such-program"}, podinit.NotFound, `exec: "no-such-program": executable file not found in $PATH`},
		{[]string{"/etc/passwd"}, 126, `exec: "/etc/passwd": permission denied`},
		{nil, podinit.StartFailed, "the command is empty"},
	} {
		if _, e := b.run(c.args...); e.Code != c.code || e.Text != c.text {
			t.Errorf("%v: got %d %q, want %d %q", c.args, e.Code, e.Text, c.code, c.text)
		}
	}
}

// N-11: a terminal whose name means something inside.
func TestATerminalIsTheContainersOwn(t *testing.T) {
	t.Parallel()
	b := start(t, podinit.Setup{Hostname: "a"})
	b.send(podinit.Command{ID: 5, Args: []string{"sh", "-c", "tty; read x; echo got $x"}, TTY: true}.Pack())
	e, fds := b.receive()
	if e.Kind != podinit.Started || len(fds) != 1 {
		t.Fatalf("got %+v %v, want a terminal", e, fds)
	}
	master := os.NewFile(uintptr(fds[0]), "tty")
	defer master.Close()
	io.WriteString(master, "hello\n")
	out, _ := io.ReadAll(master)
	if got := string(out); !strings.Contains(got, "/dev/pts/0") || !strings.Contains(got, "got hello") {
		t.Errorf("got %q", got)
	}
}

// N-10, N-16: the socket's end is every process's end.
func TestTheContainerEndsWithTheSocket(t *testing.T) {
	t.Parallel()
	b := start(t, podinit.Setup{Hostname: "a"})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b.send(podinit.Command{ID: podinit.MainID, Args: []string{"sh", "-c", "trap '' TERM HUP; (trap '' TERM HUP; sleep 1000) & wait"}}.Pack(), r, w, w)
	w.Close()
	if e, _ := b.receive(); e.Kind != podinit.Started {
		t.Fatalf("got %+v", e)
	}
	b.conn.Close()
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(r); err != nil { // the end of all its writers
		t.Errorf("a process of the container lives on: %v", err)
	}
	b.cmd.Wait()
}

// A container's processes know a process 1, and what they send to it reaches the main command.
func TestASignalToProcessOneReachesTheMainCommand(t *testing.T) {
	t.Parallel()
	b := start(t, podinit.Setup{Hostname: "a"})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	b.send(podinit.Command{ID: podinit.MainID, Args: []string{"sh", "-c", "trap 'exit 5' TERM; echo up; sleep 1000 & wait"}}.Pack(), null, w, w)
	w.Close()
	b.receive()
	r.Read(make([]byte, 3))
	b.sh("kill 1")
	for b.main.Kind != podinit.Exited {
		b.main, _ = b.receive()
	}
	if b.main.Code != 5 {
		t.Errorf("got %+v, want exit code 5", b.main)
	}
}

func BenchmarkAContainerStarts(b *testing.B) {
	for b.Loop() {
		x := start(b, podinit.Setup{Hostname: "a"})
		b.StopTimer()
		x.conn.Close()
		x.cmd.Wait()
		b.StartTimer()
	}
}

// N-19: packages that need reflect, net or fmt are initialised after those, and in a program with kubectl in it that takes
// longer than all of a container's start. So this package, which comes before them by its name, must not need them.
func TestNothingLargeIsInitialisedBeforeThisPackage(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		switch dep {
		case "reflect", "fmt", "net", "encoding/binary", "encoding/json", "os/exec", "regexp", "log":
			t.Errorf("podinit needs %s", dep)
		}
	}
}
