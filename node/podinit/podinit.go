// Package podinit is the first process of a container: this same program, started again under the name Word, in new PID, mount,
// UTS, IPC and user namespaces and in the pod's network namespace. It builds the container's view of the files (a private
// overlay of the host's), gives up what privilege it has, and starts the container's processes as they are asked for over a
// socket, until that socket ends: then it ends, and every process of the container with it. It reaps.
//
// Importing the package, blank or not, is all a program has to do; its init takes over when the program's name is Word. That
// is the one init of the repository. It uses the standard library's smallest parts alone, so that it runs before the large
// libraries are initialised: a container starts in a few milliseconds.
//
// The protocol's other half is the caller's: start os/exec's "/proc/self/exe" with Word as its name and one end of a socket
// pair (AF_UNIX, SOCK_SEQPACKET) as descriptor 3; send a Setup, wait for Ready; send Commands with their descriptors.
package podinit

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

const (
	// Word is the name under which the program is a container's first process. The blanks are room in which the process
	// writes the name that ps shows (Setup.Name).
	Word = "kubarium-podinit                                                "
	// ControlFD is the descriptor of the socket.
	ControlFD = 3
	// MainID is the command whose end ends the container; others may have any other number.
	MainID = 1
	// StartFailed is the exit code of a command that could not be started.
	StartFailed = 128
	// NotFound is the exit code of a command whose program does not exist.
	NotFound = 127
)

func init() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case Word:
		os.Exit(run())
	case SpawnWord:
		os.Exit(runSpawner())
	case EnterWord:
		os.Exit(runEntered(os.Args[1:]))
	}
}

// child is a started command.
type child struct {
	id        uint32
	pid       int
	container bool // the first process of a container, started by a pause process
}

// keeper is the state of the first process; its methods run on the main thread, whose privileges are the ones given up.
type keeper struct {
	byPID map[int]child
	byID  map[uint32]child
	file  string // Setup.Message
}

func run() int {
	keepDescriptors()
	var setup Setup
	m, err := receive(ControlFD)
	if err != nil || setup.unpack(m.body) != nil {
		return 2
	}
	setup.sys = -1
	if len(m.fds) > 0 {
		setup.sys = m.fds[0]
	}
	rename(setup.Name)
	if os.Getpid() != 1 { // there are other containers' processes in here: they must not look into this one, nor inherit its own
		prctl(prSetDumpable, 0)
		prctl(prSetSubreaper, 1)
	}
	become := setup.build
	if setup.Pause {
		become = setup.keep
	}
	if err := become(); err != nil {
		send(ControlFD, Event{Kind: Failed, Text: err.Error()}.Pack())
		return 1
	}
	send(ControlFD, Event{Kind: Ready}.Pack()) // what is still to be done takes the daemon's time for an answer
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	k := &keeper{byPID: map[int]child{}, byID: map[uint32]child{}, file: setup.Message}
	inbox := make(chan message)
	go func() {
		for {
			m, err := receive(ControlFD)
			if err != nil {
				os.Exit(0) // the daemon is gone, or is done with this container: so are its processes
			}
			inbox <- m
		}
	}()
	for {
		select {
		case m := <-inbox:
			k.handle(m)
		case s := <-signals:
			k.signal(s.(syscall.Signal))
		}
	}
}

// keepDescriptors lets no command inherit what this process holds: the socket to the daemon, and whatever the daemon was started
// with. A kernel before 5.11 refuses; then the socket is seen to alone.
func keepDescriptors() {
	syscall.CloseOnExec(ControlFD)
	syscall.Syscall(sysCloseRange, ControlFD, ^uintptr(0), closeRangeOnExec)
}

// signal reaps, and hands on what the container's own processes send to the process 1 they know.
func (k *keeper) signal(s syscall.Signal) {
	switch s {
	case syscall.SIGCHLD:
		k.reap()
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2:
		if c, ok := k.byID[MainID]; ok {
			syscall.Kill(c.pid, s)
		} else if s == syscall.SIGTERM || s == syscall.SIGINT {
			os.Exit(128 + int(s))
		}
	}
}

func (k *keeper) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		c, ok := k.byPID[pid]
		if !ok {
			continue // an orphan
		}
		delete(k.byPID, pid)
		delete(k.byID, c.id)
		if c.container {
			k.sweep()
		}
		e := Event{Kind: Exited, ID: c.id, Code: uint32(status.ExitStatus())}
		if status.Signaled() {
			e.Signal = uint32(status.Signal())
			e.Code = 128 + e.Signal
		}
		if c.id == MainID && k.file != "" {
			e.Message = lastWords(k.file)
		}
		send(ControlFD, e.Pack())
	}
}

