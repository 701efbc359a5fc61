package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probeKind is Kubernetes' word for a probe, as events begin with it.
type probeKind string

const (
	startup   probeKind = "Startup"
	readiness probeKind = "Readiness"
	liveness  probeKind = "Liveness"
)

const (
	probeAgent    = "kube-probe/1.37"
	maxProbeReply = 10 << 10 // bytes of an answer that are read
	// everyUnhealthy is how often a failure is told again while it lasts: each time costs a write of the store.
	everyUnhealthy = 10
)

// probeState is what the probes of the current run have found.
type probeState struct {
	started bool // the startup probe succeeded, or there is none
	ready   bool // the readiness probe says so, or there is none
}

// probed tells the worker of a probe's verdict, or of a failure to be told in an event.
type probed struct {
	r       *run
	c       *container
	kind    probeKind
	verdict bool // whether ok is one: a threshold was reached
	ok      bool
	message string
	count   int32  // failures to be told
	grace   *int64 // seconds that a container which is given up gets; nil for the pod's
}

// asker is one probe of one run. It begins when after is closed, and closes then at its first success; both may be nil.
type asker struct {
	c           *container
	r           *run
	kind        probeKind
	p           *corev1.Probe
	after, then chan struct{}
}

// startProbes begins to probe a run; it goes on until ctx ends.
func (c *container) startProbes(ctx context.Context, r *run) {
	c.probes = probeState{started: c.spec.StartupProbe == nil, ready: c.spec.ReadinessProbe == nil}
	if c.spec.StartupProbe == nil && c.spec.ReadinessProbe == nil && c.spec.LivenessProbe == nil {
		return
	}
	begun := make(chan struct{})
	if c.spec.StartupProbe == nil {
		close(begun)
	} else {
		c.w.wg.Go(func() { asker{c, r, startup, c.spec.StartupProbe, nil, begun}.run(ctx) })
	}
	if c.spec.ReadinessProbe != nil {
		c.w.wg.Go(func() { asker{c, r, readiness, c.spec.ReadinessProbe, begun, nil}.run(ctx) })
	}
	if c.spec.LivenessProbe != nil {
		c.w.wg.Go(func() { asker{c, r, liveness, c.spec.LivenessProbe, begun, nil}.run(ctx) })
	}
}

// seconds is a probe's number with Kubernetes' default for 0.
func seconds(n, fallback int32) time.Duration {
	if n <= 0 {
		n = fallback
	}
	return time.Duration(n) * time.Second
}

// run asks again and again until ctx ends.
func (a asker) run(ctx context.Context) {
	if a.after != nil {
		select {
		case <-a.after:
		case <-ctx.Done():
			return
		}
	}
	// The first question is asked at once, if the probe does not say otherwise: what is up is ready.
	timer := time.NewTimer(max(0, time.Until(a.r.began.Add(time.Duration(a.p.InitialDelaySeconds)*time.Second))))
	defer timer.Stop()
	t := tally{good: max(a.p.SuccessThreshold, 1), bad: a.p.FailureThreshold}
	if t.bad <= 0 {
		t.bad = 3
	}
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(seconds(a.p.PeriodSeconds, 10))
		if done := a.once(ctx, &t); done {
			return
		}
	}
}

// once asks and tells the worker what it has to know. It tells whether the probe has done its work.
func (a asker) once(ctx context.Context, t *tally) bool {
	one, cancel := context.WithTimeout(ctx, seconds(a.p.TimeoutSeconds, 1))
	err := a.c.ask(one, a.p)
	cancel()
	if ctx.Err() != nil {
		return true
	}
	t.add(err == nil)
	verdict, told := t.verdict(), t.tell()
	if verdict || told > 0 {
		v := probed{r: a.r, c: a.c, kind: a.kind, verdict: verdict, ok: err == nil, count: told, grace: a.p.TerminationGracePeriodSeconds}
		if err != nil {
			v.message = err.Error()
		}
		a.c.w.post(v)
	}
	if !verdict || err != nil || a.then == nil {
		return false
	}
	close(a.then) // a startup probe asks no more
	return true
}

