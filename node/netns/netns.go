// Package netns makes network namespaces and works inside them. It is the only place of the program that switches namespaces.
//
// A namespace is held by a file descriptor and nothing else: it ends, with all its interfaces, routes and rules, when the last
// descriptor, process and socket of it is gone, kill -9 included.
//
// Work is done by guest threads: operating-system threads that leave the host's namespace once and never come back (a process
// in a user namespace could not come back), hopping from namespace to namespace as work arrives. One without work waits in the
// lobby, an empty namespace, so that it holds none that has been closed. The process's main thread is
// never one of them, because /proc/self speaks of the main thread, and a guest never ends, because the runtime would put its
// successor in the wrong namespace. Sockets belong to the namespace they were made in, whichever thread uses them later: so
// listening and dialling make the socket inside, and everything else happens outside.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// NS is one network namespace. Its methods may be called from any goroutine.
type NS struct {
	mu    sync.Mutex // guards file
	file  *os.File
	inode uint64
}

// ErrClosed is returned for a namespace that was closed.
var ErrClosed = errors.New("the network namespace is closed")

// New makes a network namespace with its loopback interface up, and runs each fn in it, on the same terms as Do: one change of
// thread for all. It needs CAP_SYS_ADMIN in the process's user namespace.
func New(fns ...func() error) (*NS, error) {
	n := &NS{}
	err := guests.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := n.hold(); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		for _, fn := range fns {
			if err := fn(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// hold opens the calling thread's namespace.
func (n *NS) hold() error {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("hold the network namespace: %w", err)
	}
	n.file = f
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("hold the network namespace: %w", err)
	}
	n.inode = st.Ino
	return nil
}

// loopbackUp sets the flag on lo by ioctl: a netlink library is not worth having down here.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// FD is the namespace's descriptor, for libraries that switch by it. It is valid until Close; -1 afterwards.
func (n *NS) FD() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return -1
	}
	return int(n.file.Fd())
}

// Handle is another descriptor of the namespace, for a process that enters it by itself. Whoever asks closes it.
func (n *NS) Handle() (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil, ErrClosed
	}
	fd, err := unix.FcntlInt(n.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), n.file.Name()), nil
}

// Inode names the namespace as /proc does: net:[inode].
func (n *NS) Inode() uint64 { return n.inode }

// Close lets go of the namespace. It may be called more than once.
func (n *NS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil
	}
	err := n.file.Close()
	n.file = nil
	return err
}

// Do runs fn on a thread that stands in the namespace. fn must neither block for long nor start goroutines (they would run
// elsewhere), and must not call Do.
func (n *NS) Do(fn func() error) error {
	return guests.do(func() error {
		n.mu.Lock()
		if n.file == nil {
			n.mu.Unlock()
			return ErrClosed
		}
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		n.mu.Unlock()
		if err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return fn()
	})
}

// Start starts a process in the namespace.
func (n *NS) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Sysctl writes one setting of the namespace: "net.ipv4.ip_forward", "1".
func (n *NS) Sysctl(name, value string) error {
	return n.Do(func() error { return Sysctl(name, value) })
}

// Sysctl writes one setting of the namespace that the calling thread stands in: it is for functions given to Do and New.
func Sysctl(name, value string) error {
	path := []byte("/proc/sys/" + name)
	for i := range path[len("/proc/sys/"):] {
		if c := &path[len("/proc/sys/")+i]; *c == '.' {
			*c = '/'
		}
	}
	if err := os.WriteFile(string(path), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// pool is the guest threads. Each serves one call at a time; idle ones wait in the lobby.
type pool struct {
	mu    sync.Mutex // guards n and lobby
	n     int
	lobby NS // held from when the first has had to wait
	work  chan job
}

type job struct {
	fn   func() error
	done chan error
}

// maxGuests bounds the threads: calls are short, and two keep a small machine busy while one waits for the kernel.
const maxGuests = 4

var guests = &pool{work: make(chan job)}

// do hands fn to an idle guest, to a new one while there are few, or waits for one.
func (p *pool) do(fn func() error) error {
	j := job{fn: fn, done: make(chan error, 1)}
	select {
	case p.work <- j:
	default:
		p.grow()
		p.work <- j
	}
	return <-j.done
}

func (p *pool) grow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n < maxGuests {
		p.n++
		go p.guest()
	}
}

// guest owns its thread for ever. If it was given the main thread, it keeps that one busy, at home, until another goroutine has
// taken a different thread, and lets go.
func (p *pool) guest() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread() // the main thread is taken: this is another one
			close(elsewhere)
			p.serve()
		}()
		<-elsewhere
		runtime.UnlockOSThread()
		return
	}
	p.serve()
}

func (p *pool) serve() {
	for {
		select {
		case j := <-p.work:
			j.done <- j.fn()
		default:
			p.rest()
			j := <-p.work
			j.done <- j.fn()
		}
	}
}

// rest takes the calling thread to the lobby. One that cannot go there stays where it is.
func (p *pool) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lobby.file != nil {
		_ = unix.Setns(int(p.lobby.file.Fd()), unix.CLONE_NEWNET)
		return
	}
	if unix.Unshare(unix.CLONE_NEWNET) == nil {
		_ = p.lobby.hold()
	}
}

// Lobby is the inode of the one namespace that stays with the process: idle threads wait in it. 0: there is none yet.
func Lobby() uint64 {
	guests.mu.Lock()
	defer guests.mu.Unlock()
	return guests.lobby.inode
}
