// Package app is the built-in application of a pod whose image names no program: a web server on every declared TCP port and an
// echo on every declared UDP port. It is served by the cluster's own process on sockets handed in, so that a pod costs a few
// kilobytes; it knows nothing of Kubernetes.
//
//	a := app.New(app.Facts{Pod: "web-1"}, app.Options{})
//	go a.Run(ctx, listeners, packets)
//	a.Drain(ctx) // answers what is under way and what still arrives, then Run returns
//
// The web server answers every path with what it is, one fact a line, or as JSON when the client accepts it. /healthz, /readyz
// (switched by POST /readyz?ready=false, or GET /readyz?set=false), /delay/300ms, /status/503, /headers and /crash?code=3 are
// there to be probed, slowed down and broken. Any path echoes WebSocket messages, and the gRPC health service answers as
// /readyz does. Logs and the clock are handed in. It does not speak TLS.
package app

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Facts is what an application tells of itself.
type Facts struct {
	Pod, Namespace, Node, IP, Image string
	Labels                          map[string]string
}

// Options of an App; the zero value is ready.
type Options struct {
	Out io.Writer // one line for each request but those of probes; nil for none
	// Quiet is for how long no connection may be open or arrive before a drained application ends; 0 for 20 ms.
	Quiet time.Duration
	// Idle is how long a drained application waits for clients that keep a connection open and send nothing; 0 for 5 s.
	Idle time.Duration
}

// CrashError is how Run ends after /crash.
type CrashError struct{ Code int }

// Error names the exit code.
func (e *CrashError) Error() string { return "crashed with exit code " + strconv.Itoa(e.Code) }

// App is one application. Its methods may be called from any goroutine; Run once.
type App struct {
	o        Options
	facts    atomic.Pointer[Facts]
	unready  atomic.Bool
	draining atomic.Bool
	requests atomic.Uint64

	end   chan struct{} // closed by stop
	once  sync.Once
	crash atomic.Int64 // exit code + 1; 0 while it lives

	mu      sync.Mutex            // guards all below
	doors   []io.Closer           // what it listens on
	conns   map[net.Conn]struct{} // open connections
	sockets map[net.Conn]struct{} // open WebSockets
	touched time.Time             // when a connection last opened, closed or got a request
}

const (
	defaultQuiet = 20 * time.Millisecond
	defaultIdle  = 5 * time.Second
	// headerTimeout ends connections that never send a request; longer than any drain, so that a drain loses nothing by it.
	headerTimeout = time.Minute
	// maxHeader bounds what one request's header may take of the cluster's memory.
	maxHeader = 64 << 10
	// maxDatagram is the largest UDP payload over IPv4.
	maxDatagram = 65507
)

// New makes an application that is ready and serves nothing yet.
func New(f Facts, o Options) *App {
	if o.Quiet <= 0 {
		o.Quiet = defaultQuiet
	}
	if o.Idle <= 0 {
		o.Idle = defaultIdle
	}
	a := &App{o: o, end: make(chan struct{})}
	a.SetFacts(f)
	return a
}

// SetFacts replaces what the application tells of itself, such as labels that changed while it runs.
func (a *App) SetFacts(f Facts) { a.facts.Store(&f) }

// Requests is the number of requests and datagrams answered, those of probes left out.
func (a *App) Requests() uint64 { return a.requests.Load() }

// Ready is what /readyz answers.
func (a *App) Ready() bool { return !a.unready.Load() }

// Run serves until ctx ends, Drain has finished, or a client asks for /crash, which Run reports as a *CrashError. It closes the
// sockets, and returns when nothing of it runs any more.
func (a *App) Run(ctx context.Context, listeners []net.Listener, packets []net.PacketConn) error {
	defer context.AfterFunc(ctx, a.stop)()
	a.open(listeners, packets)
	var wg sync.WaitGroup
	for _, pc := range packets {
		wg.Go(func() { a.echo(pc) })
	}
	for i, ln := range listeners {
		if i > 0 {
			wg.Go(func() { web.Serve(&listener{ln, a}) })
		}
	}
	if len(listeners) > 0 { // the first one on this goroutine: a thousand applications of one port are a thousand fewer
		web.Serve(&listener{listeners[0], a})
	}
	<-a.end
	wg.Wait()
	a.closeConns()
	if code := a.crash.Load(); code != 0 {
		return &CrashError{Code: int(code - 1)}
	}
	return nil
}

