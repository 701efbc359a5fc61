package apiserver_test

import (
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// an Event written under one version is read, selected and watched under the other, in its words.
func TestBothVersionsOfEventsShowTheSame(t *testing.T) {
	t.Parallel()
	c := start(t)
	client := c.client(t)
	watch, err := client.EventsV1().Events("dev").Watch(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=web"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	old := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Reason: "Started", Message: "it has", Type: "Normal",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "dev", Name: "web"}, Count: 3, Source: corev1.EventSource{Component: "kubelet"}}
	if _, err := client.CoreV1().Events("dev").Create(t.Context(), old, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen, ok := (<-watch.ResultChan()).Object.(*eventsv1.Event)
	if !ok || seen.Note != "it has" || seen.Regarding.Name != "web" || seen.DeprecatedCount != 3 || seen.DeprecatedSource.Component != "kubelet" {
		t.Errorf("the watch shows %+v", seen)
	}
	fresh := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "b"}, EventTime: metav1.NewMicroTime(time.Now()), Reason: "Begun", Note: "so be it",
		Type: "Warning", Action: "Begin", ReportingController: "example.com/robot", ReportingInstance: "robot-1",
		Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "dev", Name: "other"}}
	if fresh, err = client.EventsV1().Events("dev").Create(t.Context(), fresh, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := client.CoreV1().Events("dev").Get(t.Context(), "b", metav1.GetOptions{}); err != nil || got.Message != "so be it" ||
		got.InvolvedObject.Name != "other" || got.UID != fresh.UID {
		t.Errorf("under v1 it is %+v (%v)", got, err)
	}
	patch := []byte(`{"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}`)
	got, err := client.EventsV1().Events("dev").Patch(t.Context(), "b", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil || got.Series == nil || got.Series.Count != 2 {
		t.Errorf("patched: %+v (%v)", got, err)
	}
	list, err := client.EventsV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "reportingController=example.com/robot"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Note != "so be it" {
		t.Errorf("the list shows %+v (%v)", list, err)
	}
	_, err = client.EventsV1().Events("dev").Create(t.Context(), &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "c"}, DeprecatedCount: 1,
		Regarding: corev1.ObjectReference{Namespace: "dev"}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Fatalf("an incomplete one: %v, want 422", err)
	}
	contains(t, err.Error(), "eventTime: Required value", "count: Invalid value: \"\": needs to be unset", "type: Invalid value: \"\": has invalid value: ")
	contains(t, c.must(t, "events", "-n", "dev"), "it has", "so be it")
	contains(t, c.must(t, "get", "events.v1.events.k8s.io", "-n", "dev"), "Started", "Begun")
}

// a pod's amounts change through its subresource resize, and nothing else does.
func TestAPodIsResized(t *testing.T) {
	t.Parallel()
	c := start(t)
	p := pod("a")
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m")}
	if _, err := c.client(t).CoreV1().Pods("dev").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := func(sub, body string) (int, string) {
		t.Helper()
		res, text := c.ask(t, "PATCH", "/api/v1/namespaces/dev/pods/a"+sub, body, "Content-Type", "application/strategic-merge-patch+json")
		return res.StatusCode, text
	}
	const more = `{"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}}`
	if code, text := patch("", more); code != http.StatusUnprocessableEntity {
		t.Errorf("past resize: %d %s", code, text)
	}
	if code, text := patch("/resize", more); code != http.StatusOK {
		t.Errorf("resize: %d %s", code, text)
	}
	got, err := c.client(t).CoreV1().Pods("dev").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || got.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 200 || got.Generation != 2 {
		t.Errorf("got %v, generation %d (%v)", got.Spec.Containers[0].Resources, got.Generation, err)
	}
	for body, want := range map[string]string{
		`{"spec": {"containers": [{"name": "c", "image": "other:2"}]}}`:                                       "only cpu and memory resources are mutable",
		`{"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": null}}}]}}`:                 "resource requests cannot be removed",
		`{"spec": {"containers": [{"name": "d", "image": "i"}]}}`:                                             "containers may not be added or removed on resize",
		`{"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": null, "memory": null}}}]}}`: "Pod QOS Class may not change as a result of resizing",
	} {
		code, text := patch("/resize", body)
		if code != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, want 422", body, code)
		}
		contains(t, text, want)
	}
}

