package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
	"kubarium.dev/node/podinit"
)

// ExecRequest is one command to run in a container. Stdin, Stdout and Stderr may be nil; with TTY all output goes to Stdout.
// Resize carries the terminal's sizes and is closed when no more will come; nil for none.
type ExecRequest struct {
	Namespace, Pod, Container string // Container may be "" for the pod's first
	Command                   []string
	Stdin                     io.Reader
	Stdout, Stderr            io.Writer
	TTY                       bool
	Resize                    <-chan Size
}

// Size is a terminal's, in characters.
type Size struct{ Width, Height uint16 }

// ExitError is a command's exit code other than 0.
type ExitError struct{ Code int }

// Error says it as kubectl does.
func (e *ExitError) Error() string {
	return fmt.Sprintf("command terminated with exit code %d", e.Code)
}

// defaultTerm is what a terminal is called when nothing else is known.
const defaultTerm = "TERM=xterm"

// Exec runs a command in a container and returns when it has ended: nil for exit code 0, *ExitError for another. The command is
// killed when ctx ends. A read of Stdin that is under way then is left to its owner. Errors: NotFound, BadRequest for a
// container that is not there, InternalError for one that does not run.
func (n *Node) Exec(ctx context.Context, r ExecRequest) error {
	c, err := n.container(r.Namespace, r.Pod, r.Container)
	if err != nil {
		return err
	}
	box, run, err := c.sandbox(ctx)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("unable to upgrade connection: %w", err))
	}
	command := podinit.Command{Args: r.Command, TTY: r.TTY}
	if r.TTY {
		command.Env = []string{defaultTerm}
	}
	return execIn(ctx, box, r, run.command(command))
}

func execIn(ctx context.Context, box *sandbox, r ExecRequest, c podinit.Command) error {
	s, err := newStreams(r)
	if err != nil {
		return err
	}
	defer s.finish()
	cmd, err := box.start(c, false, s.theirs...)
	s.handedOver()
	if err != nil {
		return err
	}
	if terminal := <-cmd.started; terminal != nil {
		s.attach(terminal)
	}
	s.copy()
	var end exit
	select {
	case end = <-cmd.exited:
	case <-ctx.Done():
		box.signal(cmd, syscall.SIGKILL, true)
		end = <-cmd.exited
	}
	s.finish()
	if end.text != "" {
		r.complain(end.text)
	}
	if end.code != 0 {
		return &ExitError{Code: end.code}
	}
	return nil
}

// complain tells the caller why a command did not run, where its own messages would be.
func (r ExecRequest) complain(text string) {
	switch {
	case r.Stderr != nil && !r.TTY:
		fmt.Fprintln(r.Stderr, text)
	case r.Stdout != nil:
		fmt.Fprint(r.Stdout, text+"\r\n")
	}
}

// ExecHere runs a command of the host on the node: in its network namespace, with this process's privileges over it.
func (n *Node) ExecHere(ctx context.Context, r ExecRequest) error {
	resolv := resolvConf{
		nameservers: []string{n.cfg.ClusterDNS.String()}, searches: []string{"svc." + n.cfg.ClusterDomain, n.cfg.ClusterDomain},
		options: []string{"ndots:5"},
	}
	p := place{name: n.cfg.Name, ns: n.NS(), program: n.machine.fabric.cfg.Executable}
	if n.cfg.ClusterDNS.IsValid() {
		p.resolv = resolv.String()
	}
	return p.exec(ctx, r)
}

// Exec runs a command of the host in the namespace of the client outside the cluster.
func (f *Fabric) Exec(ctx context.Context, r ExecRequest) error {
	return place{name: "outside", ns: f.Outside()}.exec(ctx, r)
}

// place is where a command of the host is run.
type place struct {
	name    string
	ns      *netns.NS
	resolv  string // its resolv.conf; "" for the host's
	program string // the program that holds podinit; "" for this one
}

func (p place) exec(ctx context.Context, r ExecRequest) error {
	if len(r.Command) == 0 {
		return apierrors.NewBadRequest("the command is empty")
	}
	s, err := newStreams(r)
	if err != nil {
		return err
	}
	defer s.finish()
	path, err := hostPath(r.Command[0])
	if err != nil {
		r.complain(err.Error())
		return &ExitError{Code: podinit.NotFound}
	}
	cmd := p.command(path, r)
	if r.TTY {
		terminal, slave, err := openTerminal()
		if err != nil {
			return err
		}
		s.attach(terminal)
		s.theirs = []int{slave, slave, slave}
	}
	if err := s.startIn(p.ns, cmd); err != nil {
		r.complain(err.Error())
		return &ExitError{Code: podinit.StartFailed}
	}
	s.handedOver()
	s.copy()
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	stop()
	s.finish()
	return exitOf(err)
}

// command is the host's program, started through podinit, which shows it the place's files.
func (p place) command(path string, r ExecRequest) *exec.Cmd {
	program := p.program
	if program == "" {
		program = "/proc/self/exe"
	}
	return &exec.Cmd{
		Path: program, Args: append([]string{podinit.EnterWord, p.resolv, path}, r.Command...), Dir: "/",
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: r.TTY, Cloneflags: syscall.CLONE_NEWNS},
		Env:         []string{"PATH=" + defaultPath, "HOME=/root", defaultTerm, "KUBARIUM_PLACE=" + p.name, "PS1=" + p.name + "# "},
	}
}

// startIn starts a process of the host with the command's ends of the streams.
func (s *streams) startIn(ns *netns.NS, cmd *exec.Cmd) error {
	files := make([]*os.File, len(s.theirs))
	for i, fd := range s.theirs {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		files[i] = os.NewFile(uintptr(dup), "stream")
		defer files[i].Close()
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	return ns.Start(cmd)
}

// exitOf turns os/exec's way of telling an exit code into ours.
func exitOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &ExitError{Code: 128 + int(ws.Signal())}
	}
	return &ExitError{Code: exit.ExitCode()}
}

// hostPath finds a program of the host by the default PATH: this process's own environment is nobody's business.
func hostPath(name string) (string, error) {
	dirs := strings.Split(defaultPath, ":")
	if strings.Contains(name, "/") {
		dirs = []string{"/"}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}
