package apiserver_test

import (
	"strings"
	"testing"
)

const twoServices = `apiVersion: v1
kind: Service
metadata: {name: ent, namespace: dev, labels: {app: ent}}
spec:
  selector: {app: ent}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: voy, namespace: dev}
spec:
  type: NodePort
  selector: {app: voy}
  ports: [{port: 80, nodePort: 30080}]
`

// apply, get, patch, edit's PUT, label, delete with kubectl's own code.
func TestKubectlAppliesGetsPatchesAndDeletes(t *testing.T) {
	t.Parallel()
	c := start(t)
	f := file(t, twoServices)
	contains(t, c.must(t, "apply", "-f", f), "service/ent created", "service/voy created")
	contains(t, c.must(t, "apply", "-f", f), "service/ent unchanged", "service/voy unchanged")
	write(t, f, strings.Replace(twoServices, "port: 80}", "port: 8080}", 1))
	contains(t, c.must(t, "apply", "-f", f), "service/ent configured", "service/voy unchanged")
	contains(t, c.must(t, "get", "svc", "-n", "dev", "ent", "-o", "jsonpath={.spec.ports[*].port}"), "8080")
	contains(t, c.must(t, "get", "svc", "-n", "dev"), "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "80:30080/TCP")
	contains(t, c.must(t, "get", "svc", "-A", "-o", "wide"), "SELECTOR", "app=voy")
	contains(t, c.must(t, "label", "svc/ent", "-n", "dev", "tier=web"), "labeled")
	contains(t, c.must(t, "get", "svc", "-n", "dev", "-l", "tier=web", "-o", "name"), "service/ent")
	contains(t, c.must(t, "patch", "svc", "ent", "-n", "dev", "--type=json", "-p", `[{"op":"remove","path":"/metadata/labels/tier"}]`), "patched")
	contains(t, c.must(t, "patch", "svc", "ent", "-n", "dev", "--type=merge", "-p", `{"spec":{"selector":{"app":"ent2"}}}`), "patched")
	contains(t, c.must(t, "patch", "svc", "ent", "-n", "dev", "-p", `{"spec":{"ports":[{"port":81,"name":"x"},{"port":8080,"name":"y"}]}}`), "patched")
	contains(t, c.must(t, "get", "svc", "ent", "-n", "dev", "-o", "jsonpath={.spec.ports[*].port} {.spec.selector.app}"), "81 8080 ent2")
	contains(t, c.must(t, "describe", "svc", "ent", "-n", "dev"), "Selector:", "app=ent2")
	contains(t, c.must(t, "delete", "-f", f, "--wait=true"), `service "ent" deleted`)
	contains(t, c.refused(t, "get", "svc", "ent", "-n", "dev"), `services "ent" not found`)
}

// A-6 with kubectl's default: a typo is refused with the field's path.
func TestKubectlRefusesUnknownFields(t *testing.T) {
	t.Parallel()
	c := start(t)
	f := file(t, strings.Replace(twoServices, "selector:", "selektor:", 1))
	contains(t, c.refused(t, "apply", "-f", f), "strict decoding error", `unknown field "spec.selektor"`)
	contains(t, c.must(t, "apply", "-f", f, "--validate=warn"), `Warning: unknown field "spec.selektor"`, "service/ent")
}

// Kubernetes' words for a namespace that is not there.
func TestKubectlIsToldOfAnUnknownNamespace(t *testing.T) {
	t.Parallel()
	c := start(t)
	contains(t, c.refused(t, "create", "configmap", "x", "-n", "nowhere"), `namespaces "nowhere" not found`)
}

// A-9 through kubectl: a node port that is taken, and one out of range.
func TestKubectlIsToldOfBadNodePorts(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.must(t, "apply", "-f", file(t, twoServices))
	taken := file(t, strings.ReplaceAll(twoServices, "name: voy", "name: other"))
	contains(t, c.refused(t, "apply", "-f", taken),
		`The Service "other" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated`)
	far := file(t, strings.NewReplacer("name: voy", "name: other", "30080", "80").Replace(twoServices))
	contains(t, c.refused(t, "apply", "-f", far),
		"provided port is not in the valid range. The range of valid ports is 30000-32767")
}

// explain, api-resources, api-versions, auth can-i, version.
func TestKubectlDiscoversAndExplains(t *testing.T) {
	t.Parallel()
	c := start(t)
	contains(t, c.must(t, "explain", "service.spec.ports"), "KIND:       Service", "nodePort", "<integer>")
	contains(t, c.must(t, "explain", "deploy.spec.template.spec.containers", "--recursive"), "GROUP:      apps", "readinessProbe")
	contains(t, c.must(t, "explain", "endpointslices"), "addressType")
	contains(t, c.must(t, "api-resources"), "deployments", "deploy", "apps/v1", "endpointslices", "po")
	contains(t, c.must(t, "api-versions"), "apps/v1", "discovery.k8s.io/v1")
	contains(t, c.must(t, "auth", "can-i", "create", "pods"), "yes")
	contains(t, c.must(t, "get", "--raw", "/version"), `"gitVersion":"v1.37.`)
}

// server-side apply keeps owners apart, reports conflicts, forces, and removes what is no longer applied.
func TestKubectlAppliesServerSide(t *testing.T) {
	t.Parallel()
	c := start(t)
	f := file(t, twoServices)
	contains(t, c.must(t, "apply", "--server-side", "-f", f), "service/ent serverside-applied")
	contains(t, c.must(t, "get", "svc", "ent", "-n", "dev", "--show-managed-fields", "-o", "yaml"), "manager: kubectl", "operation: Apply", `k:{"port":80,"protocol":"TCP"}`)
	before := c.must(t, "get", "svc", "ent", "-n", "dev", "-o", "jsonpath={.metadata.resourceVersion}")
	c.must(t, "apply", "--server-side", "-f", f)
	if after := c.must(t, "get", "svc", "ent", "-n", "dev", "-o", "jsonpath={.metadata.resourceVersion}"); after != before {
		t.Errorf("applying the same again moved the revision from %s to %s", before, after)
	}
	write(t, f, strings.Replace(twoServices, "labels: {app: ent}", "labels: {app: other}", 1))
	contains(t, c.refused(t, "apply", "--server-side", "--field-manager=bob", "-f", f), "conflict with", ".metadata.labels.app")
	c.must(t, "apply", "--server-side", "--field-manager=bob", "--force-conflicts", "-f", f)
	contains(t, c.must(t, "get", "svc", "ent", "-n", "dev", "-o", "jsonpath={.metadata.labels.app}"), "other")
	write(t, f, strings.Replace(twoServices, ", labels: {app: ent}", "", 1))
	c.must(t, "apply", "--server-side", "--field-manager=bob", "-f", f)
	if got := c.must(t, "get", "svc", "ent", "-n", "dev", "-o", "jsonpath={.metadata.labels}"); strings.Contains(got, "app") {
		t.Errorf("a label that is no longer applied is still there: %s", got)
	}
}

// diff and dry run change nothing.
func TestKubectlDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	c := start(t)
	contains(t, c.must(t, "apply", "--dry-run=server", "-f", file(t, twoServices)), "service/ent created (server dry run)")
	contains(t, c.must(t, "get", "svc", "-n", "dev"), "No resources found in dev namespace")
	c.must(t, "apply", "-f", file(t, twoServices))
	contains(t, c.must(t, "delete", "svc", "ent", "-n", "dev", "--dry-run=server"), "(server dry run)")
	c.must(t, "get", "svc", "ent", "-n", "dev")
}
