package apiserver

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"runtime"

	"kubarium.dev/api"
)

// kubernetesVersion is the release whose behaviour this server gives.
const kubernetesVersion = "v1.37.0"

func (s *Server) serveVersion(w http.ResponseWriter) {
	writeJSON(w, mediaJSON, version.Info{
		Major: "1", Minor: "37", GitVersion: s.gitVersion(), GitTreeState: "clean", BuildDate: "1970-01-01T00:00:00Z",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	})
}

// gitVersion is Kubernetes' version with kubarium's behind it.
func (s *Server) gitVersion() string {
	if s.cfg.Version == "" {
		return kubernetesVersion
	}
	return kubernetesVersion + "+kubarium-" + strings.TrimPrefix(s.cfg.Version, "v")
}

// writeJSON answers 200 with v.
func writeJSON(w http.ResponseWriter, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Write(b)
}

// resource is one line of discovery: a resource or a subresource.
type resource struct {
	gv           schema.GroupVersion
	name         string // "pods", "pods/log"
	singular     string
	short        []string
	categories   []string
	namespaced   bool
	kind         schema.GroupVersionKind
	verbs        []string
	subresources []resource
}

// Verbs as discovery lists them.
var (
	verbsAll    = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	verbsChange = []string{"get", "patch", "update"}
	verbsCreate = []string{"create"}
	verbsGet    = []string{"get"}
)

// resources are what a group and version serves, each with its subresources.
func resources(gv schema.GroupVersion) []resource {
	var all []resource
	for _, k := range servedKinds {
		if k.GroupVersion() == gv {
			all = append(all, resource{
				gv: gv, name: k.Plural, singular: k.Singular, short: k.Short, categories: k.Categories, namespaced: k.Namespaced,
				kind: k.GroupVersionKind(), verbs: verbsAll, subresources: subresources(k),
			})
		}
	}
	for _, r := range reviews {
		if r.GroupVersion() == gv {
			all = append(all, resource{
				gv: gv, name: strings.ToLower(r.Kind) + "s", singular: strings.ToLower(r.Kind), kind: r, verbs: verbsCreate,
				namespaced: r == localReview,
			})
		}
	}
	return all
}

func subresources(k *api.Kind) []resource {
	var subs []resource
	add := func(name string, kind schema.GroupVersionKind, verbs []string) {
		subs = append(subs, resource{gv: k.GroupVersion(), name: k.Plural + "/" + name, namespaced: k.Namespaced, kind: kind, verbs: verbs})
	}
	if k.HasStatus {
		add("status", k.GroupVersionKind(), verbsChange)
	}
	if k.HasScale {
		add("scale", scaleKind, verbsChange)
	}
	proxied := []string{"create", "delete", "get", "patch", "update"}
	switch k {
	case api.Services:
		add("proxy", k.GroupVersion().WithKind("ServiceProxyOptions"), proxied)
	case api.Nodes:
		add("proxy", k.GroupVersion().WithKind("NodeProxyOptions"), proxied)
	case api.Pods:
		v1 := k.GroupVersion()
		add("binding", v1.WithKind("Binding"), verbsCreate)
		add("ephemeralcontainers", v1.WithKind("Pod"), verbsChange)
		add("eviction", schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, verbsCreate)
		add("attach", v1.WithKind("PodAttachOptions"), []string{"create", "get"})
		add("portforward", v1.WithKind("PodPortForwardOptions"), []string{"create", "get"})
		add("exec", v1.WithKind("PodExecOptions"), []string{"create", "get"})
		add("log", v1.WithKind("Pod"), verbsGet)
		add("proxy", v1.WithKind("PodProxyOptions"), proxied)
		add("resize", v1.WithKind("Pod"), verbsChange)
	case api.ServiceAccounts:
		add("token", tokenRequestKind, verbsCreate)
	case api.Namespaces:
		add("finalize", k.GroupVersionKind(), []string{"update"})
	}
	return subs
}

// groupVersions lists what is served, the core group first, in the order of the table of kinds.
func groupVersions() []schema.GroupVersion {
	var all []schema.GroupVersion
	for _, k := range servedKinds {
		if !slices.Contains(all, k.GroupVersion()) {
			all = append(all, k.GroupVersion())
		}
	}
	for _, r := range reviews {
		if !slices.Contains(all, r.GroupVersion()) {
			all = append(all, r.GroupVersion())
		}
	}
	return all
}