// maxLastWords is how much of a termination message Kubernetes keeps.
const maxLastWords = 4096

// lastWords reads the end of what a command left in its termination log. The file is the container's: it may be anything.
func lastWords(path string) string {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return ""
	}
	buf := make([]byte, maxLastWords)
	n, err := syscall.Pread(fd, buf, max(0, st.Size-maxLastWords))
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func (k *keeper) handle(m message) {
	defer m.close()
	switch kindOf(m.body) {
	case kindCommand:
		var c Command
		switch {
		case c.unpack(m.body) != nil:
		case c.Container && len(m.fds) > 0:
			k.startContainer(c.ID, m.fds[0])
		default:
			k.start(c, m.fds)
		}
	case kindSignal:
		var s Signal
		if s.unpack(m.body) != nil {
			return
		}
		if c, ok := k.byID[s.ID]; ok {
			target := c.pid
			if s.Group {
				target = -c.pid // a command leads its own session, and so a group of its own number
			}
			syscall.Kill(target, syscall.Signal(s.Signal))
		}
	}
}

// start starts a command and tells how it went.
func (k *keeper) start(c Command, fds []int) {
	fail := func(code uint32, text string) {
		send(ControlFD, Event{Kind: Exited, ID: c.ID, Code: code, Text: text}.Pack())
	}
	if len(c.Args) == 0 {
		fail(StartFailed, "the command is empty")
		return
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	path, err := lookPath(c.Args[0], dir, c.Env)
	if err != nil {
		fail(NotFound, "exec: \""+c.Args[0]+"\": "+text(err))
		return
	}
	if c.ID == MainID {
		mkdirAll(dir) // as container engines do; if it is refused, the start tells
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: c.Env, Sys: &syscall.SysProcAttr{Setsid: true, Credential: c.credential()}}
	var master int
	if c.TTY {
		var slave int
		if master, slave, err = openTTY(); err != nil {
			fail(StartFailed, "open a terminal: "+err.Error())
			return
		}
		defer syscall.Close(master)
		defer syscall.Close(slave)
		fds = []int{slave, slave, slave}
		attr.Sys.Setctty = true
	}
	for _, fd := range fds {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(path, c.Args, attr)
	if err != nil {
		fail(startCode(err), "exec: \""+c.Args[0]+"\": "+err.Error())
		return
	}
	k.byPID[pid], k.byID[c.ID] = child{id: c.ID, pid: pid}, child{id: c.ID, pid: pid}
	started := Event{Kind: Started, ID: c.ID, Code: uint32(pid)}
	if c.TTY {
		send(ControlFD, started.Pack(), master)
		return
	}
	send(ControlFD, started.Pack())
}

// credential is who the command is; nil for whoever this process is.
func (c Command) credential() *syscall.Credential {
	if c.User == uint32(os.Getuid()) && c.Group == uint32(os.Getgid()) && len(c.Groups) == 0 {
		return nil
	}
	return &syscall.Credential{Uid: c.User, Gid: c.Group, Groups: c.Groups, NoSetGroups: len(c.Groups) == 0}
}

// startCode is the shells' custom: 126 for what is there and cannot be run.
func startCode(err error) uint32 {
	switch err {
	case syscall.ENOENT:
		return NotFound
	case syscall.EACCES, syscall.ENOEXEC:
		return 126
	}
	return StartFailed
}

func text(err error) string {
	if err == syscall.ENOENT {
		return "executable file not found in $PATH"
	}
	return err.Error()
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a program as a shell does, by the command's own PATH.
func lookPath(name, dir string, env []string) (string, error) {
	if hasByte(name, '/') {
		if name[0] != '/' {
			return dir + "/" + name, nil
		}
		return name, nil
	}
	path := defaultPath
	for _, e := range env {
		if len(e) > 5 && e[:5] == "PATH=" {
			path = e[5:]
		}
	}
	found := error(syscall.ENOENT)
	for _, d := range split(path, ':') {
		full := d + "/" + name
		var st syscall.Stat_t
		if syscall.Stat(full, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
			continue
		}
		if st.Mode&0o111 != 0 {
			return full, nil
		}
		found = syscall.EACCES
	}
	return "", found
}

// openTTY opens a terminal in the container's own devpts, so that its name means something inside.
func openTTY() (master, slave int, err error) {
	master, err = syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	var n, unlock uint32
	if err = ioctl(master, syscall.TIOCSPTLCK, &unlock); err == nil {
		err = ioctl(master, syscall.TIOCGPTN, &n)
	}
	if err == nil {
		slave, err = syscall.Open("/dev/pts/"+strconv.Itoa(int(n)), syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	}
	if err != nil {
		syscall.Close(master)
	}
	return master, slave, err
}
