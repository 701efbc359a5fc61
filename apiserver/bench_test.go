package apiserver_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// The figures of issue 3, each with TLS, durable writes and one watch open:
//
//	go test -run '^$' -bench . -benchtime 10000x ./apiserver
const (
	servicesPath = "/api/v1/namespaces/dev/services"
	mapsPath     = "/api/v1/namespaces/dev/configmaps"
	serviceBody  = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s-%d","labels":{"app":"web"}},"spec":{"selector":{"app":"web"},` +
		`"ports":[{"name":"http","port":80,"targetPort":8080}]}}`
	mapBody = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c-%d"},"data":{"k":"v"}}`
)

// creates is an order to create b.N objects.
func creates(b *testing.B, path string, writers int) order {
	body := serviceBody
	if path == mapsPath {
		body = mapBody
	}
	return order{Method: "POST", Path: path, Body: body, Writers: writers, N: b.N, Watch: path + "?watch=1"}
}

// BenchmarkCreates is the rows "Service creates, 16 writers" and "ConfigMap creates, 16 writers / 1 writer". x-bbolt is how many
// times as long a write took as a bare bbolt commit of as many objects of that size, just before and after on the same disk.
func BenchmarkCreates(b *testing.B) {
	for _, row := range []struct {
		name, path string
		writers    int
		http2      bool
	}{
		{"Services/16writers", servicesPath, 16, false},
		{"ConfigMaps/16writers", mapsPath, 16, false},
		{"ConfigMaps/1writer", mapsPath, 1, false},
		{"ConfigMaps/16writers/HTTP2", mapsPath, 16, true},
	} {
		b.Run(row.name, func(b *testing.B) {
			var commits atomic.Int64
			c := startOn(b, store.Options{BeforeCommit: func() error { commits.Add(1); return nil }})
			o := creates(b, row.path, row.writers)
			o.HTTP2 = row.http2
			commits.Store(0)
			seen, cpu := c.load(b, o)
			batch := max(1, int(float64(b.N)/float64(commits.Load())+0.5))
			bare := bareCommit(b, batch, seen.LastBytes)
			n := float64(b.N)
			b.ReportMetric(n/seen.Elapsed.Seconds(), "creates/s")
			b.ReportMetric(seen.Elapsed.Seconds()/float64(commits.Load())/bare.Seconds(), "x-bbolt")
			b.ReportMetric(float64(bare.Microseconds()), "bbolt-µs")
			b.ReportMetric(n/float64(commits.Load()), "objects/commit")
			b.ReportMetric(float64(cpu.Microseconds())/n, "server-µs/op")
			b.ReportMetric(float64(seen.CPU.Microseconds())/n, "client-µs/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// bareCommit measures a commit of bbolt itself with as many values as a group had: what the disk and its format cost.
func bareCommit(b *testing.B, values, size int) time.Duration {
	b.Helper()
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const commits = 500
	value, n := make([]byte, size), 0
	began := time.Now()
	for range commits {
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("objects"))
			for range values {
				if err != nil {
					return err
				}
				n++
				err = bucket.Put([]byte("dev/c-"+strconv.Itoa(n)), value)
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began) / commits
}

// BenchmarkWatch is the row "response to watch event, p99": at 1,000 writes a second, come what may, and at saturation.
func BenchmarkWatch(b *testing.B) {
	for name, rate := range map[string]float64{"1000writes": 1000, "saturation": 0} {
		b.Run(name, func(b *testing.B) {
			c := startDurable(b)
			o := creates(b, mapsPath, 16)
			o.Rate = rate
			seen, cpu := c.load(b, o)
			b.ReportMetric(float64(seen.P50.Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(seen.P99.Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(b.N)/seen.Elapsed.Seconds(), "writes/s")
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "server-µs/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// fill writes n Services past the API: every hundredth in namespace dev and labelled for the selective list.
func (c *cluster) fill(b *testing.B, n int, rare bool) {
	b.Helper()
	_, err := c.store.Update(b.Context(), func(tx *store.Tx) error {
		for i := range n {
			ip := fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)
			svc := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: fmt.Sprintf("s-%d", i), Labels: map[string]string{"app": "web"}},
				Spec: corev1.ServiceSpec{
					ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": "web"},
					Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
				},
			}
			if rare && i >= 20 {
				svc.Namespace, svc.Labels["app"] = "default", "other"
			}
			api.Default(svc)
			if err := tx.Create(svc); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkList is the row "list of 1,000 Services, JSON"; x-marshal is how many times as long it took as encoding/json takes to
// marshal the same list.
func BenchmarkList(b *testing.B) {
	c := startDurable(b)
	c.fill(b, 1000, false)
	seen, cpu := c.load(b, order{Method: "GET", Path: servicesPath, Writers: 1, N: b.N})
	items, err := c.store.List(b.Context(), api.Services, store.Query{})
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	for range b.N {
		if _, err := json.Marshal(items.Items); err != nil {
			b.Fatal(err)
		}
	}
	marshal := time.Since(began)
	b.ReportMetric(float64(seen.Elapsed.Microseconds())/1000/float64(b.N), "ms/list")
	b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "server-ms/list")
	b.ReportMetric(seen.Elapsed.Seconds()/marshal.Seconds(), "x-marshal")
	b.ReportMetric(float64(seen.LastBytes)/1024, "KiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSelectiveList is the row "selective list (one namespace, one label)": 20 matches out of 200 and out of 20,000, once
// all namespaces and once one of them. A-20.
func BenchmarkSelectiveList(b *testing.B) {
	for _, path := range []string{servicesPath + "?labelSelector=app%3Dweb", "/api/v1/services?labelSelector=app%3Dweb"} {
		for _, n := range []int{200, 20000} {
			name := fmt.Sprintf("namespace/%d", n)
			if !strings.HasPrefix(path, servicesPath) {
				name = fmt.Sprintf("label/%d", n)
			}
			b.Run(name, func(b *testing.B) {
				c := startDurable(b)
				c.fill(b, n, true)
				seen, cpu := c.load(b, order{Method: "GET", Path: path, Writers: 1, N: b.N})
				b.ReportMetric(float64(seen.Elapsed.Microseconds())/float64(b.N), "µs/list")
				b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "server-µs/list")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkMemory is the row "memory after 12,800 objects written and deleted": the whole process, after a collection.
func BenchmarkMemory(b *testing.B) {
	const objects = 12800
	for range b.N {
		c := startDurable(b)
		before := resident(b)
		o := creates(b, servicesPath, 16)
		o.N = objects
		c.load(b, o)
		full := resident(b)
		c.load(b, order{Method: "DELETE", Path: servicesPath + "/s-%d", Writers: 16, N: objects})
		b.ReportMetric(before, "MiB-before")
		b.ReportMetric(full, "MiB-full")
		b.ReportMetric(resident(b), "MiB-deleted")
	}
}

// resident is what this process holds of the machine's memory once its garbage is returned, in MiB.
func resident(b *testing.B) float64 {
	b.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}
