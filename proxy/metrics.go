package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// metrics is what a Proxy measures of one family, under kube-proxy's names. The Proxy's mutex guards it.
type metrics struct {
	full, partial histogram // how long it took to program the kernel
	programming   histogram // from the change of a pod or Service to the kernel's doing it
	lastSync      time.Time
	failures      uint64
}

// syncBounds and programmingBounds are kube-proxy's, in seconds; the latter begin finer, as changes take milliseconds here.
var (
	syncBounds        = exponential(0.001, 15)
	programmingBounds = append(exponential(0.001, 8), 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
)

// exponential are n bounds from the first on, each twice the one before.
func exponential(first float64, n int) []float64 {
	out := []float64{first}
	for len(out) < n {
		out = append(out, 2*out[len(out)-1])
	}
	return out
}

// histogram counts durations.
type histogram struct {
	counts []uint64 // one for each bound and one beyond; nil: nothing counted yet
	sum    time.Duration
}

func (h *histogram) observe(bounds []float64, d time.Duration) {
	if h.counts == nil {
		h.counts = make([]uint64, len(bounds)+1)
	}
	i, _ := slices.BinarySearch(bounds, d.Seconds())
	h.counts[i]++
	h.sum += d
}

func (h *histogram) write(w io.Writer, name, labels string, bounds []float64) {
	total := uint64(0)
	for i, n := range slices.Concat(h.counts, make([]uint64, len(bounds)+1-len(h.counts))) {
		le := "+Inf"
		if i < len(bounds) {
			le = fmt.Sprintf("%g", bounds[i])
		}
		total += n
		fmt.Fprintf(w, "%s_bucket{%s,le=%q} %d\n", name, labels, le, total)
	}
	fmt.Fprintf(w, "%s_sum{%s} %g\n%s_count{%s} %d\n", name, labels, h.sum.Seconds(), name, labels, total)
}

// measure notes a programming of one family that began then and ends now. What stays in conntrack is no failure of it.
func (m *metrics) measure(kind *histogram, began time.Time, err error) {
	now := time.Now()
	kind.observe(syncBounds, now.Sub(began))
	if stays := (errForget{}); err != nil && !errors.As(err, &stays) {
		m.failures++
		return
	}
	m.lastSync = now
}

// trigger is a slice that says what time the change was made that brought it.
type trigger struct {
	family family
	at     time.Time
}

// triggered tells when what an event brings was changed in the first place; false when the event does not say.
func triggered(e store.Event) (trigger, bool) {
	if e.Kind != api.EndpointSlices || e.Type == store.Deleted {
		return trigger{}, false
	}
	slice := e.Object.(*discoveryv1.EndpointSlice)
	said := slice.Annotations[corev1.EndpointsLastChangeTriggerTime]
	if old, ok := e.Old.(*discoveryv1.EndpointSlice); ok && old.Annotations[corev1.EndpointsLastChangeTriggerTime] == said {
		return trigger{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, said)
	if err != nil {
		return trigger{}, false
	}
	f := ipv4
	if slice.AddressType == discoveryv1.AddressTypeIPv6 {
		f = ipv6
	}
	return trigger{f, at}, true
}

// lonely counts the service-ports that have endpoints, but under a Local policy none that may be used here.
func (p *planner) lonely() (internal, external int) {
	for _, s := range p.services {
		for _, port := range s.ports {
			if len(port.cluster) == 0 || len(port.local) > 0 {
				continue
			}
			if port.InternalLocal {
				internal++
			}
			if port.ExternalLocal {
				external++
			}
		}
	}
	return internal, external
}

// WriteMetrics writes what the Proxy measured since it was made, in Prometheus' text format, under kube-proxy's names where it has
// one.
func (p *Proxy) WriteMetrics(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	head := func(name, kind, help string) { fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	each := func(name, kind, help string, write func(s *side, name, labels string)) {
		head(name, kind, help)
		for _, s := range p.sides {
			write(s, name, fmt.Sprintf("ip_family=%q", s.network.family.slices()))
		}
	}
	each("kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram", "Latency of full comparisons of the table in seconds.",
		func(s *side, name, labels string) { s.metrics.full.write(w, name, labels, syncBounds) })
	each("kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram", "Latency of programming what changed in seconds.",
		func(s *side, name, labels string) { s.metrics.partial.write(w, name, labels, syncBounds) })
	each("kubeproxy_network_programming_duration_seconds", "histogram", "From the change of a pod or Service to the kernel's doing it, in seconds.",
		func(s *side, name, labels string) { s.metrics.programming.write(w, name, labels, programmingBounds) })
	each("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", "The last time proxy rules were successfully synced.",
		func(s *side, name, labels string) {
			if !s.metrics.lastSync.IsZero() {
				fmt.Fprintf(w, "%s{%s} %.6f\n", name, labels, float64(s.metrics.lastSync.UnixMicro())/1e6)
			}
		})
	each("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter", "Programmings of the kernel that failed.",
		func(s *side, name, labels string) { fmt.Fprintf(w, "%s{%s} %d\n", name, labels, s.metrics.failures) })
	each("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge", "Service ports with a Local traffic policy and no endpoints on this node.",
		func(s *side, name, labels string) {
			if s.planner == nil {
				return
			}
			internal, external := s.planner.lonely()
			fmt.Fprintf(w, "%s{%s,traffic_policy=\"internal\"} %d\n%s{%s,traffic_policy=\"external\"} %d\n", name, labels, internal, name, labels, external)
		})
	for _, c := range []struct {
		name, help string
		n          uint64
	}{
		{"kubarium_proxy_batches_total", "Batches that the kernel took.", p.stats.Batches},
		{"kubarium_proxy_verbs_total", "Changes of elements in them.", p.stats.Verbs},
		{"kubarium_proxy_reconciles_total", "Comparisons of the whole table with the plan.", p.stats.Reconciles},
		{"kubarium_proxy_failures_total", "Batches, reads and conntrack clean-ups that failed.", p.stats.Failures},
		{"kubarium_proxy_intrusions_total", "Changes of the table by others.", p.stats.Intrusions},
	} {
		head(c.name, "counter", c.help)
		fmt.Fprintf(w, "%s %d\n", c.name, c.n)
	}
}

// ServeHTTP answers /metrics, as Prometheus reads it, and /healthz and /livez.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/metrics" {
		p.health.answerHealthz().ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	p.WriteMetrics(w)
}
