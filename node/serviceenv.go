package node

import (
	"context"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// serviceEnvs keeps the variables of each namespace's Services, worked out when a container first wants them: a thousand
// containers share one map.
type serviceEnvs struct {
	mu  sync.Mutex // guards all
	all map[string]map[string]string
}

// apiService is the Service whose variables every container has.
const apiNamespace, apiService = metav1.NamespaceDefault, "kubernetes"

// forget drops what a change of a Service makes untrue.
func (s *serviceEnvs) forget(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if namespace == apiNamespace && name == apiService {
		clear(s.all)
		return
	}
	delete(s.all, namespace)
}

// serviceEnv is the variables of the Services that exist now, for a container of the pod (N-8). A Service made later is not in
// them: that is how it is in Kubernetes, and why DNS is better.
func (n *Node) serviceEnv(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	key := pod.Namespace
	if !links {
		key = "" // no namespace is called that: the API's Service alone
	}
	n.services.mu.Lock()
	defer n.services.mu.Unlock()
	if env, ok := n.services.all[key]; ok {
		return env, nil
	}
	env := map[string]string{}
	if s, err := store.Get[*corev1.Service](n.cfg.Store, api.Services, apiNamespace, apiService); err == nil {
		maps.Copy(env, serviceVariables(s))
	}
	if links {
		list, err := n.cfg.Store.List(ctx, api.Services, store.Query{Namespace: pod.Namespace})
		if err != nil {
			return nil, err
		}
		for _, s := range store.All[*corev1.Service](list.Items) {
			maps.Copy(env, serviceVariables(s))
		}
	}
	if n.services.all == nil {
		n.services.all = map[string]map[string]string{}
	}
	n.services.all[key] = env
	return env, nil
}

// serviceVariables are a Service's variables, Docker's links among them. One without an address has none.
func serviceVariables(s *corev1.Service) map[string]string {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return nil
	}
	name := variable(s.Name)
	env := map[string]string{name + "_SERVICE_HOST": ip, name + "_SERVICE_PORT": strconv.Itoa(int(s.Spec.Ports[0].Port))}
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env[name+"_SERVICE_PORT_"+variable(p.Name)] = port
		}
		proto := string(p.Protocol)
		if proto == "" {
			proto = string(corev1.ProtocolTCP)
		}
		url := strings.ToLower(proto) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			env[name+"_PORT"] = url
		}
		prefix := name + "_PORT_" + port + "_" + strings.ToUpper(proto)
		env[prefix], env[prefix+"_PROTO"], env[prefix+"_PORT"], env[prefix+"_ADDR"] = url, strings.ToLower(proto), port, ip
	}
	return env
}

func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
