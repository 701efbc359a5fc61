package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "dev", Labels: labels}, Data: map[string]string{"k": "v"}}
}

// next is a watch's next event, as "ADDED name".
func next(t *testing.T, w watch.Interface) string {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			return "closed"
		}
		if m, ok := e.Object.(metav1.Object); ok {
			return string(e.Type) + " " + m.GetName()
		}
		return fmt.Sprintf("%s %v", e.Type, e.Object)
	case <-time.After(10 * time.Second):
		t.Fatal("no event within 10 s")
		return ""
	}
}

// A-11 over JSON and protobuf: a watch sees creations, changes and deletions in order, and a selector turns changes that
// begin or cease to match into additions and deletions.
func TestWatchSeesEveryChangeInOrder(t *testing.T) {
	t.Parallel()
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			conf := rest.CopyConfig(c.config)
			conf.ContentType, conf.AcceptContentTypes = media, media
			client := kubernetes.NewForConfigOrDie(conf)
			maps := client.CoreV1().ConfigMaps("dev")
			list, err := maps.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			all, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
			if err != nil {
				t.Fatal(err)
			}
			defer all.Stop()
			red, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "color=red"})
			if err != nil {
				t.Fatal(err)
			}
			defer red.Stop()
			obj, err := maps.Create(t.Context(), configMap("a", nil), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, color := range []string{"red", "red2", "red"} {
				obj.Labels = map[string]string{"color": color}
				if obj, err = maps.Update(t.Context(), obj, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			var got, gotRed []string
			for range 5 {
				got = append(got, next(t, all))
			}
			for range 4 {
				gotRed = append(gotRed, next(t, red))
			}
			want := []string{"ADDED a", "MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"ADDED a", "DELETED a", "ADDED a", "DELETED a"}, gotRed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// client-go's informers (WatchList, over protobuf) come to hold what the store holds, while writers write.
func TestInformersAgreeWithTheStore(t *testing.T) {
	t.Parallel()
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			conf := rest.CopyConfig(c.config)
			conf.ContentType, conf.AcceptContentTypes = media, media
			client := kubernetes.NewForConfigOrDie(conf)
			maps := client.CoreV1().ConfigMaps("dev")
			for i := range 10 {
				if _, err := maps.Create(t.Context(), configMap(fmt.Sprintf("old-%d", i), nil), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			factory := informers.NewSharedInformerFactory(client, 0)
			informer := factory.Core().V1().ConfigMaps()
			seen := make(chan string, 1000)
			informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(o any) { seen <- "+" + o.(*corev1.ConfigMap).Name },
				DeleteFunc: func(o any) { seen <- "-" + o.(*corev1.ConfigMap).Name },
			})
			factory.Start(ctx.Done())
			defer factory.Shutdown()
			defer cancel()
			if !cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced) {
				t.Fatal("the informer never synced")
			}
			var writers sync.WaitGroup
			for w := range 4 {
				writers.Go(func() {
					for i := range 10 {
						name := fmt.Sprintf("new-%d-%d", w, i)
						if _, err := maps.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{}); err != nil {
							t.Error(err)
						}
						if i%2 == 0 {
							if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			writers.Wait()
			plus, minus := 0, 0
			for plus < 50 || minus < 20 {
				select {
				case e := <-seen:
					if e[0] == '+' {
						plus++
					} else {
						minus++
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%d additions and %d deletions seen, want 50 and 20", plus, minus)
				}
			}
			if n := len(informer.Informer().GetStore().List()); n != 30 {
				t.Errorf("the informer holds %d objects, want 30", n)
			}
		})
	}
}

// WatchList ends its beginning with the annotated bookmark, whose revision goes on where it stands.
func TestWatchListEndsItsBeginningWithABookmark(t *testing.T) {
	t.Parallel()
	c := start(t)
	if _, err := c.client(t).CoreV1().ConfigMaps("dev").Create(t.Context(), configMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	path := "/api/v1/configmaps?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
	req, err := http.NewRequestWithContext(t.Context(), "GET", c.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.authority.Token)
	res, err := c.http(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	var types []string
	for range 2 {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		var e struct {
			Type   string
			Object unstructured.Unstructured
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		types = append(types, e.Type+" "+e.Object.GetKind()+" "+e.Object.GetName()+e.Object.GetAnnotations()["k8s.io/initial-events-end"])
	}
	if diff := cmp.Diff([]string{"ADDED ConfigMap a", "BOOKMARK ConfigMap true"}, types); diff != "" {
		t.Error(diff)
	}
	_, body := c.ask(t, "GET", "/api/v1/configmaps?watch=true&sendInitialEvents=true", "")
	contains(t, body, `"code":422`, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	_, body = c.ask(t, "GET", "/api/v1/configmaps?resourceVersion=999999", "")
	contains(t, body, `"code":504`, "Too large resource version: 999999", "ResourceVersionTooLarge")
}

// a watch with a timeout ends by itself, and tells the revision first.
func TestWatchEndsAtItsTimeoutWithABookmark(t *testing.T) {
	t.Parallel()
	c := start(t)
	w, err := c.client(t).CoreV1().ConfigMaps("dev").Watch(t.Context(), metav1.ListOptions{
		AllowWatchBookmarks: true, TimeoutSeconds: new(int64(1)), ResourceVersion: "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if got := []string{next(t, w), next(t, w)}; got[0] != "BOOKMARK " || got[1] != "closed" {
		t.Errorf("got %q, want a bookmark and the end", got)
	}
}

// pages of a limited list come from one snapshot, whatever is written in between.
func TestLimitedListIsOneSnapshot(t *testing.T) {
	t.Parallel()
	c := start(t)
	maps := c.client(t).CoreV1().ConfigMaps("dev")
	for i := range 5 {
		if _, err := maps.Create(t.Context(), configMap(fmt.Sprintf("m%d", i), nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	opts := metav1.ListOptions{Limit: 2}
	for {
		list, err := maps.List(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Items {
			names = append(names, m.Name)
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
		if err := maps.Delete(t.Context(), "m4", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"m0", "m1", "m2", "m3", "m4"}, names); diff != "" {
		t.Error(diff)
	}
	_, err := maps.List(t.Context(), metav1.ListOptions{Continue: "bogus"})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("an unknown continue token got %v, want 410", err)
	}
}

// field selectors, and one that Kubernetes does not know either.
func TestFieldSelectors(t *testing.T) {
	t.Parallel()
	c := start(t)
	for i, node := range []string{"", "n1", "n2"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Namespace: "dev"}}
		pod.Spec.NodeName, pod.Status.Phase = node, corev1.PodPending
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
		c.put(t, pod)
	}
	pods := c.client(t).CoreV1().Pods("")
	for selector, want := range map[string]int{
		"spec.nodeName=n1": 1, "spec.nodeName=": 1, "spec.nodeName!=n1": 2, "status.phase=Pending": 3, "metadata.name=p2": 1,
		"metadata.namespace=dev,spec.nodeName=n2": 1, "metadata.namespace=default": 0,
	} {
		list, err := pods.List(t.Context(), metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != want {
			t.Errorf("%s: got %d pods (%v), want %d", selector, len(list.Items), err, want)
		}
	}
	if _, err := pods.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=red"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field got %v, want 400", err)
	}
}

// tables are watched too, and the dynamic client reads what the typed one wrote.
func TestDynamicClientAndTableWatch(t *testing.T) {
	t.Parallel()
	c := start(t)
	if _, err := c.client(t).CoreV1().ConfigMaps("dev").Create(t.Context(), configMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	gvr := corev1.SchemeGroupVersion.WithResource("configmaps")
	got, err := dynamic.NewForConfigOrDie(c.config).Resource(gvr).Namespace("dev").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || got.GetKind() != "ConfigMap" || got.GetAPIVersion() != "v1" {
		t.Errorf("got %v (%v)", got, err)
	}
	res, body := c.ask(t, "GET", "/api/v1/configmaps?watch=true&timeoutSeconds=1", "",
		"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	contains(t, body, `"kind":"Table"`, `"columnDefinitions":[{"name":"Name"`, `"cells":["a",1,`, `"PartialObjectMetadata"`)
	contains(t, res.Header.Get("Content-Type"), "application/json")
	contains(t, c.must(t, "get", "cm", "-n", "dev", "-w", "--request-timeout=1s"), "DATA", "a ")
}
