package cluster_test

import (
	"context"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// P-55: a user of the API reads a node's proxy's metrics and health: kubectl get --raw /kubarium/v1/nodes/n1/proxy/metrics.
func TestAProxysMetricsAreReadThroughTheAPI(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 1) + shop)
	c.Ready("default", 1)
	c.Programmed()
	read := func(path string) string {
		t.Helper()
		raw, err := c.Client.CoreV1().RESTClient().Get().AbsPath("/kubarium/v1/nodes/" + path).DoRaw(t.Context())
		if err != nil {
			t.Error(path, err)
		}
		return string(raw)
	}
	for _, n := range []string{"n1", "n2"} {
		got := read(n + "/proxy/metrics")
		for _, want := range []string{
			`(?m)^kubeproxy_sync_full_proxy_rules_duration_seconds_count\{ip_family="IPv4"\} [1-9]`,
			`(?m)^kubeproxy_sync_partial_proxy_rules_duration_seconds_count\{ip_family="IPv4"\} [1-9]`,
			`(?m)^kubeproxy_network_programming_duration_seconds_count\{ip_family="IPv4"\} [1-9]`,
			`(?m)^kubeproxy_sync_proxy_rules_last_timestamp_seconds\{ip_family="IPv4"\} [1-9]`,
		} {
			if !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("%s: no line is %s in:\n%s", n, want, got)
			}
		}
		if got := read(n + "/proxy/healthz"); !strings.Contains(got, `"ok"`) {
			t.Errorf("%s: healthz says %s", n, got)
		}
	}
	if _, err := c.Client.CoreV1().RESTClient().Get().AbsPath("/kubarium/v1/nodes/n9/proxy/metrics").DoRaw(t.Context()); err == nil {
		t.Error("a node that is not there has metrics")
	}
}

// P-52: appProtocol is stored, and shown in the Service, its slices and its Endpoints; traffic goes as without it.
func TestAppProtocolIsKeptAndShown(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 1) + strings.Replace(shop, "{name: http, port: 80,", "{name: http, appProtocol: kubernetes.io/h2c, port: 80,", 1))
	c.Ready("default", 1)
	c.Programmed()
	ask(t, c.HTTP("node/n1"), "http://10.96.0.88/")
	const want = "kubernetes.io/h2c"
	shown := map[string]*string{}
	core := c.Client.CoreV1()
	svc, err := core.Services("default").Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shown["Service"] = svc.Spec.Ports[0].AppProtocol
	list, err := c.Client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=shop"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("slices: %v, %v", list, err)
	}
	for _, p := range list.Items[0].Ports {
		if *p.Name == "http" {
			shown["EndpointSlice"] = p.AppProtocol
		} else if p.AppProtocol != nil {
			t.Errorf("port %s has the appProtocol %s of another", *p.Name, *p.AppProtocol)
		}
	}
	endpoints, err := core.Endpoints("default").Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil || len(endpoints.Subsets) == 0 {
		t.Fatalf("endpoints: %v, %v", endpoints, err)
	}
	for _, p := range endpoints.Subsets[0].Ports {
		if p.Protocol == corev1.ProtocolTCP {
			shown["Endpoints"] = p.AppProtocol
		}
	}
	for _, where := range []string{"Service", "EndpointSlice", "Endpoints"} {
		if got := shown[where]; got == nil || *got != want {
			t.Errorf("%s: got %v, want %s", where, got, want)
		}
	}
}

// P-60: a node that gets its power back, or is added at the address of one that was removed, is led to when its ruleset stands, and
// not before: no connection from outside is lost or waits.
func TestANodeThatComesIsLedToWhenItIsReady(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 3})
	c.Apply(on("n1") + loadBalancer("wide", "on: n1", ""))
	c.Ready("default", 1)
	c.Programmed()
	url := "http://" + given(t, c, "wide") + "/"
	client := losingNothing(t, c, "outside")
	for what, come := range map[string]func() error{
		"power": func() error { return c.StartNode(t.Context(), "n3") },
		"a new node": func() error {
			_, err := c.AddNode(t.Context(), cluster.NodeConfig{})
			return err
		},
	} {
		if what == "power" {
			if err := c.StopNode(t.Context(), "n3"); err != nil {
				t.Fatal(err)
			}
		} else if err := c.RemoveNode(t.Context(), "n2"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- come() }()
		for came, left := false, 100; left > 0 && !t.Failed(); {
			ask(t, client, url)
			select {
			case err := <-done:
				if came = true; err != nil {
					t.Fatal(err)
				}
			default:
			}
			if came {
				left--
			}
		}
		if t.Failed() {
			t.Fatalf("while it comes with %s", what)
		}
		c.Programmed()
		c.Until("it came with "+what+": connections are led over it", func() bool { // over paths that were silent for a second at first
			_, clients := spread(t, c, given(t, c, "wide"))
			return clients == "172.30.0.11 172.30.0.12 172.30.0.13"
		})
	}
}

// losingNothing is a client whose connections come about without a packet that had to be sent again, as the kernel tells.
func losingNothing(t *testing.T, c *clustertest.Cluster, place string) *http.Client {
	t.Helper()
	client := c.HTTP(place)
	transport := client.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		began := time.Now()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) {
				info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				if err != nil || info.Total_retrans > 0 {
					t.Errorf("connect to %s: %d packets were sent again in %v (%v)", address, info.Total_retrans, time.Since(began), err)
				}
			})
		}
		return conn, err
	}
	return client
}
