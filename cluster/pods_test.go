package cluster_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// inPod tells the test binary that it is a pod's program.
const inPod = "CLUSTER_TEST_IN_POD"

// listPodsFromInside is what a program in a pod does that knows nothing of kubarium.
func listPodsFromInside() int {
	config, err := rest.InClusterConfig()
	if err != nil {
		fmt.Println("in-cluster configuration:", err)
		return 1
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	pods, err := client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = client.CoreV1().Secrets("default").List(context.Background(), metav1.ListOptions{})
	fmt.Println("pods:", len(pods.Items), "secrets forbidden:", apierrors.IsForbidden(err), "at", config.Host)
	return 0
}

// logged returns what a container has written when its log ends.
func logged(t *testing.T, c *clustertest.Cluster, pod string) string {
	t.Helper()
	out, err := c.Client.CoreV1().Pods("default").GetLogs(pod, &corev1.PodLogOptions{Follow: true}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// begun waits until a pod has been started.
func begun(t *testing.T, c *clustertest.Cluster, name string) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	c.Until(name+" was started", func() bool {
		var err error
		pod, err = store.Get[*corev1.Pod](c.Store(), api.Pods, "default", name)
		return err == nil && pod.Status.Phase != "" && pod.Status.Phase != corev1.PodPending
	})
	return pod
}

// N-20: a program with client-go's in-cluster configuration reaches the API by the Service's variables, as its ServiceAccount and
// with that account's rights. N-18: a hostPath that the configuration names is shown, another is refused.
func TestAPodReachesTheAPIWithItsMountedToken(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := clustertest.Start(t, cluster.Options{Config: cluster.Config{HostPaths: []string{filepath.Dir(exe)}}})
	account(t, c, "reader")
	c.Apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: inside}
spec:
  serviceAccountName: reader
  restartPolicy: Never
  containers:
  - name: main
    image: inside
    command: [/client/%s]
    env: [{name: %s, value: "1"}]
    volumeMounts: [{name: client, mountPath: /client, readOnly: true}]
  volumes: [{name: client, hostPath: {path: %q}}]
---
apiVersion: v1
kind: Pod
metadata: {name: sly}
spec:
  automountServiceAccountToken: false
  containers: [{name: main, image: sly, command: [sleep, "1000"], volumeMounts: [{name: etc, mountPath: /x}]}]
  volumes: [{name: etc, hostPath: {path: /etc}}]
`, filepath.Base(exe), inPod, filepath.Dir(exe)))
	begun(t, c, "inside")
	want := "pods: 2 secrets forbidden: true at https://10.96.0.1:443\n"
	if got := logged(t, c, "inside"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	sly, err := store.Get[*corev1.Pod](c.Store(), api.Pods, "default", "sly")
	if err != nil || len(sly.Spec.Volumes) != 1 {
		t.Errorf("automountServiceAccountToken false: got %+v %v", sly.Spec.Volumes, err)
	}
	c.Until("sly is refused", func() bool {
		list, err := c.Store().List(t.Context(), api.Events, store.Query{Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range store.All[*corev1.Event](list.Items) {
			if e.InvolvedObject.Name == "sly" && e.Reason == "FailedMount" && strings.Contains(e.Message, "hostPath is refused") {
				return true
			}
		}
		return false
	})
}

// account makes a ServiceAccount that may read pods.
func account(t *testing.T, c *clustertest.Cluster, name string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	_, err := c.Client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err == nil {
		_, err = c.Client.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = c.Client.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta,
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: name}},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// N-3: the clock by which a node is missed is the configuration's.
func TestTheNodesLeaseIsTheConfigurations(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 1, Config: cluster.Config{NodeGrace: cluster.Duration(3 * time.Second)}})
	c.Until("the node tells that it lives", func() bool {
		lease, err := c.Client.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), "n1", metav1.GetOptions{})
		if err == nil && *lease.Spec.LeaseDurationSeconds != 3 {
			t.Errorf("got %+v", lease.Spec)
		}
		return err == nil
	})
	for _, bad := range []cluster.Config{{NodeGrace: cluster.Duration(time.Millisecond)}, {HostPaths: []string{"relative"}}} {
		if _, err := (cluster.Options{StateDir: "/x", Config: bad}).WithDefaults(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// N-2: pods on different nodes see each other's own addresses; a client outside reaches the nodes' and the load balancers' addresses,
// and neither pods nor ClusterIPs. N-14: /headers and / tell who asks.
func TestPodsReachEachOtherUntranslatedAndOutsideReachesNodesOnly(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(on("n1", "n2") + `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: LoadBalancer, selector: {app: shop}, ports: [{port: 80, nodePort: 30123}]}
`)
	c.Ready("default", 2)
	var svc *corev1.Service
	c.Until("a load-balancer address", func() bool {
		var err error
		svc, err = store.Get[*corev1.Service](c.Store(), api.Services, "default", "shop")
		return err == nil && len(svc.Status.LoadBalancer.Ingress) > 0
	})
	c.Programmed()
	from, _, _ := strings.Cut(addressOf(t, c, "web-n1"), ":")
	resp, err := c.HTTP("pod/web-n1").Get("http://" + addressOf(t, c, "web-n2") + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "\nclient: "+from+":") {
		t.Errorf("asked by %s, the other pod says %q %v", from, body, err)
	}
	for address, want := range map[string]bool{
		"172.30.0.11:30123":                           true,
		"172.30.0.12:30123":                           true,
		svc.Status.LoadBalancer.Ingress[0].IP + ":80": true,
		addressOf(t, c, "web-n1"):                     false,
		addressOf(t, c, "web-n2"):                     false,
		svc.Spec.ClusterIP + ":80":                    false,
	} {
		if got := reaches(t, c, "outside", address); got != want {
			t.Errorf("outside to %s: %v, want %v", address, got, want)
		}
	}
}

// N-16, issue C: a loss of power is told, and every pod keeps its name and address: the cluster's own restart.
func TestPodsKeepTheirAddressesThroughARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addresses := map[string]string{}
	for round := range 2 {
		t.Run(fmt.Sprint("run ", round+1), func(t *testing.T) {
			c := clustertest.Start(t, cluster.Options{StateDir: dir})
			if round == 0 {
				c.Apply(web("shop", "v1", 6))
			}
			c.Ready("default", 6)
			for _, pod := range pods(t, c, "default") {
				if got := pod.Status.ContainerStatuses[0].RestartCount; got != int32(round) {
					t.Errorf("%s is ready with %d restarts, want %d: it was ready before the loss of power", pod.Name, got, round)
				}
				if round == 0 {
					addresses[pod.Name] = pod.Status.PodIP
				} else if addresses[pod.Name] != pod.Status.PodIP {
					t.Errorf("%s is at %s, was at %s", pod.Name, pod.Status.PodIP, addresses[pod.Name])
				}
			}
		})
	}
}
