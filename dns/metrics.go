package dns

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// counts is what the server counts of itself. Whole bursts are counted at once.
type counts struct {
	requests    [2][len(countedTypes) + 1][countedCodes + 1]atomic.Uint64 // by protocol, type and code; the last of each is the rest
	durations   histogram
	programming histogram

	malformed, quick, cacheHits, stale, loops, autopath, refusedAsking, asked, askFailures atomic.Uint64
}

var countedTypes = [...]uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeSRV, dns.TypeTXT, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA}

// countedCodes is NOERROR to REFUSED.
const countedCodes = 6

const overUDP, overTCP = 0, 1

// count counts n requests that took d each.
func (c *counts) count(protocol int, qtype uint16, rcode int, n uint64) {
	c.requests[protocol][typeIndex(qtype)][min(max(rcode, 0), countedCodes)].Add(n)
}

func typeIndex(qtype uint16) int {
	for i, t := range countedTypes {
		if t == qtype {
			return i
		}
	}
	return len(countedTypes)
}

// bounds are the histograms' upper bounds, in seconds.
var bounds = [...]float64{0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 5}

type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	nanos   atomic.Uint64
}

// add counts n times the duration d.
func (h *histogram) add(d time.Duration, n uint64) {
	i := 0
	for i < len(bounds) && d.Seconds() > bounds[i] {
		i++
	}
	h.buckets[i].Add(n)
	h.nanos.Add(uint64(max(d, 0)) * n)
}

func (h *histogram) write(w io.Writer, name, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name)
	total := uint64(0)
	for i := range bounds {
		total += h.buckets[i].Load()
		fmt.Fprintf(w, "%s_bucket{le=\"%g\"} %d\n", name, bounds[i], total)
	}
	total += h.buckets[len(bounds)].Load()
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n%s_sum %g\n%s_count %d\n", name, total, name, time.Duration(h.nanos.Load()).Seconds(), name, total)
}

// Ready says whether names of the cluster can be answered: whether the objects have been read.
func (s *Server) Ready() bool { return s.index.Load() != nil }

// Handler serves /health, /ready and /metrics over HTTP, the latter as Prometheus reads it.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "OK") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !s.Ready() {
			http.Error(w, "the cluster's objects have not been read yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "OK")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		s.WriteMetrics(w)
	})
	return mux
}

// WriteMetrics writes what the server counted since it was made, in Prometheus' text format.
func (s *Server) WriteMetrics(w io.Writer) {
	c := &s.counts
	fmt.Fprint(w, "# HELP kubarium_dns_requests_total Questions answered.\n# TYPE kubarium_dns_requests_total counter\n")
	for p, protocol := range [2]string{"udp", "tcp"} {
		for t := range c.requests[p] {
			qtype := "other"
			if t < len(countedTypes) {
				qtype = dns.TypeToString[countedTypes[t]]
			}
			for code := range c.requests[p][t] {
				rcode := "other"
				if code < countedCodes {
					rcode = dns.RcodeToString[code]
				}
				if n := c.requests[p][t][code].Load(); n > 0 {
					fmt.Fprintf(w, "kubarium_dns_requests_total{protocol=%q,type=%q,rcode=%q} %d\n", protocol, qtype, rcode, n)
				}
			}
		}
	}
	c.durations.write(w, "kubarium_dns_request_duration_seconds", "Time from reading a question to sending its answer.")
	c.programming.write(w, "kubarium_dns_programming_seconds", "Time from receiving the store's events to answering with them.")
	for _, one := range []struct {
		name, help string
		n          *atomic.Uint64
	}{
		{"quick", "Questions answered within their packet.", &c.quick},
		{"malformed", "Packets that are no question.", &c.malformed},
		{"cache_hits", "Foreign questions answered from the cache.", &c.cacheHits},
		{"cache_stale", "Foreign questions answered with an outdated answer, because nobody gave a new one.", &c.stale},
		{"upstream_requests", "Questions sent to upstream servers.", &c.asked},
		{"upstream_failures", "Questions that an upstream server did not answer.", &c.askFailures},
		{"upstream_refused", "Foreign questions refused because too many waited.", &c.refusedAsking},
		{"autopath", "Questions answered with a name further down the client's search path.", &c.autopath},
		{"loops", "Own questions that came back from upstream.", &c.loops},
	} {
		fmt.Fprintf(w, "# HELP kubarium_dns_%s_total %s\n# TYPE kubarium_dns_%s_total counter\nkubarium_dns_%s_total %d\n",
			one.name, one.help, one.name, one.name, one.n.Load())
	}
}
