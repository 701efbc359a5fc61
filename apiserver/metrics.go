package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// buckets are the upper bounds of apiserver_request_duration_seconds, in seconds; Kubernetes' own.
var buckets = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}

// metrics counts requests. Its zero value is ready.
type metrics struct {
	totals    sync.Map // countKey to *atomic.Uint64
	durations sync.Map // series to *histogram
	mutating  atomic.Int64
	reading   atomic.Int64
	lasting   atomic.Int64
}

// series names one kind of request; all of its values come from short lists, so that there are never many.
type series struct{ verb, group, version, resource, subresource, scope, dryRun string }

type countKey struct {
	series
	code int
}

type histogram struct {
	counts [24]atomic.Uint64 // one for each bucket, and one beyond
	nanos  atomic.Int64
}

// seriesOf names what was asked for.
func (a *answer) seriesOf(r *http.Request) series {
	verb := strings.ToUpper(a.verb(r))
	switch verb {
	case "CREATE":
		verb = "POST"
	case "UPDATE":
		verb = "PUT"
	}
	s := series{verb: verb}
	c := a.call
	if c == nil || c.kind == nil {
		return s
	}
	if c.applying {
		s.verb = "APPLY"
	}
	s.group, s.version, s.resource, s.subresource = c.kind.Group, c.kind.Version, c.kind.Plural, c.sub
	if c.form != nil {
		s.group = c.form.Group
	}
	switch {
	case c.name != "" || s.verb == "POST":
		s.scope = "resource"
	case c.namespace != "":
		s.scope = "namespace"
	default:
		s.scope = "cluster"
	}
	if c.dryRun {
		s.dryRun = "All"
	}
	return s
}

// count notes a finished request. How long a watch or a conversation lasts says nothing of the server.
func (m *metrics) count(a *answer, r *http.Request, took time.Duration) {
	name := a.seriesOf(r)
	code := a.code
	if code == 0 {
		code = http.StatusOK
	}
	total, ok := m.totals.Load(countKey{name, code})
	if !ok {
		total, _ = m.totals.LoadOrStore(countKey{name, code}, &atomic.Uint64{})
	}
	total.(*atomic.Uint64).Add(1)
	if name.verb == "WATCH" || name.verb == "CONNECT" {
		return
	}
	found, ok := m.durations.Load(name)
	if !ok {
		found, _ = m.durations.LoadOrStore(name, &histogram{})
	}
	h := found.(*histogram)
	i, _ := slices.BinarySearch(buckets, took.Seconds())
	h.counts[i].Add(1)
	h.nanos.Add(int64(took))
}

// begin counts a request as running until the returned function is called.
func (m *metrics) begin(r *http.Request) func() {
	running := &m.mutating
	switch {
	case r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, "watch="):
		running = &m.lasting
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		running = &m.reading
	}
	running.Add(1)
	return func() { running.Add(-1) }
}

func (s series) labels() string {
	return fmt.Sprintf(`component="apiserver",dry_run=%q,group=%q,resource=%q,scope=%q,subresource=%q,verb=%q,version=%q`,
		s.dryRun, s.group, s.resource, s.scope, s.subresource, s.verb, s.version)
}

// serveMetrics answers /metrics in Prometheus' text format.
func (s *Server) serveMetrics(w http.ResponseWriter) {
	var b bytes.Buffer
	s.metrics.write(&b)
	head(&b, "apiserver_resource_objects", "gauge", "Number of stored objects of each kind.")
	for _, k := range api.Kinds {
		list, err := s.store.List(context.Background(), k, store.Query{})
		if err == nil {
			fmt.Fprintf(&b, "apiserver_resource_objects{group=%q,resource=%q} %d\n", k.Group, k.Plural, len(list.Items))
		}
	}
	head(&b, "kubernetes_build_info", "gauge", "What this is.")
	fmt.Fprintf(&b, "kubernetes_build_info{git_version=%q,go_version=%q,major=\"1\",minor=\"37\",platform=%q} 1\n",
		s.gitVersion(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
	head(&b, "go_goroutines", "gauge", "Number of goroutines that currently exist.")
	fmt.Fprintf(&b, "go_goroutines %d\n", runtime.NumGoroutine())
	if pages, ok := residentPages(); ok {
		head(&b, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
		fmt.Fprintf(&b, "process_resident_memory_bytes %d\n", pages*int64(os.Getpagesize()))
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(b.Bytes())
}

// residentPages is how many pages of memory the process holds.
func residentPages() (int64, bool) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	var size, resident int64
	_, err = fmt.Sscan(string(text), &size, &resident)
	return resident, err == nil
}

func head(b *bytes.Buffer, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m *metrics) write(b *bytes.Buffer) {
	var totals, durations []string
	m.totals.Range(func(key, value any) bool {
		k := key.(countKey)
		totals = append(totals, fmt.Sprintf("apiserver_request_total{code=\"%d\",%s} %d\n", k.code, k.labels(), value.(*atomic.Uint64).Load()))
		return true
	})
	m.durations.Range(func(key, value any) bool {
		durations = append(durations, value.(*histogram).text(key.(series).labels()))
		return true
	})
	slices.Sort(totals)
	slices.Sort(durations)
	head(b, "apiserver_request_total", "counter", "Counter of apiserver requests broken out for each verb, dry run value, group, "+
		"version, resource, scope, component, and HTTP response code.")
	b.WriteString(strings.Join(totals, ""))
	head(b, "apiserver_request_duration_seconds", "histogram", "Response latency distribution in seconds for each verb, dry run value, "+
		"group, version, resource, subresource, scope and component.")
	b.WriteString(strings.Join(durations, ""))
	head(b, "apiserver_current_inflight_requests", "gauge", "Number of requests being answered, by kind.")
	fmt.Fprintf(b, "apiserver_current_inflight_requests{request_kind=\"mutating\"} %d\n", m.mutating.Load())
	fmt.Fprintf(b, "apiserver_current_inflight_requests{request_kind=\"readOnly\"} %d\n", m.reading.Load())
	head(b, "apiserver_longrunning_requests", "gauge", "Number of watches that are open.")
	fmt.Fprintf(b, "apiserver_longrunning_requests{component=\"apiserver\",verb=\"WATCH\"} %d\n", m.lasting.Load())
}

func (h *histogram) text(labels string) string {
	var b strings.Builder
	var sum uint64
	for i, bound := range buckets {
		sum += h.counts[i].Load()
		fmt.Fprintf(&b, "apiserver_request_duration_seconds_bucket{%s,le=\"%g\"} %d\n", labels, bound, sum)
	}
	sum += h.counts[len(buckets)].Load()
	fmt.Fprintf(&b, "apiserver_request_duration_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, sum)
	fmt.Fprintf(&b, "apiserver_request_duration_seconds_sum{%s} %g\n", labels, time.Duration(h.nanos.Load()).Seconds())
	fmt.Fprintf(&b, "apiserver_request_duration_seconds_count{%s} %d\n", labels, sum)
	return b.String()
}
