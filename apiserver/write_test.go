package apiserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/apiserver"
)

func service(name string, kind corev1.ServiceType, ports ...int32) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "dev"}}
	svc.Spec.Type = kind
	svc.Spec.Selector = map[string]string{"app": "web"}
	for _, p := range ports {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", p), Port: p})
	}
	return svc
}

// 64 writers at once, each Service with its own address and node port.
func TestNoAddressOrNodePortIsGivenTwice(t *testing.T) {
	t.Parallel()
	c := start(t)
	services := c.client(t).CoreV1().Services("dev")
	var mu sync.Mutex
	ips, ports := map[string]string{}, map[int32]string{}
	var writers sync.WaitGroup
	for w := range 64 {
		writers.Go(func() {
			for i := range 4 {
				svc, err := services.Create(t.Context(), service(fmt.Sprintf("s%d-%d", w, i), corev1.ServiceTypeNodePort, 80), metav1.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, taken := ips[svc.Spec.ClusterIP]; taken || svc.Spec.ClusterIP == "" {
					t.Errorf("%s and %s both have %q", svc.Name, other, svc.Spec.ClusterIP)
				}
				if other, taken := ports[svc.Spec.Ports[0].NodePort]; taken || svc.Spec.Ports[0].NodePort < 30000 {
					t.Errorf("%s and %s both have node port %d", svc.Name, other, svc.Spec.Ports[0].NodePort)
				}
				ips[svc.Spec.ClusterIP], ports[svc.Spec.Ports[0].NodePort] = svc.Name, svc.Name
				mu.Unlock()
			}
		})
	}
	writers.Wait()
}

// the range runs out with a clear error, and what is deleted can be given again.
func TestNodePortsRunOutAndComeBack(t *testing.T) {
	t.Parallel()
	c := start(t, func(conf *apiserver.Config) { conf.NodePorts = [2]int32{30000, 30002} })
	services := c.client(t).CoreV1().Services("dev")
	for i := range 3 {
		if _, err := services.Create(t.Context(), service(fmt.Sprintf("s%d", i), corev1.ServiceTypeNodePort, 80), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := services.Create(t.Context(), service("more", corev1.ServiceTypeNodePort, 80), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "failed to allocate a nodePort: range is full") {
		t.Errorf("got %v", err)
	}
	if err := services.Delete(t.Context(), "s1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Create(t.Context(), service("more", corev1.ServiceTypeNodePort, 80), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// explicit addresses are honoured or refused with who holds them.
func TestExplicitClusterIPs(t *testing.T) {
	t.Parallel()
	c := start(t)
	services := c.client(t).CoreV1().Services("dev")
	first := service("first", corev1.ServiceTypeClusterIP, 80)
	first.Spec.ClusterIP = "10.96.0.5"
	got, err := services.Create(t.Context(), first, metav1.CreateOptions{})
	if err != nil || got.Spec.ClusterIP != "10.96.0.5" || len(got.Spec.ClusterIPs) != 1 {
		t.Fatalf("got %v (%v)", got, err)
	}
	second := service("second", corev1.ServiceTypeClusterIP, 80)
	second.Spec.ClusterIP = "10.96.0.5"
	_, err = services.Create(t.Context(), second, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "failed to allocate IP 10.96.0.5: provided IP is already allocated") ||
		!strings.Contains(err.Error(), "dev/first") {
		t.Errorf("got %v", err)
	}
	second.Spec.ClusterIP = "10.97.0.5"
	_, err = services.Create(t.Context(), second, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "is not in the valid range. The range of valid IPs is 10.96.0.0/16") {
		t.Errorf("got %v", err)
	}
}

// addresses and ports survive updates that leave them out, and go with the type that needed them.
func TestAllocationsFollowTheServicesType(t *testing.T) {
	t.Parallel()
	c := start(t)
	services := c.client(t).CoreV1().Services("dev")
	made, err := services.Create(t.Context(), service("s", corev1.ServiceTypeNodePort, 80, 81), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bare := service("s", corev1.ServiceTypeNodePort, 80, 81)
	same, err := services.Update(t.Context(), bare, metav1.UpdateOptions{})
	if err != nil || same.Spec.ClusterIP != made.Spec.ClusterIP || same.Spec.Ports[1].NodePort != made.Spec.Ports[1].NodePort {
		t.Fatalf("got %v (%v), want the addresses of %v", same, err, made)
	}
	same.Spec.Type = corev1.ServiceTypeClusterIP
	inner, err := services.Update(t.Context(), same, metav1.UpdateOptions{})
	if err != nil || inner.Spec.Ports[0].NodePort != 0 || inner.Spec.ClusterIP != made.Spec.ClusterIP {
		t.Fatalf("got %v (%v), want no node ports and the same address", inner, err)
	}
	inner.Spec.Type, inner.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	outer, err := services.Update(t.Context(), inner, metav1.UpdateOptions{})
	if err != nil || outer.Spec.ClusterIP != "" {
		t.Fatalf("got %v (%v), want no address", outer, err)
	}
	headless := service("h", "", 80)
	headless.Spec.ClusterIP = "None"
	if h, err := services.Create(t.Context(), headless, metav1.CreateOptions{}); err != nil || h.Spec.ClusterIP != "None" {
		t.Errorf("got %v (%v)", h, err)
	}
}

// a stale write gets 409 in Kubernetes' words; patches of others' fields do not get in each other's way.
func TestStaleWritesConflict(t *testing.T) {
	t.Parallel()
	c := start(t)
	maps := c.client(t).CoreV1().ConfigMaps("dev")
	old, err := maps.Create(t.Context(), configMap("a", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fresh := old.DeepCopy()
	fresh.Data["k"] = "w"
	if _, err := maps.Update(t.Context(), fresh, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	old.Data["k"] = "x"
	_, err = maps.Update(t.Context(), old, metav1.UpdateOptions{})
	want := `Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	var writers sync.WaitGroup
	for i := range 16 {
		writers.Go(func() {
			patch := fmt.Appendf(nil, `{"data":{"k%d":"v"}}`, i)
			if _, err := maps.Patch(t.Context(), "a", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if got, err := maps.Get(t.Context(), "a", metav1.GetOptions{}); err != nil || len(got.Data) != 17 {
		t.Errorf("got %v (%v), want 17 keys", got, err)
	}
	bad := types.UID("bad")
	err = maps.Delete(t.Context(), "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &bad}})
	if !apierrors.IsConflict(err) {
		t.Errorf("a deletion with another uid got %v, want 409", err)
	}
}

// generateName, deletecollection, finalizers, dry run.
func TestNamesAreGeneratedAndCollectionsDeleted(t *testing.T) {
	t.Parallel()
	c := start(t)
	maps := c.client(t).CoreV1().ConfigMaps("dev")
	for i := range 3 {
		m := configMap("", map[string]string{"odd": fmt.Sprint(i % 2)})
		m.GenerateName = "gen-"
		got, err := maps.Create(t.Context(), m, metav1.CreateOptions{})
		if err != nil || !strings.HasPrefix(got.Name, "gen-") || len(got.Name) != 9 {
			t.Fatalf("got %v (%v)", got, err)
		}
	}
	dry := []string{metav1.DryRunAll}
	if got, err := maps.Create(t.Context(), configMap("dry", nil), metav1.CreateOptions{DryRun: dry}); err != nil || got.UID == "" {
		t.Errorf("got %v (%v)", got, err)
	}
	if _, err := maps.Get(t.Context(), "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run left its object: %v", err)
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=0"}); err != nil {
		t.Fatal(err)
	}
	if list, err := maps.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("got %d left (%v), want 1", len(list.Items), err)
	}
	held := configMap("held", nil)
	held.Finalizers = []string{"example.com/hold"}
	if _, err := maps.Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := maps.Get(t.Context(), "held", metav1.GetOptions{})
	if err != nil || got.DeletionTimestamp == nil {
		t.Fatalf("got %v (%v), want it waiting for its finalizer", got, err)
	}
	if _, err := maps.Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), "held", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want it gone with its finalizer", err)
	}
}

// nothing new in a namespace that is on its way out, and the initial namespaces stay.
func TestTerminatingNamespaceTakesNothingNew(t *testing.T) {
	t.Parallel()
	c := start(t)
	client := c.client(t)
	if err := client.CoreV1().Namespaces().Delete(t.Context(), "dev", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Get(t.Context(), "dev", metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("got %v (%v)", ns, err)
	}
	_, err = client.CoreV1().ConfigMaps("dev").Create(t.Context(), configMap("a", nil), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("got %v", err)
	}
	contains(t, fmt.Sprint(err), `configmaps "a" is forbidden: unable to create new content in namespace dev because it is being terminated`)
	if err := client.CoreV1().Namespaces().Delete(t.Context(), "default", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deleting default got %v, want 403", err)
	}
}

func deployment(replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "dev"}}
	d.Spec.Replicas = &replicas
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "nginx"}}
	return d
}

// scale is read and written, over typed clients and kubectl; status and spec do not touch each other.
func TestScaleAndStatusSubresources(t *testing.T) {
	t.Parallel()
	c := start(t)
	deployments := c.client(t).AppsV1().Deployments("dev")
	made, err := deployments.Create(t.Context(), deployment(2), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale, err := deployments.GetScale(t.Context(), "web", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 2 || scale.Status.Selector != "app=web" {
		t.Fatalf("got %v (%v)", scale, err)
	}
	scale = &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "dev"}, Spec: autoscalingv1.ScaleSpec{Replicas: 5}}
	if scale, err = deployments.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 5 {
		t.Fatalf("got %v (%v)", scale, err)
	}
	contains(t, c.must(t, "scale", "deploy/web", "-n", "dev", "--replicas=3"), "scaled")
	made.Spec.Replicas, made.ResourceVersion = new(int32(9)), ""
	made.Status.ReadyReplicas = 2
	made.Status.Replicas = 2
	got, err := deployments.UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
	if err != nil || *got.Spec.Replicas != 3 || got.Status.ReadyReplicas != 2 {
		t.Errorf("got %v (%v), want 3 replicas, 2 ready", got, err)
	}
	contains(t, c.must(t, "get", "deploy", "-n", "dev", "-o", "wide"), "READY", "UP-TO-DATE", "2/3", "nginx", "app=web")
}

// fieldValidation decides whether an unknown field is refused, told or overlooked; duplicates count too.
func TestFieldValidation(t *testing.T) {
	t.Parallel()
	c := start(t)
	body := func(name string) string {
		return `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"` + name + `"},"dada":{},"data":{"a":"1","a":"2"}}`
	}
	path := "/api/v1/namespaces/dev/configmaps?fieldValidation="
	res, text := c.ask(t, "POST", path+"Strict", body("a"))
	if res.StatusCode != 400 {
		t.Errorf("Strict got %d", res.StatusCode)
	}
	contains(t, text, `strict decoding error: unknown field \"dada\", duplicate field \"data.a\"`)
	res, _ = c.ask(t, "POST", path+"Warn", body("b"))
	if res.StatusCode != 201 {
		t.Errorf("Warn got %d", res.StatusCode)
	}
	contains(t, strings.Join(res.Header.Values("Warning"), ","), `299 - "unknown field \"dada\""`, `299 - "duplicate field \"data.a\""`)
	res, _ = c.ask(t, "POST", path+"Ignore", body("c"))
	if res.StatusCode != 201 || len(res.Header.Values("Warning")) != 0 {
		t.Errorf("Ignore got %d with %q", res.StatusCode, res.Header.Values("Warning"))
	}
	if res, _ = c.ask(t, "POST", path+"Maybe", body("d")); res.StatusCode != 422 {
		t.Errorf("Maybe got %d", res.StatusCode)
	}
}

// bodies that are no object of the kind, in no known format, or too large.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	c := start(t)
	path := "/api/v1/namespaces/dev/configmaps"
	for _, test := range []struct {
		body, media string
		code        int
		text        string
	}{
		{"{", "application/json", 400, "(must be of type ConfigMap)"},
		{`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}`, "application/json", 400, "cannot be handled as a ConfigMap"},
		{`{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"a"}}`, "application/json", 400, `no kind \"ConfigMap\" is registered for version \"v2\"`},
		{`{}`, "text/html", 415, "unknown format"},
		{`{"metadata":{"namespace":"other","name":"a"}}`, "application/json", 400, "does not match the namespace sent on the request"},
		{`{"metadata":{"name":"a"},"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, "application/json", 413, "limit is 3145728"},
		{"metadata: {name: yaml}\ndata: {a: b}\n", "application/yaml", 201, `"name":"yaml"`},
	} {
		res, text := c.ask(t, "POST", path, test.body, "Content-Type", test.media)
		if res.StatusCode != test.code {
			t.Errorf("%.60s: got %d, want %d", test.body, res.StatusCode, test.code)
		}
		contains(t, text, test.text)
	}
	res, _ := c.ask(t, "GET", path, "", "Accept", "text/html")
	if res.StatusCode != 406 {
		t.Errorf("got %d, want 406", res.StatusCode)
	}
	_, text := c.ask(t, "PATCH", path+"/yaml", `[{"op":"test","path":"/data/a","value":"c"}]`, "Content-Type", "application/json-patch+json")
	contains(t, text, `"code":422`)
	_, text = c.ask(t, "PATCH", path+"/yaml", `x`, "Content-Type", "application/merge-patch+json")
	contains(t, text, `"code":400`)
	res, text = c.ask(t, "PATCH", path+"/yaml", `x`, "Content-Type", "application/json")
	if res.StatusCode != 415 {
		t.Errorf("got %d %s, want 415", res.StatusCode, text)
	}
	var status metav1.Status
	_, text = c.ask(t, "GET", path+"/none", "")
	if err := json.Unmarshal([]byte(text), &status); err != nil || status.Message != `configmaps "none" not found` || status.Details.Kind != "configmaps" {
		t.Errorf("got %s (%v)", text, err)
	}
}

// a PUT of what is not there creates it, for the kinds of which Kubernetes does so; of all others it is not found.
func TestAPutCreatesTheKindsThatKubernetesCreates(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, row := range []struct {
		path, body string
		want       int
	}{
		{"/api/v1/namespaces/dev/services/s", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`, 201},
		{"/api/v1/namespaces/dev/services/s", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":81}]}}`, 200},
		{"/apis/coordination.k8s.io/v1/namespaces/dev/leases/l",
			`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l","resourceVersion":"7"},"spec":{"holderIdentity":"me"}}`, 201},
		{"/api/v1/namespaces/dev/endpoints/e", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"e","uid":"gone"}}`, 409},
		{"/api/v1/namespaces/dev/configmaps/m", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"}}`, 404},
		{"/api/v1/namespaces/none/services/s", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`, 404},
	} {
		if got, body := c.ask(t, "PUT", row.path, row.body); got.StatusCode != row.want {
			t.Errorf("PUT %s: got %d, want %d: %s", row.path, got.StatusCode, row.want, body)
		}
	}
}
