package node

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"kubarium.dev/node/netns"
	"kubarium.dev/node/podinit"
)

const (
	// shortLife is the age below which a spawner that ends is not followed by another until one is needed: it may be of no use.
	shortLife = time.Second
	// strayAge is how long after a spawner's death its last work has ended, too.
	strayAge = time.Second
)

// errSpawnerGone is a request's whose spawner ended meanwhile, with the socket that came along.
var errSpawnerGone = errors.New("the spawner of pods' processes has ended")

// spawner starts the first processes of containers, as children of this process, by a small one that podinit.SpawnWord tells of. When
// that one is killed, another follows.
type spawner struct {
	program string
	home    *netns.NS // where it stands between two requests

	mu      sync.Mutex // guards the rest; held over a request
	running *spawning  // nil: none
	known   map[int]*os.Process
	closed  bool
}

// spawning is one process.
type spawning struct {
	cmd   *exec.Cmd
	conn  *net.UnixConn
	began time.Time
	ended chan struct{}
}

func newSpawner(program string, home *netns.NS) (*spawner, error) {
	s := &spawner{program: cmp.Or(program, "/proc/self/exe"), home: home, known: map[int]*os.Process{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.run()
}

// run starts the process. It needs the lock.
func (s *spawner) run() error {
	conn, theirs, err := socketPair("spawner")
	if err != nil {
		return err
	}
	defer theirs.Close()
	r := &spawning{conn: conn, began: time.Now(), ended: make(chan struct{})}
	r.cmd = &exec.Cmd{
		Path: s.program, Args: []string{podinit.SpawnWord}, Env: []string{"GOMAXPROCS=1", runtimeQuiet}, Dir: "/",
		ExtraFiles: []*os.File{theirs}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := s.home.Start(r.cmd); err != nil {
		conn.Close()
		return fmt.Errorf("start the spawner of pods' processes: %w", err)
	}
	s.running = r
	go s.follow(r)
	return nil
}

// follow waits for the process's end, and has another one follow.
func (s *spawner) follow(r *spawning) {
	defer close(r.ended)
	_ = r.cmd.Wait() // it says nothing
	r.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == r {
		s.running = nil
	}
	if s.running == nil && !s.closed && time.Since(r.began) > shortLife {
		_ = s.run() // else whoever asks next tries, and gets the error
	}
}

// start starts a container's first process in a network namespace, with its end of the socket.
func (s *spawner) start(r podinit.Spawn, ns *netns.NS, control *os.File) (*os.Process, error) {
	where, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer where.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, netns.ErrClosed
	}
	if s.running == nil {
		if err := s.run(); err != nil {
			return nil, err
		}
	}
	pid, err := s.running.ask(r.Pack(), where, control)
	if err != nil {
		if errors.Is(err, errSpawnerGone) {
			s.running = nil
		}
		time.AfterFunc(strayAge, s.buryStrays)
		return nil, err
	}
	p, err := os.FindProcess(pid)
	s.known[pid] = p
	return p, err
}

// ask makes one request. A process that does not answer it is ended.
func (r *spawning) ask(body []byte, files ...*os.File) (pid int, err error) {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	buf := make([]byte, 4096)
	err = r.conn.SetDeadline(time.Now().Add(buildWait))
	if err == nil {
		_, _, err = r.conn.WriteMsgUnix(body, syscall.UnixRights(fds...), nil)
	}
	var n int
	if err == nil {
		n, err = r.conn.Read(buf)
	}
	var e podinit.Event
	if err == nil {
		err = e.Unpack(buf[:n])
	}
	if err != nil {
		_ = r.cmd.Process.Kill() // it may have ended before
		return 0, fmt.Errorf("%w: %w", errSpawnerGone, err)
	}
	if e.Kind != podinit.Started {
		return 0, errors.New(e.Text)
	}
	return int(e.Code), nil
}

// reap waits for the end of a process.
func (s *spawner) reap(p *os.Process) {
	_, _ = p.Wait() // it may have been waited for
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[p.Pid] == p {
		delete(s.known, p.Pid)
	}
}

// buryStrays waits for children that nobody knows of: a spawner that was killed could not tell of its last one any more, which has ended
// with its socket.
func (s *spawner) buryStrays() {
	s.mu.Lock()
	defer s.mu.Unlock()
	lists, _ := filepath.Glob("/proc/self/task/*/children") // a thread that has ended has none
	for _, list := range lists {
		raw, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(raw)) {
			pid, err := strconv.Atoi(word)
			if err == nil && s.known[pid] == nil && s.isStray(pid) {
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

// isStray tells of a process that has ended and never became a container: "42 (exe) Z ...", or with the spawner's name.
func (s *spawner) isStray(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	name := filepath.Base(s.program)
	return bytes.Contains(raw, []byte("(exe) Z ")) || bytes.Contains(raw, fmt.Appendf(nil, "(%s) Z ", name[:min(len(name), 15)]))
}

// close ends the process and waits for it. None that was never made closes well.
func (s *spawner) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	r := s.running
	if r != nil {
		r.conn.Close()
	}
	s.mu.Unlock()
	if r != nil {
		<-r.ended
	}
}
