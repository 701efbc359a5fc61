package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/apiserver"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(inPod) != "":
		os.Exit(listPodsFromInside())
	case os.Getenv(asDaemon) != "":
		os.Exit(runDaemon())
	}
	clustertest.Main(m)
}

// web is a Deployment of n web servers, called name, with a label version, and a readiness probe.
func web(name, version string, n int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s, version: %[3]s}}
    spec:
      containers:
      - name: web
        image: web:1.0
        ports: [{containerPort: 80}, {containerPort: 5353, protocol: UDP}]
        readinessProbe: {httpGet: {path: /readyz, port: 80}, periodSeconds: 1, failureThreshold: 1}
---
`, name, n, version)
}

const shop = `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.88
  selector: {app: shop}
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: echo, port: 5353, protocol: UDP, nodePort: 30053}
---
`

// answer is what a web server tells of itself.
type answer struct{ Pod, Namespace, Client string }

func ask(t *testing.T, client *http.Client, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Error(err)
	}
	return a
}

func pods(t *testing.T, c *clustertest.Cluster, namespace string) []*corev1.Pod {
	t.Helper()
	list, err := c.Store().List(t.Context(), api.Pods, store.Query{Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return store.All[*corev1.Pod](list.Items)
}

// echo sends a datagram and returns what comes back.
func echo(t *testing.T, conn net.Conn) string {
	t.Helper()
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		t.Error(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Error(err)
	}
	return line
}

// Chapter 2: a Service has a fixed address, a name and a port; connections spread over all ready pods; TCP and UDP.
func TestAServiceIsReachedByItsNameFromAPod(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 3) + shop + web("client", "v1", 1))
	c.Ready("default", 4)
	from := "pod/default/" + pods(t, c, "default")[0].Name
	ips, err := c.Lookup(from, "shop.default.svc.cluster.local")
	if err != nil || !slices.Equal(ips, []string{"10.96.0.88"}) {
		t.Fatalf("got %v (%v)", ips, err)
	}
	client, seen := c.HTTP(from), map[string]int{}
	for range 200 {
		seen[ask(t, client, "http://10.96.0.88/").Pod]++
	}
	if len(seen) != 3 {
		t.Errorf("connections spread over %v, want three pods", seen)
	}
	for pod, n := range seen { // six standard deviations of a binomial share
		if n < 27 || n > 107 {
			t.Errorf("%s got %d of 200", pod, n)
		}
	}
	dial, err := c.Dialer(from, "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(t.Context(), "udp", "10.96.0.88:5353")
	if err != nil {
		t.Fatal(err)
	}
	if got := echo(t, conn); got != "hello\n" {
		t.Errorf("UDP echo answered %q", got)
	}
}

// Chapter 4: a NodePort answers on every node's address, also on a node without a pod of it, and on the host's loopback.
func TestANodePortAnswersOnEveryNodeAndOnTheHostsLoopback(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 1) + shop)
	c.Ready("default", 1)
	want := pods(t, c, "default")[0].Name
	s, err := c.Status(t.Context())
	if err != nil || len(s.Nodes) != 2 || len(s.Problems) != 0 {
		t.Fatalf("got %+v (%v)", s, err)
	}
	for _, n := range s.Nodes {
		if got := ask(t, c.HTTP("outside"), fmt.Sprintf("http://%v:30080/", n.Address)); got.Pod != want {
			t.Errorf("from outside on %s: %v, want %s", n.Name, got, want)
		}
		if got := ask(t, http.DefaultClient, fmt.Sprintf("http://%v:30080/", n.Loopback)); got.Pod != want {
			t.Errorf("from the host on %v: %v, want %s", n.Loopback, got, want)
		}
		conn, err := net.Dial("udp", netip.AddrPortFrom(n.Loopback, 30053).String())
		if err != nil {
			t.Fatal(err)
		}
		if got := echo(t, conn); got != "hello\n" {
			t.Errorf("UDP from the host on %v: %q", n.Loopback, got)
		}
	}
	if err := c.Client.CoreV1().Services("default").Delete(t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Programmed()
	if _, err := c.Outside(t.Context(), "tcp", "172.30.0.11:30080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a deleted NodePort: %v, want refused", err)
	}
	if _, err := net.Dial("tcp", netip.AddrPortFrom(s.Nodes[0].Loopback, 30080).String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("its loopback address: %v, want refused", err)
	}
}

// Chapter 5: a headless Service answers with the pods' addresses, and each pod has a name of its own.
func TestAHeadlessServiceAnswersWithItsPods(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("crew", "v1", 3) + `
apiVersion: v1
kind: Service
metadata: {name: crew}
spec: {clusterIP: None, selector: {app: crew}, ports: [{port: 80}]}
`)
	c.Ready("default", 3)
	var want []string
	for _, pod := range pods(t, c, "default") {
		want = append(want, pod.Status.PodIP)
		got, err := c.Lookup("node/n2", pod.Name+".crew.default.svc.cluster.local")
		if err != nil || !slices.Equal(got, []string{pod.Status.PodIP}) {
			t.Errorf("%s: got %v (%v)", pod.Name, got, err)
		}
	}
	slices.Sort(want)
	got, err := c.Lookup("node/n1", "crew.default.svc.cluster.local")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

// Chapter 6: a pod reaches pods and Services of other namespaces.
func TestNamespacesDoNotIsolateTraffic(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n---\n" + web("client", "v1", 1) +
		strings.ReplaceAll(web("shop", "v1", 1)+shop, "metadata: {name: shop}", "metadata: {name: shop, namespace: prod}"))
	c.Ready("default", 1)
	c.Ready("prod", 1)
	client := c.HTTP("pod/default/" + pods(t, c, "default")[0].Name)
	for _, at := range []string{"10.96.0.88", pods(t, c, "prod")[0].Status.PodIP} {
		if got := ask(t, client, "http://"+at+"/"); got.Namespace != "prod" {
			t.Errorf("%s: got %v", at, got)
		}
	}
}

// Chapter 3: an unready pod gets nothing; it comes back when it is ready.
func TestAnUnreadyPodGetsNothing(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2) + shop)
	c.Ready("default", 2)
	out := pods(t, c, "default")[0]
	set := func(ready bool) {
		resp, err := c.HTTP("node/n1").Post(fmt.Sprintf("http://%s/readyz?ready=%t", out.Status.PodIP, ready), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		c.Until(fmt.Sprintf("readiness %t", ready), func() bool {
			pod, err := c.Store().Get(api.Pods, "default", out.Name)
			return err == nil && api.Ready(pod.(*corev1.Pod)) == ready
		})
		c.Programmed()
	}
	answers := func() int {
		n := 0
		for range 60 {
			if ask(t, c.HTTP("node/n2"), "http://10.96.0.88/").Pod == out.Name {
				n++
			}
		}
		return n
	}
	set(false)
	if n := answers(); n != 0 {
		t.Errorf("the unready pod got %d connections", n)
	}
	why, err := c.Why(t.Context(), types.NamespacedName{Namespace: "default", Name: "shop"})
	if err != nil || why.Pods[1].Pod != out.Name || why.Pods[1].Chosen || !strings.Contains(why.Pods[1].Reason, "not ready") {
		t.Errorf("why says %+v (%v)", why, err)
	}
	set(true)
	if n := answers(); n == 0 {
		t.Error("the pod is ready again and got nothing")
	}
}

// The barrier: what was written before Programmed is in effect after it, at once and everywhere.
func TestProgrammedIsABarrier(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2))
	c.Ready("default", 2)
	services := c.Client.CoreV1().Services("default")
	for i := range 30 {
		name := fmt.Sprintf("s%d", i)
		svc, err := services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 80}},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Programmed()
		for _, place := range []string{"node/n1", "node/n2"} {
			if got := ask(t, c.HTTP(place), "http://"+svc.Spec.ClusterIP+"/"); !strings.HasPrefix(got.Pod, "shop-") {
				t.Fatalf("%s from %s: %v", name, place, got)
			}
			if ips, err := c.Lookup(place, name+".default.svc.cluster.local"); err != nil || !slices.Equal(ips, []string{svc.Spec.ClusterIP}) {
				t.Fatalf("%s from %s: %v (%v)", name, place, ips, err)
			}
		}
		if err := services.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Programmed()
		if ips, err := c.Lookup("node/n1", name+".default.svc.cluster.local"); err == nil {
			t.Fatalf("%s is deleted and resolves to %v", name, ips)
		}
	}
}

func TestABarrierThatCannotBeReachedNamesWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Cluster.Programmed(ctx, c.Store().Revision()+1000); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "controllers") {
		t.Errorf("got %v", err)
	}
}

func TestAClusterHasItsStateToItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clustertest.Start(t, cluster.Options{Nodes: 1, StateDir: dir})
	if c, err := cluster.Start(t.Context(), cluster.Options{Nodes: 1, StateDir: dir}); !errors.Is(err, store.ErrInUse) {
		c.Close()
		t.Errorf("got %v, want %v", err, store.ErrInUse)
	}
}

// hostState is what the host's own tools say of interfaces, addresses, routes, rules and nftables.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, words := range []string{"ip link", "ip address", "ip route show table all", "ip rule", "ip netns", "nft list ruleset"} {
		w := strings.Fields(words)
		cmd := exec.Command(w[0], w[1:]...)
		if cmd.Err != nil { // an ordinary user's PATH has no sbin
			cmd = exec.Command("/usr/sbin/"+w[0], w[1:]...)
		}
		out, err := cmd.CombinedOutput()
		fmt.Fprintf(&b, "%s: %v\n%s\n", words, err, out)
	}
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/rp_filter", "/proc/sys/net/ipv4/icmp_ratelimit", "/etc/resolv.conf", "/etc/hosts"} {
		raw, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s: %s %v\n", path, raw, err)
	}
	return b.String()
}

// P-59: the host's interfaces, addresses, routes, rules, nftables, sysctls and /etc stay as they are, while a cluster runs and after it.
func TestTheHostIsNotTouched(t *testing.T) {
	before := hostState(t)
	t.Run("cluster", func(t *testing.T) {
		c := clustertest.Start(t, cluster.Options{})
		c.Apply(web("shop", "v1", 4) + shop)
		c.Ready("default", 4)
		if now := hostState(t); now != before {
			t.Errorf("while the cluster runs:\n%s\nbefore:\n%s", now, before)
		}
	})
	if now := hostState(t); now != before {
		t.Errorf("after the cluster:\n%s\nbefore:\n%s", now, before)
	}
}

func execIn(pod string, out io.Writer, command ...string) apiserver.ExecRequest {
	return apiserver.ExecRequest{Namespace: "default", Pod: pod, Command: command, Stdout: out, Stderr: out}
}

// A process in a pod sees the pod's network alone, resolves names through the cluster's DNS, and its exit code comes back.
func TestExecRunsInThePod(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 1})
	c.Apply(web("shop", "v1", 1) + shop + `
apiVersion: v1
kind: Pod
metadata: {name: jump}
spec:
  containers: [{name: shell, image: jump, command: [sh, -c, "echo started; exec sleep 1000"]}]
`)
	c.Ready("default", 2)
	logs, err := c.Client.CoreV1().Pods("default").GetLogs("jump", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if line, err := bufio.NewReader(logs).ReadString('\n'); err != nil || line != "started\n" {
		t.Errorf("logs: %q (%v)", line, err)
	}
	var out strings.Builder
	if err := c.Exec(t.Context(), execIn("jump", &out, "getent", "hosts", "shop")); err != nil || !strings.HasPrefix(out.String(), "10.96.0.88 ") {
		t.Errorf("got %q (%v)", out.String(), err)
	}
	err = c.Exec(t.Context(), execIn("jump", io.Discard, "sh", "-c", "exit 7"))
	if err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("got %v, want exit code 7", err)
	}
}
