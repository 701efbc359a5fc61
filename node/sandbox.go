package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
	"kubarium.dev/node/podinit"
)

// sandbox is a container's first process (podinit), seen from this side: it starts commands inside and tells how they end.
type sandbox struct {
	pid  int    // of the first process, as this process knows it; 0 for one that a pause process started
	kill func() // ends the first process, and so every other one
	gone func() // returns when all have ended
	conn *net.UnixConn
	wg   sync.WaitGroup // the reader

	mu      sync.Mutex // guards all below
	last    uint32     // id given out last
	running map[uint32]*command
	ended   bool
}

// command is one command in a sandbox. Its channels are buffered: nobody has to listen.
type command struct {
	id      uint32
	started chan *os.File // the terminal, or nil; closed without a value when it could not be started
	exited  chan exit
}

// exit is how a command or an application ended.
type exit struct {
	code, signal int
	text         string // why it could not be started; "" if it ran
	message      string // its last words
}

// errSandboxEnded is what a command gets whose container ended before it could be started.
var errSandboxEnded = errors.New("the container has ended")

// buildWait is the longest a container takes to be built, on a machine that has much to do. It takes milliseconds; but where containers
// share their processes, somebody may have stopped the one that builds.
const buildWait = 30 * time.Second

var errNotBuilt = errors.New("the container was not built in time")

// sandboxConfig says where a container is made and what it looks like.
type sandboxConfig struct {
	spawner *spawner
	ns      *netns.NS
	user    *identity // who its processes will be; nil for root
	pause   *sandbox  // the pod's pause process, whose namespaces it shares; nil for none, and then ns is where it is
	setup   podinit.Setup
	sys     *os.File // the mount of /sys that goes with the setup; nil for none
}

// idRange is how many user and group numbers a container knows under root; an ordinary user's has one, himself.
const idRange = 65536

// runtimeQuiet keeps Go's runtime in a container's first process from opening the host's cgroup files.
const runtimeQuiet = "GODEBUG=containermaxprocs=0,updatemaxprocs=0"

// allCapabilities is how many there are since Linux 5.9; an overlay and mounts take SYS_ADMIN alone, but what a kernel asks for
// the rest changes.
const allCapabilities = 41

// startSandbox makes a container and returns when it is built.
func startSandbox(ctx context.Context, c sandboxConfig) (*sandbox, error) {
	s, err := beginSandbox(c)
	if err != nil {
		return nil, err
	}
	return s, s.become(ctx, c.setup, c.sys)
}

// beginSandbox starts a container's first process, which then waits to be told what it is. The setup is not looked at. When the
// spawner ends meanwhile, another one is asked.
func beginSandbox(c sandboxConfig) (*sandbox, error) {
	s, err := tryBegin(c)
	if errors.Is(err, errSpawnerGone) {
		s, err = tryBegin(c)
	}
	if err != nil {
		return nil, fmt.Errorf("start the container's first process: %w", err)
	}
	return s, nil
}

func tryBegin(c sandboxConfig) (*sandbox, error) {
	conn, theirs, err := socketPair("container")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s := &sandbox{conn: conn, last: podinit.MainID, running: map[uint32]*command{}}
	if err := s.begin(c, theirs); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// socketPair is a connection, and its other end for another process.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// begin starts the first process with its end of the socket.
func (s *sandbox) begin(c sandboxConfig, control *os.File) error {
	if c.pause != nil {
		first, err := c.pause.start(podinit.Command{Container: true}, false, int(control.Fd()))
		if err != nil {
			return err
		}
		s.kill = func() { c.pause.signal(first, syscall.SIGKILL, false) }
		s.gone = sync.OnceFunc(func() { <-first.exited })
		return nil
	}
	p, err := c.spawner.start(c.spawn(), c.ns, control)
	if err != nil {
		return err
	}
	s.pid, s.kill, s.gone = p.Pid, func() { p.Kill() }, func() { c.spawner.reap(p) }
	return nil
}

// become makes the container of its first process; one that cannot be made is closed.
func (s *sandbox) become(ctx context.Context, setup podinit.Setup, sys *os.File) error {
	if err := s.build(ctx, setup, sys); err != nil {
		s.close()
		return err
	}
	s.wg.Go(s.read)
	return nil
}

// spawn is what the spawner is asked for.
func (c sandboxConfig) spawn() podinit.Spawn {
	r := podinit.Spawn{Size: 1}
	switch {
	case multiUser():
		r.Size = idRange
	case !c.user.usual():
		// The one user there is goes by the wanted number. A process that is not root keeps its capabilities over exec only so.
		r.User, r.Group, r.Keep = uint32(c.user.user), uint32(c.user.group), allCapabilities
	}
	return r
}

// multiUser tells whether this process's user namespace knows more users than its own.
var multiUser = sync.OnceValue(func() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	var inside, outside, size uint64
	_, err = fmt.Sscan(string(raw), &inside, &outside, &size)
	return err == nil && inside == 0 && size >= idRange
})