// A-5, N-4: no pod is resized beyond what its node has; what the node has given to others is not looked at here.
func TestAPodIsNotResizedBeyondItsNode(t *testing.T) {
	t.Parallel()
	c := start(t)
	p, n := pod("a"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("110")}
	p.Spec.NodeName = "n1"
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("1Mi")}
	api.Default(p)
	for _, obj := range []api.Object{n, p} {
		if _, err := c.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(obj) }); err != nil {
			t.Fatal(err)
		}
	}
	resize := func(cpu, memory string) (int, string) {
		t.Helper()
		res, text := c.ask(t, "PATCH", "/api/v1/namespaces/dev/pods/a/resize", `{"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "`+cpu+
			`", "memory": "`+memory+`"}}}]}}`, "Content-Type", "application/strategic-merge-patch+json")
		return res.StatusCode, text
	}
	code, text := resize("2500m", "2Gi")
	if code != http.StatusForbidden {
		t.Errorf("got %d, want 403", code)
	}
	contains(t, text, `pods \"a\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000; `+
		`memory, requested: 2147483648, allocatable: 1073741824`, `"causes":[{"reason":"NodeCapacity"}]`)
	if code, text := resize("2", "1Gi"); code != http.StatusOK {
		t.Errorf("all that the node has: %d %s", code, text)
	}
}

// a CustomResourceDefinition is refused with one clear line, by kubectl too, and there are none to see.
func TestACustomResourceDefinitionIsRefusedClearly(t *testing.T) {
	t.Parallel()
	c := start(t)
	crd := file(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`)
	const want = "kubarium has no CustomResourceDefinitions: it serves the kinds that `kubectl api-resources` lists"
	for _, verb := range [][]string{{"apply"}, {"create"}, {"apply", "--server-side"}} {
		said := c.refused(t, append(verb, "-f", crd)...)
		contains(t, said, want)
		t.Log(said)
	}
	contains(t, c.must(t, "get", "crd"), "No resources found")
	contains(t, c.refused(t, "get", "crd", "things.example.com"), "NotFound")
	contains(t, c.refused(t, "apply", "-f", file(t, "{apiVersion: example.com/v1, kind: Thing, metadata: {name: a}}")), `no matches for kind "Thing"`)
	res, body := c.ask(t, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "{}")
	if res.StatusCode != http.StatusNotImplemented {
		t.Errorf("got %d", res.StatusCode)
	}
	contains(t, body, `"kind":"Status"`, want)
	if res, _ := c.ask(t, "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?watch=1&timeoutSeconds=1", ""); res.StatusCode != 200 {
		t.Errorf("a watch got %d", res.StatusCode)
	}
}

// what a writer should know comes as a Warning header, in Kubernetes' words and on dry runs too; kubectl shows it.
func TestWritersAreWarned(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, test := range []struct{ path, body, want string }{
		{"services", `{"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "externalName": "x.y"}}`,
			`299 - "spec.externalName is ignored when spec.type is not \"ExternalName\""`},
		{"pods", `{"metadata": {"name": "a.b"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}`,
			`299 - "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: `},
		{"pods", `{"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}]}}`,
			`299 - "spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when using apply"`},
		{"pods", `{"metadata": {"name": "a"}, "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}], "containers": [{"name": "c", "image": "i"}]}}`,
			`299 - "spec.volumes[0]: kubarium does not make this kind of volume; the pod will wait for it"`},
		{"pods", `{"metadata": {"name": "a"}, "spec": {"hostPID": true, "hostIPC": true, "containers": [{"name": "c", "image": "i"}]}}`,
			`299 - "spec.hostPID: kubarium shows a pod no processes of the host; the pod's containers see each other's, as with shareProcessNamespace"`},
		{"endpoints", `{"metadata": {"name": "a"}}`, `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"`},
	} {
		res, body := c.ask(t, "POST", "/api/v1/namespaces/dev/"+test.path+"?dryRun=All", test.body)
		if res.StatusCode != http.StatusCreated {
			t.Errorf("%s: %d %s", test.body, res.StatusCode, body)
		}
		contains(t, res.Header.Get("Warning"), test.want)
	}
	contains(t, c.must(t, "get", "endpoints", "-n", "dev"), "Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
	if res, _ := c.ask(t, "POST", "/api/v1/namespaces/dev/configmaps", `{"metadata": {"name": "a"}}`); res.Header.Get("Warning") != "" {
		t.Errorf("a warning without a reason: %s", res.Header.Get("Warning"))
	}
}
