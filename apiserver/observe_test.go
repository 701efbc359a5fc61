package apiserver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"kubarium.dev/apiserver"
)

// buffer is a log that a test reads while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A-19: /metrics counts requests under Kubernetes' names and labels, in Prometheus' text format, for those who may see them.
func TestMetricsHaveKubernetesNames(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.ask(t, "POST", "/api/v1/namespaces/dev/configmaps", `{"metadata": {"name": "a"}}`)
	c.ask(t, "GET", "/api/v1/namespaces/dev/configmaps/a", "")
	c.ask(t, "GET", "/api/v1/configmaps", "")
	c.ask(t, "GET", "/api/v1/namespaces/dev/configmaps/none", "")
	c.ask(t, "BREW", "/api/v1/namespaces/dev/configmaps/none", "")
	res, body := c.ask(t, "GET", "/metrics", "")
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%d %s", res.StatusCode, res.Header)
	}
	contains(t, body,
		`apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="cluster",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="GET",version="v1"} 1`,
		"# TYPE apiserver_request_duration_seconds histogram", `apiserver_request_duration_seconds_bucket{`, `le="+Inf"}`,
		"apiserver_request_duration_seconds_sum{", "apiserver_request_duration_seconds_count{",
		`apiserver_current_inflight_requests{request_kind="readOnly"} 1`, `apiserver_longrunning_requests{`,
		`apiserver_resource_objects{group="",resource="configmaps"} 1`, "kubernetes_build_info{",
	)
	if strings.Contains(body, "BREW") {
		t.Error("a client made up a label")
	}
	code := 0
	c.as(t, "jane").RESTClient().Get().AbsPath("/metrics").Do(t.Context()).StatusCode(&code)
	if code != http.StatusForbidden {
		t.Errorf("somebody without a role got %d, want 403", code)
	}
}

// each answer carries the id of its request, the client's own if it sent one.
func TestEachAnswerHasAnAuditID(t *testing.T) {
	t.Parallel()
	c := start(t)
	one, _ := c.ask(t, "GET", "/version", "")
	two, _ := c.ask(t, "GET", "/nowhere", "")
	if a, b := one.Header.Get("Audit-Id"), two.Header.Get("Audit-Id"); len(a) != 36 || len(b) != 36 || a == b {
		t.Errorf("got %q and %q, want two different UUIDs", a, b)
	}
	mine, _ := c.ask(t, "GET", "/version", "", "Audit-ID", "mine")
	if got := mine.Header.Get("Audit-Id"); got != "mine" {
		t.Errorf("got %q, want the client's own", got)
	}
	long, _ := c.ask(t, "GET", "/version", "", "Audit-ID", strings.Repeat("x", 1000))
	if got := long.Header.Get("Audit-Id"); len(got) != 36 {
		t.Errorf("an id of 1,000 characters was kept: %d", len(got))
	}
}

// the audit log says who did what to which object with which result, and never what was in it.
func TestTheAuditLogTellsWhoDidWhat(t *testing.T) {
	t.Parallel()
	log := &buffer{}
	c := start(t, func(conf *apiserver.Config) { conf.Audit = log })
	res, _ := c.ask(t, "POST", "/api/v1/namespaces/dev/secrets", `{"metadata": {"name": "a"}, "stringData": {"password": "hunter2"}}`,
		"Impersonate-User", "jane", "Impersonate-Group", "system:masters")
	c.ask(t, "GET", "/healthz", "") // answered, so the line before it is written
	var event map[string]any
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, res.Header.Get("Audit-Id")) {
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatal(err)
			}
		}
	}
	object, _ := event["objectRef"].(map[string]any)
	status, _ := event["responseStatus"].(map[string]any)
	user, _ := event["user"].(map[string]any)
	as, _ := event["impersonatedUser"].(map[string]any)
	if event["kind"] != "Event" || event["apiVersion"] != "audit.k8s.io/v1" || event["verb"] != "create" || object["resource"] != "secrets" ||
		object["namespace"] != "dev" || status["code"] != 201.0 || user["username"] != "kubarium-admin" || as["username"] != "jane" {
		t.Errorf("got %v", event)
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Error("the log holds what is secret")
	}
}
