package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"kubarium.dev/node/netns"
	"kubarium.dev/node/podinit"
)

// startCommand makes the container and starts its command.
func (c *container) startCommand(ctx context.Context, r *run, args []string) error {
	if c.beside() {
		return c.startBeside(ctx, r, args)
	}
	if _, err := c.aim(); err != nil {
		return err
	}
	box, err := c.makeSandbox(ctx, r)
	if err != nil {
		return err
	}
	main, out, err := c.launch(ctx, box, r, args)
	if err != nil {
		box.close()
		return err
	}
	r.box = box
	r.kill = box.kill
	c.attend(box, r, main, out)
	return nil
}

// startBeside starts the command of an ephemeral container among the processes of the container that it is to look at, and with
// that one's files (kubectl debug --target).
func (c *container) startBeside(ctx context.Context, r *run, args []string) error {
	target, err := c.aim()
	if err != nil {
		return err
	}
	box, _, err := target.sandbox(ctx)
	if err != nil {
		return err
	}
	main, out, err := c.launch(ctx, box, r, args)
	if err != nil {
		return err
	}
	r.kill = func() { box.signal(main, syscall.SIGKILL, true) }
	c.attend(box, r, main, out)
	return nil
}

// aim is the container that an ephemeral one is to look at; nil for none in particular.
func (c *container) aim() (*container, error) {
	if c.target == "" {
		return nil, nil
	}
	target := c.w.find(c.target)
	if target == nil || target.role == roleEphemeral {
		return nil, configError{fmt.Errorf("unable to find target container %q", c.target)}
	}
	return target, nil
}

// attend takes what the command writes, and tells of its end. out is where it comes out; nil for nothing.
func (c *container) attend(box *sandbox, r *run, main *command, out *os.File) {
	r.finish = func(ctx context.Context) {
		box.signal(main, r.stopSignal, false)
		select {
		case <-r.done:
		case <-ctx.Done():
			r.kill()
			<-r.done
		}
	}
	drained := make(chan struct{})
	c.w.wg.Go(func() {
		defer close(drained)
		if out != nil {
			defer out.Close()
			copyAll(r.io, out)
		}
	})
	c.w.wg.Go(func() {
		result := <-main.exited
		r.io.closeInput()
		r.closeBox() // the container ends with its command
		if out != nil {
			// What was written is taken whole before anybody hears of the end; a process that holds the output still does not keep it open.
			out.SetReadDeadline(time.Now().Add(lastWords))
		}
		<-drained
		c.over(r, result)
	})
}

// launch starts the command with the input and output it asks for, and returns where its output comes out. One that could not be
// started has ended: that is no error.
func (c *container) launch(ctx context.Context, box *sandbox, r *run, args []string) (*command, *os.File, error) {
	command, isMain := podinit.Command{Args: args, TTY: c.spec.TTY}, !c.beside()
	if c.spec.TTY {
		command.Env = []string{defaultTerm}
		main, err := box.start(r.command(command), isMain)
		if err != nil {
			return nil, nil, err
		}
		terminal, err := r.begun(ctx, main)
		if terminal != nil {
			r.io.open(terminal, terminal)
		}
		return main, terminal, err
	}
	in, err := c.input(r)
	if err != nil {
		return nil, nil, err
	}
	defer syscall.Close(in)
	out, theirs, err := pipe()
	if err != nil {
		return nil, nil, err
	}
	defer syscall.Close(theirs)
	main, err := box.start(r.command(command), isMain, in, theirs, theirs)
	if err == nil {
		_, err = r.begun(ctx, main)
	}
	if err != nil {
		out.Close()
		return nil, nil, err
	}
	return main, out, nil
}