// build hands over the description and waits for the container to be made of it.
func (s *sandbox) build(ctx context.Context, setup podinit.Setup, sys *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildWait, errNotBuilt)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	var oob []byte
	if sys != nil {
		oob = syscall.UnixRights(int(sys.Fd()))
	}
	if _, _, err := s.conn.WriteMsgUnix(setup.Pack(), oob, nil); err != nil {
		return fmt.Errorf("build the container: %w", err)
	}
	e, _, err := s.receive(make([]byte, podinit.MaxMessage))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("build the container: its first process ended: %w", err)
	}
	if e.Kind != podinit.Ready {
		return fmt.Errorf("build the container: %s", e.Text)
	}
	return nil
}

// receive waits for an event and the descriptor that may come with it.
func (s *sandbox) receive(buf []byte) (podinit.Event, *os.File, error) {
	var e podinit.Event
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return e, nil, err
	}
	if n == 0 {
		return e, nil, errSandboxEnded
	}
	var file *os.File
	if oobn > 0 {
		if file, err = received(oob[:oobn]); err != nil {
			return e, nil, err
		}
	}
	return e, file, e.Unpack(buf[:n])
}

func received(oob []byte) (*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil, err
	}
	syscall.CloseOnExec(fds[0])
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// read hands out events until the container ends.
func (s *sandbox) read() {
	buf := make([]byte, 4096)
	for {
		e, file, err := s.receive(buf)
		if err != nil {
			s.finish()
			return
		}
		s.mu.Lock()
		c := s.running[e.ID]
		if e.Kind == podinit.Exited {
			delete(s.running, e.ID)
		}
		s.mu.Unlock()
		switch {
		case c == nil && file != nil:
			file.Close()
		case c != nil && e.Kind == podinit.Started:
			c.started <- file
		case c != nil && e.Kind == podinit.Exited:
			close(c.started)
			c.exited <- exit{code: int(e.Code), signal: int(e.Signal), text: e.Text, message: e.Message}
		}
	}
}

// finish ends what was running when the container ended.
func (s *sandbox) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, c := range s.running {
		close(c.started)
		c.exited <- exit{code: 128 + int(syscall.SIGKILL), signal: int(syscall.SIGKILL)}
	}
	clear(s.running)
}

// start starts a command; files are its standard input, output and error, or none for one with a terminal. isMain marks the
// container's own command.
func (s *sandbox) start(c podinit.Command, isMain bool, files ...int) (*command, error) {
	run := &command{started: make(chan *os.File, 1), exited: make(chan exit, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, errSandboxEnded
	}
	s.last++
	run.id = s.last
	if isMain {
		run.id = podinit.MainID
	}
	c.ID = run.id
	body := c.Pack()
	if len(body) > podinit.MaxMessage {
		long, err := inMemory(body)
		if err != nil {
			return nil, err
		}
		defer long.Close()
		body, files = podinit.Long(), append(files[:len(files):len(files)], int(long.Fd()))
	}
	var oob []byte
	if len(files) > 0 {
		oob = syscall.UnixRights(files...)
	}
	if _, _, err := s.conn.WriteMsgUnix(body, oob, nil); err != nil {
		return nil, errSandboxEnded
	}
	s.running[run.id] = run
	return run, nil
}

// inMemory is a file of memory that holds a message too long for the socket.
func inMemory(body []byte) (*os.File, error) {
	if len(body) > podinit.MaxLong {
		return nil, fmt.Errorf("the command and its variables have %d bytes: at most %d fit", len(body), podinit.MaxLong)
	}
	fd, err := unix.MemfdCreate("command", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "command")
	if _, err := f.Write(body); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// signal sends a signal to a command, or to all of its group.
func (s *sandbox) signal(c *command, sig syscall.Signal, group bool) {
	s.conn.Write(podinit.Signal{ID: c.id, Signal: uint32(sig), Group: group}.Pack())
}

// close kills every process of the container and returns when they are gone.
func (s *sandbox) close() {
	s.kill()
	s.gone()
	s.conn.Close()
	s.wg.Wait()
}

// hasEnded tells that it ended by itself.
func (s *sandbox) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// wait returns when the container has ended by itself.
func (s *sandbox) wait() { s.wg.Wait() }
