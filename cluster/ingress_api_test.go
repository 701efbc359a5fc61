package cluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// toShop is an Ingress that leads a path to a Service, with the label that this test selects by.
func toShop(path string) *networkingv1.Ingress {
	return &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Labels: map[string]string{"special": "yes"}},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{
			Host: "api.example.com",
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
				Path: path, PathType: new(networkingv1.PathTypePrefix),
				Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "shop", Port: networkingv1.ServiceBackendPort{Number: 80}}},
			}}}},
		}}},
	}
}

// next is a watch's next event but bookmarks; it ends the test when none comes.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-w.ResultChan():
			if e.Type != watch.Bookmark {
				return e
			}
		case <-deadline:
			t.Fatal("the watch told nothing in 20 s")
		}
	}
}

// I-32: what Kubernetes' own conformance test does to Ingresses: discovery, and every verb on them and on their status.
func TestTheIngressAPIHasEveryVerb(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	ctx, all := t.Context(), metav1.ListOptions{LabelSelector: "special=yes"}
	served, err := c.Client.Discovery().ServerResourcesForGroupVersion("networking.k8s.io/v1")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range served.APIResources {
		names = append(names, r.Name)
	}
	for _, want := range []string{"ingresses", "ingresses/status", "ingressclasses"} {
		if !slices.Contains(names, want) {
			t.Errorf("discovery names %q, not %s", names, want)
		}
	}
	ingresses := c.Client.NetworkingV1().Ingresses("default")
	var made []*networkingv1.Ingress
	for _, path := range []string{"/a", "/b", "/c"} {
		one, err := ingresses.Create(ctx, toShop(path), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, one)
	}
	name := made[0].Name
	if got, err := ingresses.Get(ctx, name, metav1.GetOptions{}); err != nil || got.UID != made[0].UID {
		t.Errorf("get: %v", err)
	}
	list, err := c.Client.NetworkingV1().Ingresses("").List(ctx, all)
	if err != nil || len(list.Items) != 3 {
		t.Fatalf("list over all namespaces: %d, %v", len(list.Items), err)
	}
	w, err := ingresses.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: all.LabelSelector})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	patched, err := ingresses.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	if err != nil || patched.Annotations["patched"] != "true" {
		t.Errorf("merge patch: %v", err)
	}
	for seen := ""; seen != "true"; { // the ingress writes the status meanwhile
		if e := next(t, w); e.Type == watch.Modified && e.Object.(*networkingv1.Ingress).Name == name {
			seen = e.Object.(*networkingv1.Ingress).Annotations["patched"]
		}
	}
	update := func(name string, change func(*networkingv1.Ingress), write func(*networkingv1.Ingress) error) {
		t.Helper()
		for range 20 { // the ingress writes, too
			now, err := ingresses.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			change(now)
			if err = write(now); !apierrors.IsConflict(err) {
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
		t.Error("an update met conflicts 20 times")
	}
	update(name, func(i *networkingv1.Ingress) { i.Annotations["updated"] = "true" }, func(i *networkingv1.Ingress) error {
		got, err := ingresses.Update(ctx, i, metav1.UpdateOptions{})
		if err == nil && (got.Annotations["updated"] != "true" || got.Generation != 1) {
			t.Errorf("update: %v, generation %d, want 1", got.Annotations, got.Generation)
		}
		return err
	})
	statusOf(t, c, name, update)
	if err := ingresses.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := ingresses.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the deletion: %v", err)
	}
	if err := ingresses.DeleteCollection(ctx, metav1.DeleteOptions{}, all); err != nil {
		t.Error(err)
	}
	if left, err := ingresses.List(ctx, all); err != nil || len(left.Items) != 0 {
		t.Errorf("%d left of the collection, %v", len(left.Items), err)
	}
}

