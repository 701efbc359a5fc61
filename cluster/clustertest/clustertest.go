// Package clustertest starts whole clusters inside Go tests: real API, real DNS, real packets, gone when the test ends.
//
//	func TestMain(m *testing.M) { clustertest.Main(m) }
//
//	func TestShop(t *testing.T) {
//		c := clustertest.Start(t, cluster.Options{})
//		c.Apply(manifests)
//		c.Programmed()
//		conn, err := c.Outside(t.Context(), "tcp", "172.30.0.11:30080")
//	}
//
// Tests may run as root or as an ordinary user: Main runs the test binary again in a user namespace where that is needed.
package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	_ "kubarium.dev/node/podinit" // pods' first processes are the test binary
	"kubarium.dev/store"
)

// inside marks the second run of the test binary.
const inside = "KUBARIUM_TEST_INSIDE"

// barrierTimeout bounds Programmed: a barrier takes milliseconds, so a minute means that something hangs.
const barrierTimeout = time.Minute

// Main is the body of TestMain: it runs the tests in namespaces in which the process may make others, and exits.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "clustertest: make the mounts private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = cluster.DaemonAttr()
	cmd.SysProcAttr.Setsid = false
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "clustertest: this machine does not let the tests make namespaces:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Cluster is a running cluster with a test's helpers. Each helper ends the test when it fails.
type Cluster struct {
	*cluster.Cluster
	// Client speaks to the API over HTTPS, as any Kubernetes client does.
	Client kubernetes.Interface
	// REST is the configuration of a client with the administrator's rights.
	REST *rest.Config

	t    testing.TB
	http *http.Client
}

// Start boots a cluster that ends with the test. A zero StateDir is a temporary folder. When it has ended, the test checks
// that nothing of it is left on the machine.
func Start(t testing.TB, o cluster.Options) *Cluster {
	t.Helper()
	if o.StateDir == "" {
		o.StateDir = t.TempDir()
	}
	if o.Config.DNS.Upstream == nil {
		o.Config.DNS.Upstream = cluster.Servers{} // a test asks nobody outside
	}
	c, err := cluster.Start(t.Context(), o)
	if err != nil {
		t.Fatalf("start the cluster: %v", err)
	}
	t.Cleanup(func() {
		processes, err := cluster.Inside(c.Namespaces())
		if err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
		left, err := cluster.Leftovers(processes, o.StateDir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
	config, err := clientcmd.RESTConfigFromKubeConfig(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfigAndClient(config, h)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{Cluster: c, Client: client, REST: config, t: t, http: h}
}

// Apply creates every object of a YAML text, or replaces its spec where it exists.
func (c *Cluster) Apply(manifests string) {
	c.t.Helper()
	ms, err := api.ReadManifests(strings.NewReader(manifests), "manifest")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range ms {
		if err := c.put(m); err != nil {
			c.t.Fatalf("apply %s %s: %v", m.GVK.Kind, m.Name, err)
		}
	}
}

// put is server-side apply: one request whether the object exists or not.
func (c *Cluster) put(m api.Manifest) error {
	kind, ok := api.KindFor(m.GVK)
	if !ok {
		return fmt.Errorf("no kind %v", m.GVK)
	}
	ns := m.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	err := c.send(http.MethodPost, kind, ns, "", m.JSON)
	if apierrors.IsAlreadyExists(err) {
		return c.send(http.MethodPatch, kind, ns, m.Name, m.JSON)
	}
	return err
}

func (c *Cluster) send(verb string, kind *api.Kind, ns, name string, body []byte) error {
	gv := kind.GroupVersion()
	config := rest.CopyConfig(c.REST)
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = codecs.WithoutConversion()
	r, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return err
	}
	req := r.Verb(verb).Resource(kind.Plural).NamespaceIfScoped(ns, kind.Namespaced).Body(bytes.Clone(body))
	if name != "" {
		req = req.Name(name).SetHeader("Content-Type", "application/merge-patch+json")
	}
	return req.Do(c.t.Context()).Error()
}

// Until returns when cond holds; it is asked again after every change of the store. what is told when it does not come true.
func (c *Cluster) Until(what string, cond func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), barrierTimeout)
	defer cancel()
	w, err := c.Store().Watch(ctx, c.Store().Revision(), api.Kinds...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Close()
	for !cond() {
		if _, err := w.Next(ctx); err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// Ready waits until every pod of a namespace that is not on its way out is ready, and there are at least n, and until that is
// in effect everywhere.
func (c *Cluster) Ready(namespace string, n int) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%d ready pods in %s", n, namespace), func() bool {
		list, err := c.Store().List(c.t.Context(), api.Pods, store.Query{Namespace: namespace})
		if err != nil {
			c.t.Fatal(err)
		}
		ready := 0
		for _, pod := range store.All[*corev1.Pod](list.Items) {
			switch {
			case pod.DeletionTimestamp != nil:
			case !api.Ready(pod):
				return false
			default:
				ready++
			}
		}
		return ready >= n
	})
	c.Programmed()
}

// HTTP is a client whose connections, one for each request, begin at a place: "outside", "node/NAME", "pod/NAMESPACE/NAME". It
// resolves no names: Lookup does.
func (c *Cluster) HTTP(place string) *http.Client {
	c.t.Helper()
	dial, err := c.Dialer(place, metav1.NamespaceDefault)
	if err != nil {
		c.t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: barrierTimeout}
}

// Lookup asks the cluster's DNS from a place, without a search path, and returns the IPv4 addresses in order.
func (c *Cluster) Lookup(place, name string) ([]string, error) {
	dial, err := c.Dialer(place, metav1.NamespaceDefault)
	if err != nil {
		return nil, err
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, c.DNS().String())
	}}
	ips, err := r.LookupNetIP(c.t.Context(), "ip4", strings.TrimSuffix(name, ".")+".")
	var out []string
	for _, ip := range ips {
		out = append(out, ip.Unmap().String())
	}
	slices.Sort(out)
	return out, err
}

// Programmed waits until everything written so far is in effect everywhere.
func (c *Cluster) Programmed() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), barrierTimeout)
	defer cancel()
	if err := c.Cluster.Programmed(ctx, c.Store().Revision()); err != nil {
		c.t.Fatalf("programmed: %v", err)
	}
}
