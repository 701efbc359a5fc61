package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// informersWait bounds what a script waits for informers: a reflector that was refused tries again within a minute.
const informersWait = 2 * time.Minute

// informed are the kinds that the informers follow: those that a cluster at rest does not change by itself.
var informed = []schema.GroupVersionResource{
	{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "services"}, {Version: "v1", Resource: "pods"},
	{Version: "v1", Resource: "namespaces"}, {Version: "v1", Resource: "secrets"},
	{Group: "apps", Version: "v1", Resource: "deployments"},
	{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
	{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
}

// informers of every kind of client in client-go outlive the daemon, however it ends: they come to hold what a
// fresh list holds.
func TestInformersOutliveTheDaemon(t *testing.T) {
	t.Parallel()
	runScripts(t, filepath.Join("clients", "informers"), func(env *testscript.Env) error {
		env.Values[informingKey{}] = &informing{held: map[schema.GroupVersionResource]map[string]cache.SharedInformer{}}
		return errors.Join(clientHome(env), lastBlock(env))
	})
}

// lastBlock lets the script's cluster begin with the last of the loopback's blocks: the clusters of other tests take the first free
// ones, and while this one is down they would take its own, which its clients know.
func lastBlock(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, "state", "kubarium", "t")
	return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "block"), []byte("127"), 0o600))
}

// informing is a script's running informers, by resource and by the client that they use.
type informing struct {
	held  map[schema.GroupVersionResource]map[string]cache.SharedInformer
	fresh dynamic.Interface
}

type informingKey struct{}

// scriptREST is the configuration of a client of the script's cluster.
func scriptREST(ts *testscript.TestScript) *rest.Config {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(scriptState(ts, nil).dir, "kubeconfig"))
	ts.Check(err)
	config.QPS = -1
	return config
}

// informersStart runs informers with each kind of client, and returns when all of them hold a first picture.
func informersStart(ts *testscript.TestScript, _ bool, _ []string) {
	in := ts.Value(informingKey{}).(*informing)
	config := scriptREST(ts)
	in.fresh = dynamic.NewForConfigOrDie(config)
	ctx, cancel := context.WithCancel(context.Background())
	plain := dynamicinformer.NewDynamicSharedInformerFactory(in.fresh, 0)
	names := metadatainformer.NewSharedInformerFactory(metadata.NewForConfigOrDie(config), 0)
	typed := map[string]informers.SharedInformerFactory{}
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		conf := rest.CopyConfig(config)
		conf.ContentType, conf.AcceptContentTypes = media, media
		typed[media] = informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(conf), time.Second) // resyncs all the while
	}
	var lists wait.Group
	for _, r := range informed {
		in.held[r] = map[string]cache.SharedInformer{"dynamic": plain.ForResource(r).Informer(), "metadata": names.ForResource(r).Informer()}
		for media, factory := range typed {
			i, err := factory.ForResource(r)
			ts.Check(err)
			in.held[r][media] = i.Informer()
		}
		i := cache.NewSharedIndexInformer(listsFirst{in.fresh.Resource(r)}, &unstructured.Unstructured{}, 0, nil)
		in.held[r]["list and watch"] = i
		lists.StartWithContext(ctx, func(ctx context.Context) { i.Run(ctx.Done()) })
	}
	plain.Start(ctx.Done())
	names.Start(ctx.Done())
	for _, factory := range typed {
		factory.Start(ctx.Done())
		ts.Defer(factory.Shutdown)
	}
	ts.Defer(func() {
		cancel()
		lists.Wait()
		plain.Shutdown()
		names.Shutdown()
	})
	limit, end := context.WithTimeout(ctx, informersWait)
	defer end()
	for r, clients := range in.held {
		for client, i := range clients {
			if !cache.WaitForCacheSync(limit.Done(), i.HasSynced) {
				ts.Fatalf("%s of %s: the informer has no picture after %s", client, r.Resource, informersWait)
			}
		}
	}
}

// listsFirst is a client that knows no WatchList: its reflector lists, and watches from there.
type listsFirst struct{ resource dynamic.ResourceInterface }

func (listsFirst) IsWatchListSemanticsUnSupported() bool { return true }

func (l listsFirst) List(o metav1.ListOptions) (runtime.Object, error) {
	o.Limit = 2 // in pages
	return l.resource.List(context.Background(), o)
}

func (l listsFirst) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return l.resource.Watch(context.Background(), o)
}

// informersAgree returns when each informer holds what a fresh list holds, at the same revisions.
func informersAgree(ts *testscript.TestScript, _ bool, _ []string) {
	in := ts.Value(informingKey{}).(*informing)
	var difference string
	agree := func(ctx context.Context) (bool, error) {
		for _, r := range informed {
			list, err := in.fresh.Resource(r).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, err
			}
			var all []any
			for i := range list.Items {
				all = append(all, &list.Items[i])
			}
			for client, i := range in.held[r] {
				if difference = cmp.Diff(revisions(all), revisions(i.GetStore().List())); difference != "" {
					difference = fmt.Sprintf("%s of %s (-list +informer): %s", client, r.Resource, difference)
					return false, nil
				}
			}
		}
		return true, nil
	}
	if err := wait.PollUntilContextTimeout(context.Background(), 50*time.Millisecond, informersWait, true, agree); err != nil {
		ts.Fatalf("the informers do not hold what a list holds: %v\n%s", err, difference)
	}
}

// revisions are the revisions of objects, by namespace and name.
func revisions(all []any) map[string]string {
	held := map[string]string{}
	for _, o := range all {
		if m, err := meta.Accessor(o); err == nil {
			held[m.GetNamespace()+"/"+m.GetName()] = m.GetResourceVersion()
		}
	}
	return held
}

// scaleTo scales by client-go's scale client, which finds the kind by discovery: scaleto RESOURCE NAMESPACE/NAME REPLICAS
func scaleTo(ts *testscript.TestScript, neg bool, words []string) {
	if neg || len(words) != 3 {
		ts.Fatalf("usage: scaleto RESOURCE NAMESPACE/NAME REPLICAS")
	}
	config := scriptREST(ts)
	found := memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(config))
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(found)
	r, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: words[0]})
	ts.Check(err)
	client, err := scale.NewForConfig(config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(found))
	ts.Check(err)
	namespace, name, err := cache.SplitMetaNamespaceKey(words[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), informersWait)
	defer cancel()
	s, err := client.Scales(namespace).Get(ctx, r.GroupResource(), name, metav1.GetOptions{})
	ts.Check(err)
	_, err = fmt.Sscan(words[2], &s.Spec.Replicas)
	ts.Check(err)
	_, err = client.Scales(namespace).Update(ctx, r.GroupResource(), s, metav1.UpdateOptions{})
	ts.Check(err)
}
