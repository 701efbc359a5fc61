package api

import (
	"reflect"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// Names of the indexes the store keeps.
const (
	IndexOwner      = "owner"      // uid of each owner
	IndexNode       = "node"       // pods: spec.nodeName
	IndexService    = "service"    // slices: namespace/name of the Service
	IndexClusterIP  = "clusterIP"  // services: each ClusterIP, "None" left out
	IndexNodePort   = "nodePort"   // services: "TCP/30080", the health check's port among them
	IndexInvolved   = "involved"   // events: uid of the object they tell of
	IndexMatchLabel = "matchLabel" // services: namespace + "/" + one key=value of the selector
)

// The kinds served, a row each.
var (
	Namespaces = &Kind{
		Version: "v1", Kind: "Namespace", Plural: "namespaces", Singular: "namespace", Short: []string{"ns"}, HasStatus: true,
		New:     func() Object { return &corev1.Namespace{} },
		NewList: func() runtime.Object { return &corev1.NamespaceList{} },
	}
	Nodes = &Kind{
		Version: "v1", Kind: "Node", Plural: "nodes", Singular: "node", Short: []string{"no"}, HasStatus: true,
		New:     func() Object { return &corev1.Node{} },
		NewList: func() runtime.Object { return &corev1.NodeList{} },
	}
	Pods = &Kind{
		Version: "v1", Kind: "Pod", Plural: "pods", Singular: "pod", Short: []string{"po"}, Categories: []string{"all"},
		Namespaced: true, HasStatus: true,
		New:     func() Object { return &corev1.Pod{} },
		NewList: func() runtime.Object { return &corev1.PodList{} },
		Indexes: map[string]func(Object) []string{IndexNode: podNode, IndexOwner: owners},
	}
	Services = &Kind{
		Version: "v1", Kind: "Service", Plural: "services", Singular: "service", Short: []string{"svc"},
		Categories: []string{"all"}, Namespaced: true, HasStatus: true,
		New:     func() Object { return &corev1.Service{} },
		NewList: func() runtime.Object { return &corev1.ServiceList{} },
		Indexes: map[string]func(Object) []string{
			IndexClusterIP: clusterIPs, IndexNodePort: nodePorts, IndexMatchLabel: selectorTerms, IndexOwner: owners,
		},
		Beside: heldAddresses,
	}
	Endpoints = &Kind{
		Version: "v1", Kind: "Endpoints", Plural: "endpoints", Singular: "endpoints", Short: []string{"ep"}, Namespaced: true,
		New:     func() Object { return &corev1.Endpoints{} },
		NewList: func() runtime.Object { return &corev1.EndpointsList{} },
		Indexes: map[string]func(Object) []string{IndexOwner: owners},
	}
	ConfigMaps = &Kind{
		Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Singular: "configmap", Short: []string{"cm"}, Namespaced: true,
		New:     func() Object { return &corev1.ConfigMap{} },
		NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
		Indexes: map[string]func(Object) []string{IndexOwner: owners},
	}
	Events = &Kind{
		Version: "v1", Kind: "Event", Plural: "events", Singular: "event", Short: []string{"ev"}, Namespaced: true,
		New:     func() Object { return &corev1.Event{} },
		NewList: func() runtime.Object { return &corev1.EventList{} },
		Indexes: map[string]func(Object) []string{IndexInvolved: involved},
	}
	Deployments = &Kind{
		Group: "apps", Version: "v1", Kind: "Deployment", Plural: "deployments", Singular: "deployment",
		Short: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true, HasStatus: true, HasScale: true,
		New:     func() Object { return &appsv1.Deployment{} },
		NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
		Indexes: map[string]func(Object) []string{IndexOwner: owners},
	}
	ReplicaSets = &Kind{
		Group: "apps", Version: "v1", Kind: "ReplicaSet", Plural: "replicasets", Singular: "replicaset",
		Short: []string{"rs"}, Categories: []string{"all"}, Namespaced: true, HasStatus: true, HasScale: true,
		New:     func() Object { return &appsv1.ReplicaSet{} },
		NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },
		Indexes: map[string]func(Object) []string{IndexOwner: owners},
	}
	EndpointSlices = &Kind{
		Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice",
		Namespaced: true,
		New:        func() Object { return &discoveryv1.EndpointSlice{} },
		NewList:    func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		Indexes:    map[string]func(Object) []string{IndexService: sliceService, IndexOwner: owners},
	}
)

// Kinds is the whole table, in the order discovery lists it.
var Kinds = []*Kind{
	Namespaces, Nodes, Pods, Services, Endpoints, ConfigMaps, Secrets, ServiceAccounts, Events, ResourceQuotas, LimitRanges,
	Deployments, ReplicaSets, DaemonSets, StatefulSets, ControllerRevisions, Jobs,
	EndpointSlices, Ingresses, IngressClasses, NetworkPolicies, ServiceCIDRs, IPAddresses,
	PodDisruptionBudgets, Roles, RoleBindings, ClusterRoles, ClusterRoleBindings, Leases, PriorityClasses,
}

var kindByType = func() map[reflect.Type]*Kind {
	m := make(map[reflect.Type]*Kind, len(Kinds))
	for _, k := range Kinds {
		m[reflect.TypeOf(k.New())] = k
	}
	return m
}()

// Scheme knows the Go types of every served kind.
var Scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, discoveryv1.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme,
		policyv1.AddToScheme, rbacv1.AddToScheme, coordinationv1.AddToScheme, schedulingv1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	return s
}()

func owners(obj Object) []string {
	var uids []string
	for _, r := range obj.GetOwnerReferences() {
		uids = append(uids, string(r.UID))
	}
	return uids
}

func podNode(obj Object) []string {
	if n := obj.(*corev1.Pod).Spec.NodeName; n != "" {
		return []string{n}
	}
	return nil
}

func clusterIPs(obj Object) []string {
	var ips []string
	for _, ip := range obj.(*corev1.Service).Spec.ClusterIPs {
		if ip != "" && ip != corev1.ClusterIPNone {
			ips = append(ips, ip)
		}
	}
	return ips
}

func nodePorts(obj Object) []string {
	var ports []string
	spec := &obj.(*corev1.Service).Spec
	for _, p := range spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, NodePortKey(p.Protocol, p.NodePort))
		}
	}
	if p := spec.HealthCheckNodePort; p != 0 {
		ports = append(ports, NodePortKey(corev1.ProtocolTCP, p))
	}
	return ports
}

// NodePortKey is the value under which IndexNodePort files a port: "TCP/30080".
func NodePortKey(protocol corev1.Protocol, port int32) string {
	return string(protocol) + "/" + strconv.Itoa(int(port))
}

// selectorTerms files a Service under one term of its selector: a pod matches only Services filed under a label it carries.
func selectorTerms(obj Object) []string {
	svc := obj.(*corev1.Service)
	first := ""
	for k, v := range svc.Spec.Selector {
		if t := SelectorTerm(svc.Namespace, k, v); first == "" || t < first {
			first = t
		}
	}
	if first == "" {
		return nil
	}
	return []string{first}
}

// SelectorTerm is the value under which IndexMatchLabel files a Service.
func SelectorTerm(namespace, key, value string) string { return namespace + "/" + key + "=" + value }

func sliceService(obj Object) []string {
	if name := obj.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{obj.GetNamespace() + "/" + name}
	}
	return nil
}

func involved(obj Object) []string { return []string{string(obj.(*corev1.Event).InvolvedObject.UID)} }
