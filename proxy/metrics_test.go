package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/store"
)

// scrape reads a proxy's metrics as Prometheus does: values by series.
func scrape(t *testing.T, p *Proxy) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", w.Code, w.Body)
	}
	out := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if series, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && series != "#" {
			if _, twice := out[series]; twice {
				t.Errorf("%s is there twice", series)
			}
			out[series] = value
		}
	}
	return out
}

func expectMetrics(t *testing.T, p *Proxy, when string, want map[string]string) {
	t.Helper()
	got := scrape(t, p)
	for series, value := range want {
		if got[series] != value {
			t.Errorf("%s: %s is %q, want %q", when, series, got[series], value)
		}
	}
}

// P-55: metrics under kube-proxy's names: how long full and partial syncs took, when the last one was, how long a change took from
// its trigger, how many Local ports have no endpoint here, and failures.
func TestMetricsTellWhatTheProxyDid(t *testing.T) {
	t.Parallel()
	began := time.Now()
	p, f := onFake()
	must(t, p.reconcile(false))
	const full, partial = "kubeproxy_sync_full_proxy_rules_duration_seconds_count", "kubeproxy_sync_partial_proxy_rules_duration_seconds_count"
	const programming, lonely = "kubeproxy_network_programming_duration_seconds", "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
	const v4 = `{ip_family="IPv4"}`
	expectMetrics(t, p, "at the start", map[string]string{
		full + v4: "1", partial + v4: "0", programming + "_count" + v4: "0",
		lonely + `{ip_family="IPv4",traffic_policy="internal"}`: "0", lonely + `{ip_family="IPv4",traffic_policy="external"}`: "0",
	})

	at := &rigNode{name: "node2"}
	away := slice("web", ready(&rigPod{name: "far", node: at, ip: testNetwork.podCIDR.Addr().Next()}))
	away.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Add(-300 * time.Millisecond).Format(time.RFC3339Nano)}
	web := service("web", "10.96.0.20", nodePort(30080), internalLocal, externalLocal)
	must(t, p.take(store.Batch{Events: []store.Event{event(store.Added, web, nil), event(store.Added, away, nil)}}))
	expectMetrics(t, p, "after a slice of another node", map[string]string{
		full + v4: "1", partial + v4: "1", programming + "_count" + v4: "1",
		programming + `_bucket{ip_family="IPv4",le="0.25"}`:     "0",
		programming + `_bucket{ip_family="IPv4",le="+Inf"}`:     "1",
		lonely + `{ip_family="IPv4",traffic_policy="internal"}`: "1", lonely + `{ip_family="IPv4",traffic_policy="external"}`: "1",
		"kubeproxy_sync_proxy_rules_nftables_sync_failures_total" + v4: "0",
	})
	var last float64
	if _, err := fmt.Sscan(scrape(t, p)["kubeproxy_sync_proxy_rules_last_timestamp_seconds"+v4], &last); err != nil {
		t.Error(err)
	}
	if last < float64(began.UnixMicro())/1e6 || last > float64(time.Now().UnixMicro()+1)/1e6 {
		t.Errorf("the last sync was at %f, want between %v and now", last, began)
	}

	here := slice("web", ready(&rigPod{name: "near", node: &rigNode{name: "node1"}, ip: testNetwork.podCIDR.Addr().Next()}))
	here.Annotations = away.Annotations // the same trigger is not counted again
	must(t, p.take(store.Batch{Events: []store.Event{event(store.Modified, here, away)}}))
	expectMetrics(t, p, "with an endpoint here", map[string]string{
		partial + v4: "2", programming + "_count" + v4: "1",
		lonely + `{ip_family="IPv4",traffic_policy="internal"}`: "0", lonely + `{ip_family="IPv4",traffic_policy="external"}`: "0",
	})

	f.fail = func(bool) error { return unix.ENOMEM }
	if err := p.take(store.Batch{Events: []store.Event{event(store.Modified, slice("web"), here)}}); err == nil {
		t.Fatal("a refused batch is no error")
	}
	expectMetrics(t, p, "after a failure", map[string]string{
		"kubeproxy_sync_proxy_rules_nftables_sync_failures_total" + v4: "1", "kubarium_proxy_failures_total": "1", programming + "_count" + v4: "1",
	})
}

// P-55: what others wrote into the annotation does no harm.
func TestATriggerIsReadWithCare(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]bool{"": false, "yesterday": false, "2026-01-02T03:04:05Z": true, "2026-01-02T03:04:05.678901234Z": true} {
		s := slice("web")
		s.AddressType = discoveryv1.AddressTypeIPv6
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: said}
		got, ok := triggered(event(store.Added, s, nil))
		if ok != want || ok && (got.family != ipv6 || got.at.Year() != 2026) {
			t.Errorf("%q: got %v, %t, want %t", said, got, ok, want)
		}
	}
}
