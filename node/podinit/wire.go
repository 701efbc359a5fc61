package podinit

import (
	"errors"
	"syscall"
)

// MaxMessage bounds one message of the protocol; the kernel's default for a socket's buffer is little more.
const MaxMessage = 192 << 10

// Setup is the first message: what the container looks like. With it may come the descriptor of a read-only mount of the kernel's
// /sys, of which the container is shown a part; without, its /sys is empty.
type Setup struct {
	Pause    bool // there is no container: the process keeps what the containers of a pod share, and of all below it has its names alone
	Hostname string
	Name     string   // what ps shows for process 1
	Hide     []string // folders of the host that are empty in the container, beside those that always are
	Files    []File   // files that replace the host's, such as /etc/resolv.conf
	Root     string   // the folder of an image, whose files are the container's; "" for the host's files
	Mounts   []Mount  // what is shown beside, in this order
	Frozen   bool     // the root is read-only
	Drop     uint64   // capabilities that are given up, beside those that always are; a bit each
	Message  string   // the file whose content comes with the end of the main command; "" for none

	sys int // the mount of the kernel's /sys; negative for none
}

// File is one small file.
type File struct{ Path, Content string }

// Command is a command to start. With TTY it gets a terminal, whose master comes back with the Started event; else the message
// carries three descriptors: its standard input, output and error.
type Command struct {
	ID   uint32
	Args []string
	Env  []string
	Dir  string // "" for /
	TTY  bool
	// User, Group and Groups are who the command is; Groups are the supplementary ones.
	User, Group uint32
	Groups      []uint32
	// Container asks a pause process for the first process of a container, whose socket is the descriptor that comes along. It ends
	// when all of the container's processes have; it has no words.
	Container bool
}

// Spawn asks a spawner for a container's first process. With it come the descriptors of the network namespace in which that process
// starts, and of its end of the socket.
type Spawn struct {
	// User and Group are the first of the container's Size numbers, which are the caller's from its own first one on.
	User, Group, Size uint32
	Keep              uint32 // how many capabilities a process that is not root keeps; 0 for none
}

// Signal sends a signal to a command, or to its whole process group.
type Signal struct {
	ID, Signal uint32
	Group      bool
}

// EventKind says what happened.
type EventKind byte

// What the first process tells.
const (
	Ready   EventKind = 'R' // the container is built
	Failed  EventKind = 'F' // it could not be: Text says why
	Started EventKind = 'S' // a command runs; Code is its pid inside
	Exited  EventKind = 'X' // a command ended, or could not be started (then Text says why)
)

// Event is what the first process tells.
type Event struct {
	Kind         EventKind
	ID           uint32
	Code, Signal uint32
	Text         string
	Message      string // what the main command left in the Setup's Message file
}

const (
	kindSetup   = 's'
	kindCommand = 'c'
	kindSignal  = 'k'
	kindLong    = 'l'
	kindSpawn   = 'p'
)

// Long is the message for one that is longer than MaxMessage: the message itself is the content of the last descriptor that
// comes with it. A command in a namespace of a thousand Services has so many variables.
func Long() []byte { return []byte{kindLong} }

// MaxLong bounds what a Long message may stand for: the kernel takes no more words and variables for a command.
const MaxLong = 4 << 20

var errMalformed = errors.New("malformed message")

