package cluster_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// kubectl runs kubectl against the cluster and returns what it prints; the test ends when it fails.
func kubectl(t *testing.T, c *clustertest.Cluster, args ...string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, c.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "kubectl", append([]string{"--kubeconfig", config}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestADaemonSetRunsOnEachNodeAndIsUndone(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{Nodes: 3})
	c.Apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: web, image: web:1.0}]}
`)
	kubectl(t, c, "rollout", "status", "daemonset/agent", "--timeout=60s")
	images := func() (all []string) {
		for _, p := range pods(t, c, "default") {
			all = append(all, p.Spec.NodeName+" "+p.Spec.Containers[0].Image)
		}
		slices.Sort(all)
		return all
	}
	first := images()
	if len(first) != 3 || len(slices.Compact(slices.Clone(first))) != 3 {
		t.Errorf("pods: got %v, want one on each of 3 nodes", first)
	}
	kubectl(t, c, "set", "image", "daemonset/agent", "web=web:2.0")
	kubectl(t, c, "rollout", "status", "daemonset/agent", "--timeout=60s")
	if history := kubectl(t, c, "rollout", "history", "daemonset/agent"); !strings.Contains(history, "\n2") {
		t.Errorf("history: got %s, want two revisions", history)
	}
	kubectl(t, c, "rollout", "undo", "daemonset/agent")
	kubectl(t, c, "rollout", "status", "daemonset/agent", "--timeout=60s")
	if got := images(); !slices.Equal(got, first) {
		t.Errorf("undone: got %v, want %v", got, first)
	}
}

// E-3: a StatefulSet's pods have names of their own in DNS.
func TestAStatefulSetsPodsStartInOrderAndHaveNames(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(`
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 3
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: web
        image: web:1.0
        readinessProbe: {httpGet: {path: /readyz, port: 80}, periodSeconds: 1}
`)
	kubectl(t, c, "rollout", "status", "statefulset/db", "--timeout=60s")
	c.Ready("default", 3)
	var before *corev1.Pod
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		pod, err := store.Get[*corev1.Pod](c.Store(), api.Pods, "default", name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Lookup("pod/default/db-0", name+".db.default.svc.cluster.local")
		if err != nil || !slices.Equal(got, []string{pod.Status.PodIP}) {
			t.Errorf("%s.db: got %v, %v, want %s", name, got, err, pod.Status.PodIP)
		}
		if before != nil && readySince(before).After(pod.CreationTimestamp.Time) {
			t.Errorf("%s was made at %v, before %s was ready at %v", name, pod.CreationTimestamp, before.Name, readySince(before))
		}
		before = pod
	}
	kubectl(t, c, "scale", "statefulset/db", "--replicas=1")
	c.Until("one pod is left", func() bool {
		left := pods(t, c, "default")
		return len(left) == 1 && left[0].Name == "db-0"
	})
	set, err := store.Get[*appsv1.StatefulSet](c.Store(), api.StatefulSets, "default", "db")
	if err != nil || *set.Spec.Replicas != 1 {
		t.Errorf("set: got %+v, %v", set, err)
	}
}

func TestAJobRunsItsCommandAndCompletes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	kubectl(t, c, "create", "job", "hello", "--image=busybox", "--", "sh", "-c", "echo hello from the job")
	kubectl(t, c, "wait", "--for=condition=complete", "job/hello", "--timeout=60s")
	if got := kubectl(t, c, "logs", "job/hello"); got != "hello from the job\n" {
		t.Errorf("log: got %q", got)
	}
	c.Apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: grid}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: work, image: busybox, command: [sh, -c, "test $JOB_COMPLETION_INDEX -ne 1"]}]
`)
	kubectl(t, c, "wait", "--for=condition=failed", "job/grid", "--timeout=60s")
	job, err := store.Get[*batchv1.Job](c.Store(), api.Jobs, "default", "grid")
	if err != nil || job.Status.CompletedIndexes != "0,2" || job.Status.FailedIndexes == nil || *job.Status.FailedIndexes != "1" {
		t.Errorf("grid: got %+v, %v", job.Status, err)
	}
	kubectl(t, c, "delete", "job", "hello", "grid", "--timeout=60s")
	c.Until("its pods are gone", func() bool { return len(pods(t, c, "default")) == 0 })
}

func TestARolloutAndItsUndoLoseNoRequest(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 3) + shop)
	c.Ready("default", 3)
	l := startLoad(t, c, cluster.TrafficOptions{From: "outside"})
	kubectl(t, c, "set", "image", "deployment/shop", "web=web:2.0")
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=60s")
	kubectl(t, c, "rollout", "undo", "deployment/shop")
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=60s")
	l.stop(t)
	for _, p := range pods(t, c, "default") {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image != "web:1.0" {
			t.Errorf("undone: pod %s runs %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
}

// P-28: the address that a Service of type LoadBalancer is given answers in the pods of each node.
func TestALoadBalancersAddressAnswersFromAPodOnEachNode(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(web("shop", "v1", 2) + strings.Replace(shop, "type: NodePort", "type: LoadBalancer", 1))
	c.Ready("default", 2)
	svc, err := store.Get[*corev1.Service](c.Store(), api.Services, "default", "shop")
	if err != nil || len(svc.Status.LoadBalancer.Ingress) != 1 {
		t.Fatalf("status: got %+v, %v, want one address", svc.Status, err)
	}
	for _, pod := range pods(t, c, "default") {
		place := "pod/default/" + pod.Name
		if a := ask(t, c.HTTP(place), "http://"+svc.Status.LoadBalancer.Ingress[0].IP+"/"); a.Pod == "" {
			t.Errorf("answer on %s: got %+v", place, a)
		}
	}
}

func readySince(pod *corev1.Pod) (at time.Time) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			at = c.LastTransitionTime.Time
		}
	}
	return at
}