// tally counts successes and failures in a row.
type tally struct {
	good, bad    int32 // thresholds
	ok           bool
	row          int32
	known, state bool // the last verdict
	untold       int32
}

func (t *tally) add(ok bool) {
	if ok != t.ok {
		t.row = 0
	}
	t.ok = ok
	t.row++
	if !ok {
		t.untold++
	}
}

// verdict tells whether a threshold has just been reached and changes the verdict.
func (t *tally) verdict() bool {
	need := t.bad
	if t.ok {
		need = t.good
	}
	if t.row < need || t.known && t.state == t.ok {
		return false
	}
	t.known, t.state = true, t.ok
	return true
}

// tell is how many failures an event should tell of now.
func (t *tally) tell() int32 {
	if t.ok || t.row > t.bad && t.row%everyUnhealthy != 0 {
		return 0
	}
	n := t.untold
	t.untold = 0
	return n
}

// ask probes once. The error is what the event says.
func (c *container) ask(ctx context.Context, p *corev1.Probe) error {
	switch {
	case p.HTTPGet != nil:
		return c.askHTTP(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		return c.askTCP(ctx, p.TCPSocket)
	case p.Exec != nil:
		return c.askExec(ctx, p.Exec.Command)
	case p.GRPC != nil:
		return c.askGRPC(ctx, p.GRPC)
	}
	return errors.New("the probe says nothing")
}

// portOf finds a port by number or by name.
func (c *container) portOf(port intstr.IntOrString) (string, error) {
	if port.Type == intstr.Int {
		return strconv.Itoa(port.IntValue()), nil
	}
	for _, p := range c.spec.Ports {
		if p.Name == port.StrVal {
			return strconv.Itoa(int(p.ContainerPort)), nil
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return strconv.Itoa(n), nil
	}
	return "", fmt.Errorf("couldn't find port: %q in container %s", port.StrVal, c.spec.Name)
}

func (c *container) addressOf(host string, port intstr.IntOrString) (string, error) {
	number, err := c.portOf(port)
	if err != nil {
		return "", err
	}
	if host == "" {
		net := c.w.net.Load()
		if net == nil {
			return "", errSandboxEnded
		}
		host = net.IP.String()
	}
	return net.JoinHostPort(host, number), nil
}

func (c *container) askTCP(ctx context.Context, p *corev1.TCPSocketAction) error {
	address, err := c.addressOf(p.Host, p.Port)
	if err != nil {
		return err
	}
	conn, err := c.w.n.NS().DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *container) askHTTP(ctx context.Context, p *corev1.HTTPGetAction) error {
	resp, err := c.httpGet(ctx, p, probeAgent)
	if err != nil {
		return err
	}
	discard(resp)
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return nil
}

// httpGet asks the container, from the node, as a probe or a hook describes it.
func (c *container) httpGet(ctx context.Context, p *corev1.HTTPGetAction, agent string) (*http.Response, error) {
	address, err := c.addressOf(p.Host, p.Port)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(p.Path)
	if err != nil {
		u = &url.URL{Path: p.Path}
	}
	u.Scheme, u.Host, u.Path = strings.ToLower(string(p.Scheme)), address, path.Join("/", u.Path)+trailing(u.Path)
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, h := range p.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Set(h.Name, h.Value)
	}
	resp, err := c.w.n.prober.Do(req)
	if err != nil {
		return nil, fmt.Errorf("Get %q: %w", u, errors.Unwrap(err))
	}
	return resp, nil
}

// trailing is the slash that path.Join takes away.
func trailing(p string) string {
	if len(p) > 1 && strings.HasSuffix(p, "/") {
		return "/"
	}
	return ""
}

// newProber is the HTTP client of a node's probes: from the node's namespace, a connection each, redirects not followed.
func newProber(dial DialFunc) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dial, DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // as kubelet: a probe asks whether, not who
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *container) askExec(ctx context.Context, words []string) error {
	r := c.current()
	if r == nil {
		return c.notRunning()
	}
	return c.runIn(ctx, r, words)
}