// served holds groupVersions for a look at each request.
var served = groupVersions()

func servesVersion(gv schema.GroupVersion) bool { return slices.Contains(served, gv) }

// serveRootDiscovery answers /api and /apis, in the aggregated form when the client asks for it.
func (s *Server) serveRootDiscovery(w http.ResponseWriter, r *http.Request, path string) error {
	a, err := parseAccept(r.Header.Get("Accept"), s.wire)
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	core := path == "/api"
	if a.as == "APIGroupDiscoveryList" {
		writeJSON(w, a.contentType(), aggregated(core))
		return nil
	}
	if core {
		s.wire.write(w, http.StatusOK, a, &metav1.APIVersions{
			TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: r.Host}},
		})
		return nil
	}
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, gv := range groupVersions() {
		if gv.Group != "" {
			list.Groups = append(list.Groups, group(gv))
		}
	}
	s.wire.write(w, http.StatusOK, a, list)
	return nil
}

func group(gv schema.GroupVersion) metav1.APIGroup {
	v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	return metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
}

// serveGroup answers /apis/GROUP.
func (s *Server) serveGroup(w http.ResponseWriter, r *http.Request, name string) error {
	a, err := parseAccept(r.Header.Get("Accept"), s.wire)
	if err != nil {
		return err
	}
	for _, gv := range groupVersions() {
		if gv.Group == name && name != "" {
			g := group(gv)
			g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			s.wire.write(w, http.StatusOK, a, &g)
			return nil
		}
	}
	return errNoPath(r.Method)
}

// serveResources answers /api/v1 and /apis/GROUP/VERSION.
func (s *Server) serveResources(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion) error {
	a, err := parseAccept(r.Header.Get("Accept"), s.wire)
	if err != nil {
		return err
	}
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String()}
	for _, res := range resources(gv) {
		list.APIResources = append(list.APIResources, res.legacy())
		for _, sub := range res.subresources {
			list.APIResources = append(list.APIResources, sub.legacy())
		}
	}
	s.wire.write(w, http.StatusOK, a, list)
	return nil
}

func (r resource) legacy() metav1.APIResource {
	out := metav1.APIResource{
		Name: r.name, SingularName: r.singular, Namespaced: r.namespaced, Kind: r.kind.Kind, Verbs: r.verbs,
		ShortNames: r.short, Categories: r.categories,
	}
	if r.kind.GroupVersion() != r.gv {
		out.Group, out.Version = r.kind.Group, r.kind.Version
	}
	return out
}

// aggregated is everything below /api or /apis in one document.
func aggregated(core bool) apidiscovery.APIGroupDiscoveryList {
	list := apidiscovery.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apidiscovery.SchemeGroupVersion.String()},
	}
	for _, gv := range groupVersions() {
		if (gv.Group == "") != core {
			continue
		}
		v := apidiscovery.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
		for _, res := range resources(gv) {
			v.Resources = append(v.Resources, res.discovery())
		}
		list.Items = append(list.Items, apidiscovery.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Group}, Versions: []apidiscovery.APIVersionDiscovery{v},
		})
	}
	return list
}

func (r resource) discovery() apidiscovery.APIResourceDiscovery {
	scope := apidiscovery.ScopeCluster
	if r.namespaced {
		scope = apidiscovery.ScopeNamespace
	}
	out := apidiscovery.APIResourceDiscovery{
		Resource: r.name, ResponseKind: discoveryKind(r.kind), Scope: scope, SingularResource: r.singular,
		Verbs: r.verbs, ShortNames: r.short, Categories: r.categories,
	}
	for _, sub := range r.subresources {
		_, name, _ := strings.Cut(sub.name, "/")
		out.Subresources = append(out.Subresources, apidiscovery.APISubresourceDiscovery{
			Subresource: name, ResponseKind: discoveryKind(sub.kind), Verbs: sub.verbs,
		})
	}
	return out
}

func discoveryKind(k schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// servePaths answers / with what can be asked for.
func (s *Server) servePaths(w http.ResponseWriter, _ *http.Request) error {
	paths := []string{"/api", "/apis"}
	for _, gv := range groupVersions() {
		paths = append(paths, groupPath(gv))
	}
	slices.Sort(paths)
	writeJSON(w, mediaJSON, metav1.RootPaths{Paths: append(paths, "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version")})
	return nil
}

// groupPath is "/api/v1" or "/apis/apps/v1".
func groupPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}
