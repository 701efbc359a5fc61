package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// rig is a running ingress over a real store, with listeners on the loopback.
type rig struct {
	t      testing.TB
	store  *store.Store
	c      *Controller
	plain  string // host:port
	secure string
	log    *lockedBuffer
	stop   context.CancelFunc // ends the listeners
	served chan struct{}      // closed when they have ended
}

// lockedBuffer is the access log of a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: s, log: &lockedBuffer{}, served: make(chan struct{})}
	cfg := Config{Reader: s, Store: s, Seed: 7, AccessLog: r.log, ServeClassless: true, DrainTimeout: 5 * time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	if change != nil {
		change(&cfg)
	}
	r.c = New(cfg)
	run, stopRun := context.WithCancel(context.Background())
	serve, stop := context.WithCancel(context.Background())
	r.stop = stop
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.c.Run(run); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	var listeners sync.WaitGroup
	for at, serveOn := range map[*string]func(context.Context, net.Listener) error{&r.plain: r.c.Serve, &r.secure: r.c.ServeTLS} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*at = ln.Addr().String()
		listeners.Go(func() {
			if err := serveOn(serve, ln); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	go func() { listeners.Wait(); close(r.served) }()
	t.Cleanup(func() {
		stop()
		<-r.served
		stopRun()
		running.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// apply creates or replaces objects, and waits until the ingress has them.
func (r *rig) apply(objects ...api.Object) {
	r.t.Helper()
	rev, err := r.store.Update(r.t.Context(), func(tx *store.Tx) error {
		for _, obj := range objects {
			kind := api.KindOf(obj)
			old, err := tx.Get(kind, obj.GetNamespace(), obj.GetName())
			if err != nil {
				if err := tx.Create(api.Copy(obj)); err != nil {
					return err
				}
				continue
			}
			obj.SetResourceVersion(old.GetResourceVersion())
			obj.SetUID(old.GetUID())
			obj.SetCreationTimestamp(old.GetCreationTimestamp())
			if err := tx.Update(api.Copy(obj)); err != nil {
				return err
			}
		}
		return nil
	})
	r.reach(rev, err)
}

func (r *rig) remove(obj api.Object) {
	r.t.Helper()
	rev, err := r.store.Update(r.t.Context(), func(tx *store.Tx) error {
		return tx.Delete(api.KindOf(obj), obj.GetNamespace(), obj.GetName(), store.DeleteOptions{})
	})
	r.reach(rev, err)
}

func (r *rig) reach(rev uint64, err error) {
	r.t.Helper()
	if err == nil {
		err = r.c.Progress().Wait(r.t.Context(), rev)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// until waits for a condition that the background brings about.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// within receives what has to come; it ends the test when it does not.
func within[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// expose makes a Service whose endpoints are the addresses, with port 80 named http.
func (r *rig) expose(name string, addresses ...string) {
	r.t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
	}}
	objects := []api.Object{svc}
	objects = append(objects, slicesFor(name, addresses...)...)
	r.apply(objects...)
}

// slicesFor is one slice for each address, as ports may differ here.
func slicesFor(name string, addresses ...string) []api.Object {
	var all []api.Object
	for i, a := range addresses {
		all = append(all, slice(name, i, a, true))
	}
	return all
}

func slice(name string, i int, address string, ready bool) *discoveryv1.EndpointSlice {
	at := netip.MustParseAddrPort(address)
	port, portName, protocol := int32(at.Port()), "http", corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "dev", Name: fmt.Sprintf("%s-%d", name, i), Labels: map[string]string{discoveryv1.LabelServiceName: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{at.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("%s-%d", name, i)},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}
}

// backend is an HTTP server, and its address.
func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// named answers with a name.
func named(t testing.TB, name string) string {
	return backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
}

// answer is what came back, read whole.
type answer struct {
	*http.Response
	body string
}

func (r *rig) do(method, host, path, body string, header ...string) answer {
	r.t.Helper()
	return r.doBy(http.DefaultTransport, method, host, path, body, header...)
}

// doBy asks with a client of one of the engines.
func (r *rig) doBy(engine http.RoundTripper, method, host, path, body string, header ...string) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.plain+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = host
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return r.send(engine, req)
}

// engines are clients of both engines: HTTP/1.1, and HTTP/2 without TLS.
func engines(t testing.TB) map[string]http.RoundTripper {
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2.CloseIdleConnections)
	h1 := &http.Transport{}
	t.Cleanup(h1.CloseIdleConnections)
	return map[string]http.RoundTripper{"HTTP/1.1": h1, "HTTP/2": h2}
}

func (r *rig) send(by http.RoundTripper, req *http.Request) answer {
	r.t.Helper()
	resp, err := by.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp, string(text)}
}

func (r *rig) get(host, path string, header ...string) answer {
	r.t.Helper()
	return r.do(http.MethodGet, host, path, "", header...)
}

// raw sends octets as they are, and reads answers until the connection closes or the number is there.
func (r *rig) raw(text string, answers int) []answer {
	r.t.Helper()
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	br := bufio.NewReader(c)
	var all []answer
	for range answers {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			break
		}
		body, _ := io.ReadAll(resp.Body)
		all = append(all, answer{resp, string(body)})
	}
	return all
}

// storeQuery is everything of a kind.
var storeQuery store.Query
