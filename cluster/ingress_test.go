package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

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
