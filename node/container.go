package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/app"
	"kubarium.dev/node/podinit"
)

// container is one container of a pod, over all its runs.
type container struct {
	w      *worker
	spec   *corev1.Container
	role   role
	target string // of an ephemeral container: the one whose processes it sees; "" for none

	// The worker's own; nobody else reads them.
	restarts int32
	failures int       // in a row, for the back-off
	retryAt  time.Time // when it is started again; zero when it is not waiting for that
	waiting  corev1.ContainerStateWaiting
	image    string                           // in words, how the image was resolved (N-15); "" until it was
	running  bool                             // a run was started, and its end has not been taken up
	hooking  bool                             // its postStart hook runs
	last     *corev1.ContainerStateTerminated // how the run before this one ended
	ended    *corev1.ContainerStateTerminated // how the current run ended; nil while it runs or waits
	wants    string                           // the image, which may be changed while the pod runs
	given    corev1.ResourceRequirements      // of cpu and memory
	changed  bool                             // it was: the run that ends is followed by another, whatever the policy
	probes   probeState
	fresh    bool               // just started: no probe has answered yet
	life     context.Context    // of the hook and the probes of the current run
	stop     context.CancelFunc // of life

	mu       sync.Mutex // guards all below
	run      *run       // nil when none was started yet
	previous *runLog
}

// run is one run of a container.
type run struct {
	began      time.Time
	id         string
	log        *runLog
	io         *terminalIO
	stopSignal syscall.Signal
	name       string // what ps shows for process 1
	env        *environment
	dir        string
	root       string        // the folder of its image; "" for the host's files
	user       *identity     // who its processes are
	done       chan struct{} // closed when it has ended; then result is set
	stillborn  bool          // its command could not be started; result says why
	// finish asks the run to end, kills it when ctx ends, and returns when it has ended.
	finish func(ctx context.Context)
	kill   func()
	result exit

	app *app.App // of a built-in application; else nil

	mu   sync.Mutex // guards box and over
	box  *sandbox   // the process 1; made at the first exec for a built-in application
	over bool       // no box may be made any more
}

// alive tells whether a run has been started and has not ended.
func (c *container) alive() bool {
	r := c.current()
	if r == nil {
		return false
	}
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

func (c *container) current() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

func (c *container) log(previous bool) *runLog {
	c.mu.Lock()
	defer c.mu.Unlock()
	if previous {
		return c.previous
	}
	if c.run == nil {
		return nil
	}
	return c.run.log
}

// begin files a new run as the current one.
func (c *container) begin(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		c.previous = c.run.log
	}
	c.run = r
}

// configError is a fault in what the container refers to; it is waited for, not counted as a failure.
type configError struct{ error }

// start starts a run. Its end is posted to the worker. Errors: a configError; anything else that kept it from running.
func (c *container) start(ctx context.Context) error {
	spec := *c.spec
	spec.Image, spec.Resources = c.wants, c.given
	p, err := c.w.n.resolve(&spec)
	if err != nil {
		return err
	}
	if c.role == roleEphemeral && p.builtIn { // nobody debugs with a second web server
		p = program{words: "shell of the host's files", command: []string{"sh"}}
	}
	c.image = p.words
	pod := c.w.withAddresses()
	find := c.w.n.lookup()
	find.capacity = c.w.n.resources
	if find.user, err = identify(pod, c.spec, p.user); err != nil {
		return err
	}
	if find.services, err = c.w.n.serviceEnv(ctx, pod); err != nil {
		return err
	}
	env, err := newEnvironment(pod, &spec, find, p.env)
	if err != nil {
		return configError{err}
	}
	now := c.w.n.cfg.Now()
	r := &run{
		stopSignal: p.stopSignal(c.spec), began: now, id: containerID(c.w.pod, c.spec.Name, c.restarts), env: env,
		dir: c.spec.WorkingDir, root: p.root, user: find.user, done: make(chan struct{}),
	}
	r.log = &runLog{now: c.w.n.cfg.Now}
	r.io = &terminalIO{log: r.log}
	if p.builtIn {
		r.name = c.wants
		err = c.startApp(ctx, r)
	} else {
		args := p.argv(c.spec, env)
		if r.dir == "" {
			r.dir = p.dir
		}
		r.name = args[0]
		err = c.startCommand(ctx, r, args)
	}
	if err != nil {
		r.io.closeInput()
		r.log.close()
		return err
	}
	c.begin(r)
	c.running = true
	return nil
}

// over sets a run's result and tells the worker.
func (c *container) over(r *run, result exit) {
	r.result = result
	r.log.close()
	close(r.done)
	c.w.post(runEnded{c, r})
}