func kindOf(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// Pack writes the message.
func (s Setup) Pack() []byte {
	p := packer{kindSetup}
	p.bool(s.Pause)
	p.text(s.Hostname)
	p.text(s.Name)
	p.texts(s.Hide)
	p.number(uint32(len(s.Files)))
	for _, f := range s.Files {
		p.text(f.Path)
		p.text(f.Content)
	}
	p.text(s.Root)
	p.number(uint32(len(s.Mounts)))
	for _, m := range s.Mounts {
		p.text(m.Source)
		p.text(m.SubPath)
		p.text(m.Target)
		p.bool(m.ReadOnly)
	}
	p.bool(s.Frozen)
	p.number(uint32(s.Drop))
	p.number(uint32(s.Drop >> 32))
	p.text(s.Message)
	return p
}

func (s *Setup) unpack(b []byte) error {
	u := unpacker{rest: b}
	u.kind(kindSetup)
	s.Pause, s.Hostname, s.Name, s.Hide = u.bool(), u.text(), u.text(), u.texts()
	for range u.count() {
		s.Files = append(s.Files, File{Path: u.text(), Content: u.text()})
	}
	s.Root = u.text()
	for range u.count() {
		s.Mounts = append(s.Mounts, Mount{Source: u.text(), SubPath: u.text(), Target: u.text(), ReadOnly: u.bool()})
	}
	s.Frozen = u.bool()
	s.Drop = uint64(u.number()) | uint64(u.number())<<32
	s.Message = u.text()
	return u.end()
}

// Pack writes the message.
func (c Command) Pack() []byte {
	p := packer{kindCommand}
	p.number(c.ID)
	p.texts(c.Args)
	p.texts(c.Env)
	p.text(c.Dir)
	p.bool(c.TTY)
	p.number(c.User)
	p.number(c.Group)
	p.number(uint32(len(c.Groups)))
	for _, g := range c.Groups {
		p.number(g)
	}
	p.bool(c.Container)
	return p
}

func (c *Command) unpack(b []byte) error {
	u := unpacker{rest: b}
	u.kind(kindCommand)
	c.ID, c.Args, c.Env, c.Dir, c.TTY = u.number(), u.texts(), u.texts(), u.text(), u.bool()
	c.User, c.Group = u.number(), u.number()
	for range u.count() {
		c.Groups = append(c.Groups, u.number())
	}
	c.Container = u.bool()
	return u.end()
}

// Pack writes the message.
func (s Spawn) Pack() []byte {
	p := packer{kindSpawn}
	p.number(s.User)
	p.number(s.Group)
	p.number(s.Size)
	p.number(s.Keep)
	return p
}

func (s *Spawn) unpack(b []byte) error {
	u := unpacker{rest: b}
	u.kind(kindSpawn)
	s.User, s.Group, s.Size, s.Keep = u.number(), u.number(), u.number(), u.number()
	return u.end()
}

// Pack writes the message.
func (s Signal) Pack() []byte {
	p := packer{kindSignal}
	p.number(s.ID)
	p.number(s.Signal)
	p.bool(s.Group)
	return p
}

func (s *Signal) unpack(b []byte) error {
	u := unpacker{rest: b}
	u.kind(kindSignal)
	s.ID, s.Signal, s.Group = u.number(), u.number(), u.bool()
	return u.end()
}

// Pack writes the message.
func (e Event) Pack() []byte {
	p := packer{byte(e.Kind)}
	p.number(e.ID)
	p.number(e.Code)
	p.number(e.Signal)
	p.text(e.Text)
	p.text(e.Message)
	return p
}

// Unpack reads the message. It fails for one that is none: a container may have got hold of the socket.
func (e *Event) Unpack(b []byte) error {
	if len(b) == 0 {
		return errMalformed
	}
	u := unpacker{rest: b[1:]}
	e.Kind, e.ID, e.Code, e.Signal, e.Text, e.Message = EventKind(b[0]), u.number(), u.number(), u.number(), u.text(), u.text()
	return u.end()
}

// packer writes numbers in four bytes and texts after their length.
type packer []byte

// number is not encoding/binary's: that package needs reflect, and whatever of the program needs reflect would be initialised
// before this package.
func (p *packer) number(n uint32) { *p = append(*p, byte(n), byte(n>>8), byte(n>>16), byte(n>>24)) }

func (p *packer) text(s string) { p.number(uint32(len(s))); *p = append(*p, s...) }

func (p *packer) texts(all []string) {
	p.number(uint32(len(all)))
	for _, s := range all {
		p.text(s)
	}
}

func (p *packer) bool(b bool) {
	if b {
		*p = append(*p, 1)
	} else {
		*p = append(*p, 0)
	}
}

// unpacker reads what packer wrote; after a fault it reads zeros, and end tells.
type unpacker struct {
	rest []byte
	bad  bool
}

func (u *unpacker) take(n int) []byte {
	if u.bad || n < 0 || n > len(u.rest) {
		u.bad = true
		return nil
	}
	b := u.rest[:n]
	u.rest = u.rest[n:]
	return b
}

func (u *unpacker) kind(k byte) { u.bad = u.bad || kindOf(u.take(1)) != k }

func (u *unpacker) number() uint32 {
	b := u.take(4)
	if b == nil {
		return 0
	}
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// count is the length of a list, whose items take four bytes at least.
func (u *unpacker) count() int {
	n := int(u.number())
	if n > len(u.rest)/4 {
		u.bad = true
		return 0
	}
	return n
}

func (u *unpacker) text() string { return string(u.take(int(u.number()))) }
func (u *unpacker) bool() bool   { b := u.take(1); return b != nil && b[0] != 0 }

func (u *unpacker) texts() []string {
	var all []string
	for range u.count() {
		all = append(all, u.text())
	}
	return all
}

func (u *unpacker) end() error {
	if u.bad || len(u.rest) > 0 {
		return errMalformed
	}
	return nil
}

// message is one packet and the descriptors that came with it.
type message struct {
	body []byte
	fds  []int
}

func (m message) close() {
	for _, fd := range m.fds {
		syscall.Close(fd)
	}
}

const maxFDs = 4

// inFull is the message that a Long one stands for.
func (m message) inFull() (message, error) {
	if kindOf(m.body) != kindLong || len(m.fds) == 0 {
		return m, nil
	}
	fd := m.fds[len(m.fds)-1]
	defer syscall.Close(fd)
	m.fds = m.fds[:len(m.fds)-1]
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return m, err
	}
	if st.Size > MaxLong {
		return m, errMalformed
	}
	body := make([]byte, st.Size)
	n, err := syscall.Pread(fd, body, 0)
	m.body = body[:max(n, 0)]
	return m, err
}

// receive waits for a packet. The end of the socket is an error.
func receive(fd int) (message, error) {
	buf, oob := make([]byte, MaxMessage), make([]byte, syscall.CmsgSpace(maxFDs*4))
	for {
		n, oobn, _, _, err := syscall.Recvmsg(fd, buf, oob, syscall.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return message{}, err
		}
		if n == 0 {
			return message{}, syscall.EPIPE
		}
		m := message{body: append([]byte(nil), buf[:n]...)}
		controls, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return m, err
		}
		for i := range controls {
			fds, err := syscall.ParseUnixRights(&controls[i])
			if err != nil {
				return m, err
			}
			m.fds = append(m.fds, fds...)
		}
		return m.inFull()
	}
}

func send(fd int, body []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	for {
		err := syscall.Sendmsg(fd, body, oob, nil, 0)
		if err != syscall.EINTR {
			return err
		}
	}
}
