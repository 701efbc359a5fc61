package cluster_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
	"kubarium.dev/store"
)

// N-20: a pod that a controller makes is admitted as a user's is: bounded by the namespace's quota and limits, with its
// ServiceAccount's token.
func TestAControllersPodsAreAdmittedAsUsersAre(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(`
apiVersion: v1
kind: ResourceQuota
metadata: {name: few}
spec: {hard: {pods: "2"}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: small}
spec: {limits: [{type: Container, defaultRequest: {cpu: 10m}, max: {cpu: 100m}}]}
`)
	deploy := func(name, resources string) {
		c.Apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 3
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: web, image: web:1.0, resources: {%[2]s}}]}
`, name, resources))
	}
	refused := func(name string) (message string) {
		c.Until(name+" is refused", func() bool {
			d, err := store.Get[*appsv1.Deployment](c.Store(), api.Deployments, "default", name)
			if err != nil {
				return false
			}
			for _, cond := range d.Status.Conditions {
				if cond.Type == appsv1.DeploymentReplicaFailure && cond.Reason == "FailedCreate" {
					message = cond.Message
				}
			}
			return message != ""
		})
		return message
	}
	deploy("big", "limits: {cpu: 2}")
	if got := refused("big"); !strings.Contains(got, "maximum cpu usage per Container is 100m, but limit is 2") {
		t.Errorf("over the limit: got %q", got)
	}
	deploy("web", "")
	if got := refused("web"); !strings.Contains(got, "exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2") {
		t.Errorf("over the quota: got %q", got)
	}
	for _, p := range pods(t, c, "default") {
		token := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, "kube-api-access-") })
		if cpu := p.Spec.Containers[0].Resources.Requests.Cpu().String(); !token || cpu != "10m" {
			t.Errorf("pod %s: got a token: %v, a request of %s; want true, 10m", p.Name, token, cpu)
		}
	}
}