// startApp opens the declared ports in the pod's namespace and serves them.
func (c *container) startApp(ctx context.Context, r *run) error {
	listeners, packets, err := c.listen(ctx)
	if err != nil {
		return err
	}
	r.app = app.New(c.facts(), app.Options{Out: r.io})
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	r.kill = kill
	r.finish = func(ctx context.Context) { r.app.Drain(ctx); <-r.done }
	if sharesProcesses(c.w.pod) { // the others see a process of its name
		if _, err := c.box(ctx, r); err != nil {
			kill()
			closeAll(listeners, packets)
			return err
		}
	}
	c.w.wg.Go(func() {
		defer kill()
		err := r.app.Run(life, listeners, packets)
		result := exit{}
		var crash *app.CrashError
		switch {
		case errors.As(err, &crash):
			result.code = crash.Code
		case life.Err() != nil:
			result.code, result.signal = 128+int(syscall.SIGKILL), int(syscall.SIGKILL)
		}
		r.closeBox()
		c.over(r, result)
	})
	return nil
}

func (c *container) facts() app.Facts {
	pod := c.w.pod
	return app.Facts{
		Pod: pod.Name, Namespace: pod.Namespace, Node: c.w.n.cfg.Name, IP: c.w.net.Load().IP.String(), Image: c.wants, Labels: pod.Labels,
	}
}

const defaultPort = 80 // of a built-in application that declares no TCP port

func (c *container) listen(ctx context.Context) (listeners []net.Listener, packets []net.PacketConn, err error) {
	defer func() {
		if err == nil {
			return
		}
		closeAll(listeners, packets)
	}()
	at := func(port int32) string { return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)).String() }
	for _, port := range tcpPorts(c.spec) {
		ln, err := c.w.net.Load().NS.Listen(ctx, "tcp4", at(port))
		if err != nil {
			return listeners, packets, err
		}
		listeners = append(listeners, ln)
	}
	for _, p := range c.spec.Ports {
		if p.Protocol != corev1.ProtocolUDP {
			continue
		}
		pc, err := c.w.net.Load().NS.ListenPacket(ctx, "udp4", at(p.ContainerPort))
		if err != nil {
			return listeners, packets, err
		}
		packets = append(packets, pc)
	}
	return listeners, packets, nil
}

func closeAll(listeners []net.Listener, packets []net.PacketConn) {
	for _, ln := range listeners {
		ln.Close()
	}
	for _, pc := range packets {
		pc.Close()
	}
}

func tcpPorts(c *corev1.Container) []int32 {
	var ports []int32
	for _, p := range c.Ports {
		if p.Protocol == corev1.ProtocolTCP || p.Protocol == "" {
			ports = append(ports, p.ContainerPort)
		}
	}
	if len(ports) == 0 {
		return []int32{defaultPort}
	}
	return ports
}

// closeBox ends the run's processes.
func (r *run) closeBox() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.box != nil {
		r.box.close()
	}
}

// sandbox is the process 1 of the current run; a built-in application gets its own at the first call.
func (c *container) sandbox(ctx context.Context) (*sandbox, *run, error) {
	r := c.current()
	if r == nil || !c.alive() {
		return nil, nil, c.notRunning()
	}
	box, err := c.box(ctx, r)
	return box, r, err
}

func (c *container) notRunning() error { return fmt.Errorf("%w (%q)", errNotRunning, c.spec.Name) }

// errNotRunning is kubelet's word for a container in which nothing can be started.
var errNotRunning = errors.New("container not found")

// box is the process 1 of a run.
func (c *container) box(ctx context.Context, r *run) (*sandbox, error) {
	if c.beside() {
		box, _, err := c.w.find(c.target).sandbox(ctx)
		return box, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, c.notRunning()
	}
	if r.box != nil {
		return r.box, nil
	}
	box, err := c.makeSandbox(ctx, r)
	if err != nil {
		return nil, err
	}
	r.box = box
	c.w.wg.Go(func() { // who kills process 1 ends the application (N-21)
		box.wait()
		r.kill()
	})
	return box, nil
}

// pipe returns the end this process reads from, and the one for a child.
func pipe() (ours *os.File, theirs int, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, 0, os.NewSyscallError("pipe", err)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		return nil, 0, err
	}
	return os.NewFile(uintptr(fds[0]), "output"), fds[1], nil
}

// fallbackLines and fallbackBytes are how much of a log stands in for a termination message, as kubelet has it.
const fallbackLines, fallbackBytes = 80, 2048

// terminated is how Kubernetes shows a run that ended.
func (r *run) terminated(now time.Time, policy corev1.TerminationMessagePolicy) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(r.result.code), Signal: 0, Reason: "Completed", ContainerID: r.id, Message: r.result.text,
		StartedAt: metaTime(r.began), FinishedAt: metaTime(now),
	}
	if t.Message == "" {
		t.Message = r.result.message
	}
	if t.Message == "" && t.ExitCode != 0 && policy == corev1.TerminationMessageFallbackToLogsOnError {
		t.Message = r.log.tail(fallbackLines, fallbackBytes)
	}
	switch {
	case r.result.text != "":
		t.Reason, t.ExitCode = "StartError", podinit.StartFailed
	case r.result.code != 0:
		t.Reason = "Error"
	}
	return t
}
