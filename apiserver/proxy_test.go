package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/apiserver"
)

// pods, Services and nodes answer through the API, whatever the method; the caller's credentials go no further, and
// neither does a request to an address outside the cluster's network.
func TestTheAPIProxiesToPodsServicesAndNodes(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/there", http.StatusFound)
			return
		}
		fmt.Fprintf(w, "%s %s %s auth=%q", r.Method, r.URL.RequestURI(), body, r.Header.Get("Authorization"))
	}))
	t.Cleanup(web.Close)
	dialled := make(chan string, 100)
	c := start(t, func(conf *apiserver.Config) {
		conf.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled <- address
			if strings.HasPrefix(address, "10.244.9.9:") {
				return nil, fmt.Errorf("connection refused")
			}
			return (&net.Dialer{}).DialContext(ctx, network, web.Listener.Addr().String())
		}
	})
	c.proxied(t)
	const dev = "/api/v1/namespaces/dev/"
	for _, test := range []struct {
		method, path, body string
		code               int
		want, address      string
	}{
		{"GET", dev + "pods/a/proxy/x/y%2Fz?q=1", "", 200, `GET /x/y%2Fz?q=1  auth=""`, "10.244.0.7:8080"},
		{"POST", dev + "pods/a:9000/proxy/", "hello", 200, `POST / hello`, "10.244.0.7:9000"},
		{"DELETE", dev + "services/web/proxy/one", "", 200, "DELETE /one", "10.244.0.7:8080"},
		{"GET", dev + "services/web:http/proxy/one", "", 200, "GET /one", "10.244.0.7:8080"},
		{"GET", dev + "services/http:web:80/proxy/one", "", 200, "GET /one", "10.244.0.7:8080"},
		{"GET", "/api/v1/nodes/n1:9100/proxy/metrics", "", 200, "GET /metrics", "172.30.0.11:9100"},
		{"GET", dev + "services/web:nope/proxy/", "", 503, `no service port \"nope\" found for service \"web\"`, ""},
		{"GET", dev + "services/idle/proxy/", "", 503, `no endpoints available for service \"idle\"`, ""},
		{"GET", dev + "pods/gone/proxy/", "", 503, "error trying to reach service: ", "10.244.9.9:80"},
		{"GET", dev + "pods/evil/proxy/", "", 400, "address not allowed", ""},
		{"GET", dev + "pods/ftp:a:80/proxy/", "", 400, "invalid pod request", ""},
		{"GET", dev + "pods/none/proxy/", "", 404, `pods \"none\" not found`, ""},
	} {
		res, body := c.ask(t, test.method, test.path, test.body)
		if res.StatusCode != test.code {
			t.Errorf("%s %s: got %d, want %d", test.method, test.path, res.StatusCode, test.code)
		}
		contains(t, body, test.want)
		if test.address == "" {
			continue
		}
		if got := <-dialled; got != test.address {
			t.Errorf("%s: went to %s, want %s", test.path, got, test.address)
		}
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]string{"pods/a/proxy": dev + "pods/a/proxy/", "pods/a/proxy/moved": dev + "pods/a/proxy/there"} {
		client := c.http(t)
		client.CheckRedirect = stay
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+dev+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+c.authority.Token)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("%s leads to %q, want %q", path, got, want)
		}
	}
	code := 0
	c.as(t, "jane").RESTClient().Get().AbsPath(dev + "pods/a/proxy/").Do(t.Context()).StatusCode(&code)
	if code != http.StatusForbidden {
		t.Errorf("somebody without a role got %d, want 403", code)
	}
}

// proxied makes a node, pods and Services to go through to.
func (c *cluster) proxied(t *testing.T) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.30.0.11"}}
	c.put(t, node)
	for name, ip := range map[string]string{"a": "10.244.0.7", "gone": "10.244.9.9", "evil": "127.0.0.1"} {
		p := pod(name)
		p.Status.PodIP = ip
		if name == "a" {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		}
		c.put(t, p)
	}
	for _, name := range []string{"web", "idle"} {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}}
		svc.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}}
		c.put(t, svc)
	}
	port, portName := int32(8080), "http"
	c.put(t, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "dev", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.7"}}},
	})
}
