package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

const site = `
apiVersion: v1
kind: Service
metadata: {name: blog}
spec: {selector: {app: blog}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: site}
spec:
  rules:
  - host: www.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}
      - {path: /blog, pathType: Prefix, backend: {service: {name: blog, port: {number: 80}}}}
`

// I-1: an Ingress leads two paths of a host to two Services, from outside on every node and from the host; a change takes effect at
// once.
func TestAnIngressLeadsPathsToServices(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2) + shop + web("blog", "v1", 1) + site)
	c.Ready("default", 3)
	get := func(client *http.Client, at, path string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "www.example.com"
		req.Header.Set("Accept", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return ""
		}
		defer resp.Body.Close()
		var a answer
		if resp.StatusCode == http.StatusOK {
			err = json.NewDecoder(resp.Body).Decode(&a)
		}
		return fmt.Sprint(resp.StatusCode, " ", a.Pod, err)
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/": "200 shop-", "/blog/today": "200 blog-"} {
		for _, n := range s.Nodes {
			if got := get(c.HTTP("outside"), n.Address.String(), path); !strings.HasPrefix(got, want) {
				t.Errorf("from outside on %s: %s: %s", n.Name, path, got)
			}
		}
		published := 0
		for _, p := range s.Published {
			if p.Service != "the ingress:http" {
				continue
			}
			published++
			if got := get(http.DefaultClient, p.Host.String(), path); !strings.HasPrefix(got, want) {
				t.Errorf("from the host at %v: %s: %s", p.Host, path, got)
			}
		}
		if published != len(s.Nodes) {
			t.Errorf("published %d times on the host: %v", published, s.Published)
		}
	}
	patch(t, c, "ingresses/site", `{"spec":{"rules":[{"host":"other.example.com","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"shop","port":{"number":80}}}}]}}]}}`)
	c.Programmed()
	if got := get(c.HTTP("outside"), "172.30.0.11", "/"); !strings.HasPrefix(got, "404") {
		t.Errorf("after the change: %s, want 404", got)
	}
}

// I-30, issue 6: the ingress answers at its own load-balancer address, which Ingresses show, from outside and on the host's
// loopback; a redirect to https leads back through the same door.
func TestTheIngressHasALoadBalancerAddress(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2) + shop + web("blog", "v1", 1) + site)
	c.Ready("default", 3)
	address := ""
	c.Until("the Ingress shows an address of the load balancers' range", func() bool {
		obj, err := c.Store().Get(api.Ingresses, "default", "site")
		if err != nil {
			t.Fatal(err)
		}
		shown := obj.(*networkingv1.Ingress).Status.LoadBalancer.Ingress
		if len(shown) == 1 {
			address = shown[0].IP
		}
		return strings.HasPrefix(address, "172.31.0.")
	})
	c.Programmed()
	ask := func(client *http.Client, at, host string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/blog", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if got := ask(c.HTTP("outside"), address, "www.example.com"); got.StatusCode != http.StatusOK {
		t.Errorf("from outside at %s: %s", address, got.Status)
	}
	if got := ask(c.HTTP("pod/"+podOf(t, c, "app=blog")), address, "www.example.com"); got.StatusCode != http.StatusOK {
		t.Errorf("from a pod at %s: %s", address, got.Status)
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plain, secure := "", ""
	for _, p := range s.Published {
		switch p.Service {
		case "kube-system/ingress:http":
			plain = p.Host.String()
		case "kube-system/ingress:https":
			secure = p.Host.String()
		}
	}
	if plain == "" || secure == "" {
		t.Fatalf("it is not published on the host: %v", s.Published)
	}
	patch(t, c, "ingresses/site", `{"metadata":{"annotations":{"nginx.ingress.kubernetes.io/force-ssl-redirect":"true"}}}`)
	c.Programmed()
	still := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	_, port, _ := strings.Cut(plain, ":")
	want := "https://www.example.com/blog"
	if port != "80" {
		want = "https://www.example.com:" + secure[strings.LastIndexByte(secure, ':')+1:] + "/blog"
	}
	if got := ask(still, plain, "www.example.com:"+port); got.Header.Get("Location") != want {
		t.Errorf("redirected to %q, want %q", got.Header.Get("Location"), want)
	}
}

// podOf is the first pod with a label, as namespace/name.
func podOf(t *testing.T, c *clustertest.Cluster, label string) string {
	t.Helper()
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: label})
	if err != nil || len(list.Items) == 0 {
		t.Fatalf("no pod with %s: %v", label, err)
	}
	return "default/" + list.Items[0].Name
}