// statusOf gets, patches and updates a status. Nobody serves the Ingress's class then: the ingress would put its own in its place.
func statusOf(t *testing.T, c *clustertest.Cluster, name string, update func(string, func(*networkingv1.Ingress), func(*networkingv1.Ingress) error)) {
	t.Helper()
	ctx, ingresses := t.Context(), c.Client.NetworkingV1().Ingresses("default")
	if _, err := ingresses.Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"ingressClassName":"nobodys"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Until("the ingress lets go of the status", func() bool {
		now, err := ingresses.Get(ctx, name, metav1.GetOptions{})
		return err == nil && len(now.Status.LoadBalancer.Ingress) == 0
	})
	got, err := ingresses.Patch(ctx, name, types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"loadBalancer":{"ingress":[{"ip":"169.1.1.1"}]}}}`), metav1.PatchOptions{}, "status")
	if err != nil || got.Status.LoadBalancer.Ingress[0].IP != "169.1.1.1" || got.Annotations["patchedstatus"] != "true" {
		t.Errorf("patch the status: %v", err)
	}
	update(name, func(i *networkingv1.Ingress) {
		i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "169.1.1.2"}}
		i.Spec.Rules = nil // not of the status: left alone
	}, func(i *networkingv1.Ingress) error {
		got, err := ingresses.UpdateStatus(ctx, i, metav1.UpdateOptions{})
		if err == nil && (got.Status.LoadBalancer.Ingress[0].IP != "169.1.1.2" || len(got.Spec.Rules) != 1) {
			t.Errorf("update the status: %v, %d rules", got.Status, len(got.Spec.Rules))
		}
		return err
	})
	raw, err := c.Client.NetworkingV1().RESTClient().Get().Namespace("default").Resource("ingresses").Name(name).SubResource("status").DoRaw(ctx)
	if err != nil || !strings.Contains(string(raw), "169.1.1.2") {
		t.Errorf("get the status: %s %v", raw, err)
	}
}

// I-32, I-31: the same verbs on IngressClasses, whose controller cannot be changed.
func TestTheIngressClassAPIHasEveryVerb(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	ctx, classes, all := t.Context(), c.Client.NetworkingV1().IngressClasses(), metav1.ListOptions{LabelSelector: "special=yes"}
	for _, name := range []string{"one", "two", "three"} {
		class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"special": "yes"}}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/one"}}
		if _, err := classes.Create(ctx, class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := classes.List(ctx, all)
	if err != nil || len(list.Items) != 3 {
		t.Fatalf("list: %d, %v", len(list.Items), err)
	}
	w, err := classes.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: all.LabelSelector})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	got, err := classes.Patch(ctx, "one", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	if err != nil || got.Annotations["patched"] != "true" {
		t.Fatalf("merge patch: %v", err)
	}
	got.Annotations["updated"] = "true"
	if got, err = classes.Update(ctx, got, metav1.UpdateOptions{}); err != nil || got.Annotations["updated"] != "true" {
		t.Errorf("update: %v", err)
	}
	if e := next(t, w); e.Type != watch.Modified || e.Object.(*networkingv1.IngressClass).Name != "one" {
		t.Errorf("the watch told %v", e)
	}
	if _, err := classes.Patch(ctx, "one", types.MergePatchType, []byte(`{"spec":{"controller":"example.com/two"}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another controller: %v, want a refusal", err)
	}
	if err := classes.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if err := classes.DeleteCollection(ctx, metav1.DeleteOptions{}, all); err != nil {
		t.Error(err)
	}
	if left, err := classes.List(ctx, all); err != nil || len(left.Items) != 0 {
		t.Errorf("%d left of the collection, %v", len(left.Items), err)
	}
}

// I-33: what Kubernetes refuses is refused with 422, naming the field.
func TestAnInvalidIngressIsRefusedByItsField(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	const path = "spec.rules[0].http.paths[0].path"
	at := func(i *networkingv1.Ingress) *networkingv1.HTTPIngressPath { return &i.Spec.Rules[0].HTTP.Paths[0] }
	bad := map[string]struct {
		field  string
		change func(*networkingv1.Ingress)
	}{
		"no pathType":                         {"spec.rules[0].http.paths[0].pathType", func(i *networkingv1.Ingress) { at(i).PathType = nil }},
		"a path that is relative":             {path, func(i *networkingv1.Ingress) { at(i).Path = "a" }},
		"a name and a number":                 {"spec.rules[0].http.paths[0].backend", func(i *networkingv1.Ingress) { at(i).Backend.Service.Port.Name = "http" }},
		"no port":                             {"spec.rules[0].http.paths[0].backend", func(i *networkingv1.Ingress) { at(i).Backend.Service.Port.Number = 0 }},
		"no backend":                          {"spec.rules[0].http.paths[0].backend", func(i *networkingv1.Ingress) { at(i).Backend.Service = nil }},
		"an address as host":                  {"spec.rules[0].host", func(i *networkingv1.Ingress) { i.Spec.Rules[0].Host = "10.0.0.1" }},
		"a port in the host":                  {"spec.rules[0].host", func(i *networkingv1.Ingress) { i.Spec.Rules[0].Host = "a.example:80" }},
		"a bare star":                         {"spec.rules[0].host", func(i *networkingv1.Ingress) { i.Spec.Rules[0].Host = "*" }},
		"neither rules nor a default backend": {"spec", func(i *networkingv1.Ingress) { i.Spec.Rules = nil }},
		"an address under tls":                {"spec.tls[0].hosts[0]", func(i *networkingv1.Ingress) { i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a b"}}} }},
	}
	for _, part := range []string{"/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a/..", "/a/."} {
		bad["the path "+part] = struct {
			field  string
			change func(*networkingv1.Ingress)
		}{path, func(i *networkingv1.Ingress) { at(i).Path = part }}
	}
	for name, tt := range bad {
		ing := toShop("/a")
		tt.change(ing)
		_, err := c.Client.NetworkingV1().Ingresses("default").Create(t.Context(), ing, metav1.CreateOptions{})
		status, ok := err.(apierrors.APIStatus)
		if !ok || status.Status().Code != 422 || status.Status().Details == nil {
			t.Errorf("%s: %v, want 422", name, err)
			continue
		}
		named := func(cause metav1.StatusCause) bool { return strings.HasPrefix(cause.Field, tt.field) }
		if !slices.ContainsFunc(status.Status().Details.Causes, named) {
			t.Errorf("%s: no cause names %s: %v", name, tt.field, status.Status().Details.Causes)
		}
	}
}
