package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// streams connects a request's readers and writers with the descriptors of a command.
type streams struct {
	r        ExecRequest
	theirs   []int // the command's standard input, output, error
	in       *os.File
	out      []output
	terminal *os.File
	done     chan struct{} // closed by finish
	once     sync.Once
	wg       sync.WaitGroup // the copies of outputs
}

type output struct {
	from *os.File
	to   io.Writer
}

func newStreams(r ExecRequest) (*streams, error) {
	s := &streams{r: r, done: make(chan struct{})}
	if r.TTY {
		return s, nil
	}
	if err := s.open(); err != nil {
		s.finish()
		return nil, err
	}
	return s, nil
}

func (s *streams) open() error {
	null := func() error {
		fd, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err == nil {
			s.theirs = append(s.theirs, fd)
		}
		return err
	}
	if s.r.Stdin == nil {
		if err := null(); err != nil {
			return err
		}
	} else {
		var fds [2]int
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			return err
		}
		s.theirs = append(s.theirs, fds[0])
		if err := syscall.SetNonblock(fds[1], true); err != nil {
			return err
		}
		s.in = os.NewFile(uintptr(fds[1]), "input")
	}
	for _, w := range []io.Writer{s.r.Stdout, s.r.Stderr} {
		if w == nil {
			if err := null(); err != nil {
				return err
			}
			continue
		}
		ours, theirs, err := pipe()
		if err != nil {
			return err
		}
		s.theirs = append(s.theirs, theirs)
		s.out = append(s.out, output{ours, w})
	}
	return nil
}

// attach makes a terminal the command's input and output.
func (s *streams) attach(terminal *os.File) {
	s.terminal, s.in = terminal, terminal
	out := s.r.Stdout
	if out == nil {
		out = io.Discard
	}
	s.out = []output{{terminal, out}}
}

// handedOver closes the command's ends here.
func (s *streams) handedOver() {
	closed := map[int]bool{}
	for _, fd := range s.theirs {
		if !closed[fd] {
			syscall.Close(fd)
			closed[fd] = true
		}
	}
	s.theirs = nil
}

// copy begins to copy in both directions.
func (s *streams) copy() {
	for _, o := range s.out {
		s.wg.Go(func() { copyAll(o.to, o.from) })
	}
	if s.in != nil && s.r.Stdin != nil {
		go func() { // ends with its owner's stream, at the latest
			io.Copy(s.in, s.r.Stdin)
			if s.terminal == nil {
				s.in.Close()
			}
		}()
	}
	if s.terminal != nil && s.r.Resize != nil {
		go s.resize()
	}
}

func (s *streams) resize() {
	for {
		select {
		case size, ok := <-s.r.Resize:
			if !ok {
				return
			}
			raw, err := s.terminal.SyscallConn()
			if err != nil {
				return
			}
			raw.Control(func(fd uintptr) {
				unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
			})
		case <-s.done:
			return
		}
	}
}

// lastWords is how long the output of a command that has ended may stay silent before its streams are given up, when a process
// that it left behind still holds them.
const lastWords = 50 * time.Millisecond

// finish takes over what the command has still written, and closes everything. It may be called more than once.
func (s *streams) finish() {
	s.once.Do(func() {
		close(s.done)
		s.handedOver()
		for _, o := range s.out {
			o.from.SetReadDeadline(time.Now().Add(lastWords))
		}
		s.wg.Wait()
		for _, o := range s.out {
			o.from.Close()
		}
		if s.in != nil {
			s.in.Close()
		}
	})
}

// copyAll copies until the end, or until the deadline and then what is there already.
func copyAll(to io.Writer, from *os.File) {
	_, err := io.Copy(to, struct{ io.Reader }{from})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	from.SetReadDeadline(time.Time{})
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 32<<10)
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.Read(int(fd), buf)
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				return true
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return true
			}
		}
	})
}

// openTerminal opens one of the host's terminals.
func openTerminal() (master *os.File, slave int, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, os.NewSyscallError("open /dev/ptmx", err)
	}
	master = os.NewFile(uintptr(fd), "terminal")
	number := 0
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err == nil {
		slave, err = unix.Open(fmt.Sprint("/dev/pts/", number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		master.Close()
		return nil, 0, fmt.Errorf("open a terminal: %w", err)
	}
	return master, slave, nil
}

// limitedBuffer keeps the first bytes of what several writers write, and forgets the rest.
type limitedBuffer struct {
	mu   sync.Mutex // guards b and left
	b    *bytes.Buffer
	left int
}

// Write implements io.Writer. It never fails.
func (l *limitedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(p), l.left)
	l.b.Write(p[:n])
	l.left -= n
	return len(p), nil
}