// open keeps the sockets for stop to close, or closes them when the end went by before.
func (a *App) open(listeners []net.Listener, packets []net.PacketConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ln := range listeners {
		a.doors = append(a.doors, ln)
	}
	for _, pc := range packets {
		a.doors = append(a.doors, pc)
	}
	select {
	case <-a.end:
		a.shut()
	default:
	}
}

// shut lets nobody in any more.
func (a *App) shut() {
	for _, door := range a.doors {
		door.Close()
	}
}

func (a *App) stop() {
	a.once.Do(func() {
		close(a.end)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.shut()
	})
}

// closeConns cuts every connection, the WebSockets too.
func (a *App) closeConns() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, all := range []map[net.Conn]struct{}{a.conns, a.sockets} {
		for c := range all {
			c.Close()
		}
	}
}

// web is the HTTP server of every application: what one costs, it costs once. A connection's listener knows whose it is.
var web = newServer()

// owner is the key of a request's application.
type owner struct{}

func newServer() *http.Server {
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { r.Context().Value(owner{}).(*App).serve(w, r) }),
		BaseContext: func(l net.Listener) context.Context {
			return context.WithValue(context.Background(), owner{}, l.(*listener).app)
		},
		ConnState:         func(c net.Conn, s http.ConnState) { c.(*conn).app.track(c, s) },
		ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true) // gRPC's
	return s
}

// listener is one of an application's.
type listener struct {
	net.Listener
	app *App
}

// conn is a connection that came to an application.
type conn struct {
	net.Conn
	app *App
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{c, l.app}, nil
}

// track counts the open connections: net/http calls it on every change of one.
func (a *App) track(c net.Conn, s http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s {
	case http.StateNew:
		if a.conns == nil {
			a.conns = map[net.Conn]struct{}{}
		}
		a.conns[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(a.conns, c)
	case http.StateIdle:
		return
	}
	a.touched = time.Now()
}

func (a *App) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.touched = time.Now()
}

// Drain ends the application without losing a request: it goes on accepting and answering, tells each client to close its
// connection, and Run returns when no connection is open and none has arrived for a moment, when the clients that keep one open
// have sent nothing for Idle, or when ctx ends.
func (a *App) Drain(ctx context.Context) {
	defer a.stop()
	began := time.Now()
	a.draining.Store(true)
	tick := time.NewTicker(a.o.Quiet / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.end:
			return
		case now := <-tick.C:
			if a.drained(began, now) {
				return
			}
		}
	}
}

func (a *App) drained(began, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	since := began
	if a.touched.After(since) {
		since = a.touched
	}
	if len(a.conns)+len(a.sockets) > 0 {
		return now.Sub(since) >= a.o.Idle
	}
	if now.Sub(since) < a.o.Quiet {
		return false
	}
	if slices.ContainsFunc(a.doors, waiting) { // on a busy machine time may pass without this process
		a.touched = now
		return false
	}
	return true
}

// waiting tells whether the kernel holds a connection, or a datagram, that the application has not taken.
func waiting(door io.Closer) bool {
	raw := socket(door)
	if raw == nil {
		return false
	}
	n := 0
	err := raw.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	return err == nil && n > 0
}

// socket is what the kernel knows of something listened on; nil when it is not the kernel's, or closed.
func socket(door any) syscall.RawConn {
	sc, ok := door.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// buffers are borrowed for one datagram: a waiting echo holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxDatagram); return &b }}

// echo answers each datagram with itself.
func (a *App) echo(pc net.PacketConn) {
	for {
		if err := readable(pc); err != nil {
			return
		}
		if err := a.echoOne(pc); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (a *App) echoOne(pc net.PacketConn) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, from, err := pc.ReadFrom(*buf)
	if err != nil {
		return err // such as a client's port that is closed by now
	}
	a.requests.Add(1)
	_, err = pc.WriteTo((*buf)[:n], from)
	return err
}

// readable waits for a datagram without holding memory for it.
func readable(pc net.PacketConn) error {
	raw := socket(pc)
	if raw == nil {
		return nil
	}
	return raw.Read(func(fd uintptr) bool {
		var peek [1]byte
		_, _, err := syscall.Recvfrom(int(fd), peek[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN)
	})
}
