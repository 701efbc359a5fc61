package ingress

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// metrics counts requests by Ingress, Service and status. Counters outlive the tables of rules.
type metrics struct {
	mu   sync.Mutex // guards held
	held map[statsKey]*ruleStats
}

type statsKey struct{ ingress, service string }

// ruleStats is the counters of one pair.
type ruleStats struct {
	codes  [6]atomic.Pointer[[100]atomic.Uint64] // by the status's hundreds, made on first use
	micros atomic.Uint64
	sent   atomic.Uint64
}

func (m *metrics) of(ingress, service string) *ruleStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil {
		m.held = map[statsKey]*ruleStats{}
	}
	key := statsKey{ingress, service}
	if m.held[key] == nil {
		m.held[key] = &ruleStats{}
	}
	return m.held[key]
}

func (s *ruleStats) count(status int, took time.Duration, sent int64) {
	page := &s.codes[min(max(status/100, 0), 5)]
	codes := page.Load()
	if codes == nil {
		page.CompareAndSwap(nil, &[100]atomic.Uint64{})
		codes = page.Load()
	}
	codes[status%100].Add(1)
	s.micros.Add(uint64(max(took.Microseconds(), 0)))
	s.sent.Add(uint64(max(sent, 0)))
}

// Stat is the requests of one Ingress to one Service with one status.
type Stat struct {
	Ingress  string `json:"ingress"`
	Service  string `json:"service"`
	Status   int    `json:"status"`
	Requests uint64 `json:"requests"`
}

// Stats lists what was counted since New, sorted. Requests that no rule took have no Ingress.
func (c *Controller) Stats() []Stat {
	var all []Stat
	for key, s := range c.metrics.all() {
		for hundreds := range s.codes {
			codes := s.codes[hundreds].Load()
			for rest := 0; codes != nil && rest < 100; rest++ {
				if n := codes[rest].Load(); n > 0 {
					all = append(all, Stat{key.ingress, key.service, hundreds*100 + rest, n})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b Stat) int {
		return cmp.Or(cmp.Compare(a.Ingress, b.Ingress), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Status, b.Status))
	})
	return all
}

func (m *metrics) all() map[statsKey]*ruleStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[statsKey]*ruleStats, len(m.held))
	for k, s := range m.held {
		all[k] = s
	}
	return all
}

// WriteMetrics writes the counters in Prometheus' text format.
func (c *Controller) WriteMetrics(w io.Writer) error {
	var err error
	print := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	print("# TYPE kubarium_ingress_requests_total counter\n")
	for _, s := range c.Stats() {
		print("kubarium_ingress_requests_total{ingress=%q,service=%q,status=\"%d\"} %d\n", s.Ingress, s.Service, s.Status, s.Requests)
	}
	held := c.metrics.all()
	keys := make([]statsKey, 0, len(held))
	for k := range held {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b statsKey) int {
		return cmp.Or(cmp.Compare(a.ingress, b.ingress), cmp.Compare(a.service, b.service))
	})
	print("# TYPE kubarium_ingress_request_seconds_sum counter\n# TYPE kubarium_ingress_sent_bytes_total counter\n")
	for _, k := range keys {
		s := held[k]
		print("kubarium_ingress_request_seconds_sum{ingress=%q,service=%q} %g\n", k.ingress, k.service, float64(s.micros.Load())/1e6)
		print("kubarium_ingress_sent_bytes_total{ingress=%q,service=%q} %d\n", k.ingress, k.service, s.sent.Load())
	}
	return err
}