// begun waits until the run's command has been started, or could not be, and returns its terminal, if it has one.
func (r *run) begun(ctx context.Context, main *command) (*os.File, error) {
	select {
	case terminal, ok := <-main.started:
		r.stillborn = !ok
		return terminal, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// input is the command's standard input: what attached clients write, if the container asks for that, else nothing.
func (c *container) input(r *run) (int, error) {
	if !c.spec.Stdin {
		fd, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		return fd, os.NewSyscallError("open /dev/null", err)
	}
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return -1, os.NewSyscallError("pipe", err)
	}
	if err := syscall.SetNonblock(fds[1], true); err != nil {
		return -1, err
	}
	r.io.open(os.NewFile(uintptr(fds[1]), "input"), nil)
	return fds[0], nil
}

// makeSandbox makes the processes' place of a run in the pod's namespace. It may be called from any goroutine.
func (c *container) makeSandbox(ctx context.Context, r *run) (*sandbox, error) {
	w := c.w
	net, pod := w.net.Load(), w.latest.Load()
	if net == nil {
		return nil, errSandboxEnded
	}
	if !pod.Spec.HostNetwork {
		if err := errors.Join(openPorts(net), tune(net, pod)); err != nil {
			return nil, err
		}
	}
	if err := w.volumes.check(ctx, w.withAddresses(), true); err != nil {
		return nil, err
	}
	mounts, err := w.volumes.mounts(c.spec, r.env)
	if err != nil {
		return nil, err
	}
	resolv, _ := ResolvConf(pod, w.n.resolver)
	setup := podinit.Setup{
		Hostname: w.n.hostname(pod), Name: r.name, Hide: w.n.hide(), Message: c.spec.TerminationMessagePath,
		Root: r.root, Mounts: mounts, Frozen: frozen(c.spec), Drop: dropped(c.spec),
		Files: []podinit.File{
			{Path: "/etc/resolv.conf", Content: resolv},
			{Path: "/etc/hosts", Content: hostsFile(pod, net.IP, w.n.cfg.ClusterDomain)},
			{Path: "/etc/hostname", Content: w.n.hostname(pod) + "\n"},
		},
	}
	sys := w.n.sysfs(net.NS)
	defer sys.Close()
	config := sandboxConfig{spawner: w.n.machine.fabric.spawner, ns: net.NS, user: r.user, setup: setup, sys: sys}
	if sharesProcesses(pod) {
		if config.pause, err = w.pause.get(ctx, w, net.NS, r.user); err != nil {
			return nil, err
		}
		return startSandbox(ctx, config)
	}
	if box := w.takeEarly(r.user); box != nil {
		return box, box.become(ctx, setup, sys)
	}
	return startSandbox(ctx, config)
}

// sysfs is what a container's /sys is made of; nil where the kernel does not let us, and then it is empty.
func (n *Node) sysfs(ns *netns.NS) *os.File {
	sys, err := ns.Sysfs()
	if err != nil {
		n.noSys.Do(func() { n.cfg.Log.Warn("pods have an empty /sys", "node", n.cfg.Name, "error", err) })
		return nil
	}
	return sys
}

// beginEarly starts the first process of the pod's first command while the pod's network is still being wired: both take
// milliseconds, and neither needs the other.
func (w *worker) beginEarly(ns *netns.NS) {
	first := w.all()[0].spec
	p, err := w.n.resolve(first)
	if err != nil || p.builtIn || sharesProcesses(w.pod) {
		return
	}
	user, err := identify(w.pod, first, p.user)
	if err != nil || !user.usual() || w.n.volumes.mount() != nil { // it sees the mounts that are there now, and below the shared one
		return
	}
	early := make(chan *sandbox, 1)
	w.early = early
	w.wg.Go(func() {
		defer close(early)
		if box, err := beginSandbox(sandboxConfig{spawner: w.n.machine.fabric.spawner, ns: ns}); err == nil { // else it is tried again
			early <- box
		}
	})
}

// takeEarly is the process that was started early; nil when there is none, or somebody has taken it.
func (w *worker) takeEarly(user *identity) *sandbox {
	if w.early == nil || !user.usual() {
		return nil
	}
	return <-w.early
}

// dropEarly ends the process that was started early, if nobody has taken it.
func (w *worker) dropEarly() {
	if box := w.takeEarly(nil); box != nil {
		box.close()
	}
}

// openPorts lets the container's processes listen on ports below 1024 and ping: they have no privilege over the network
// namespace, which belongs to this process's user namespace.
func openPorts(net *podNet) error {
	if err := net.NS.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"); err != nil {
		return err
	}
	groups := "0 0"
	if multiUser() {
		groups = fmt.Sprint("0 ", idRange-1)
	}
	return net.NS.Sysctl("net.ipv4.ping_group_range", groups)
}
