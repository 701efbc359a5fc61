package apiserver_test

import (
	"net/http"
	"strings"
	"testing"
)

// each kind can be selected by the fields that Kubernetes has for it, and by no other.
func TestEachKindHasKubernetesSelectableFields(t *testing.T) {
	t.Parallel()
	c := start(t)
	for path, fields := range map[string]string{
		"/api/v1/pods": "metadata.name metadata.namespace spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName " +
			"spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName",
		"/api/v1/services": "spec.clusterIP spec.type", "/api/v1/secrets": "type", "/api/v1/nodes": "spec.unschedulable metadata.name",
		"/api/v1/namespaces": "status.phase metadata.name", "/api/v1/configmaps": "metadata.name metadata.namespace",
		"/api/v1/events": "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion " +
			"involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type",
		"/apis/events.k8s.io/v1/events": "regarding.kind regarding.name reportingController reason type",
		"/apis/apps/v1/replicasets":     "status.replicas", "/apis/batch/v1/jobs": "status.successful",
	} {
		for field := range strings.FieldsSeq(fields) {
			if res, body := c.ask(t, "GET", path+"?fieldSelector="+field+"%3Dx", ""); res.StatusCode != http.StatusOK {
				t.Errorf("%s by %s: %d %s", path, field, res.StatusCode, body)
			}
		}
		res, body := c.ask(t, "GET", path+"?fieldSelector=spec.nothing%3Dx", "")
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s by a field that is none: %d", path, res.StatusCode)
		}
		contains(t, body, "field label not supported: spec.nothing")
	}
	c.ask(t, "POST", "/api/v1/namespaces/dev/secrets", `{"metadata": {"name": "plain"}}`)
	_, body := c.ask(t, "GET", "/api/v1/secrets?fieldSelector=type%3DOpaque", "")
	contains(t, body, `"name":"plain"`)
	if _, body = c.ask(t, "GET", "/api/v1/secrets?fieldSelector=type!%3DOpaque", ""); strings.Contains(body, "plain") {
		t.Errorf("got %s", body)
	}
}
