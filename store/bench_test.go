package store_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// service is one as the API server would write it, managedFields included.
func service(i int) *corev1.Service {
	ip := fmt.Sprintf("10.96.%d.%d", i/250%250, i%250+1)
	fields := `{"f:spec":{"f:internalTrafficPolicy":{},"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":` +
		`{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}`
	now := metav1.NewTime(time.Now())
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("svc-%d", i), Labels: map[string]string{"app": "web"},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kubectl", Operation: "Update", APIVersion: "v1", Time: &now, FieldsType: "FieldsV1",
				FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)},
			}},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// BenchmarkDurableCreates is the store's part of "Service creates, 16 writers" and "ConfigMap creates, 16 writers / 1 writer".
func BenchmarkDurableCreates(b *testing.B) {
	kinds := map[string]func(int) api.Object{
		"services":   func(i int) api.Object { return service(i) },
		"configmaps": func(i int) api.Object { return configMap(fmt.Sprintf("cm-%d", i), "value") },
	}
	for name, make := range kinds {
		for _, writers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%dwriters", name, writers), func(b *testing.B) {
				s, _ := open(b, store.Options{})
				var n atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range writers {
					wg.Go(func() {
						for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
							if _, err := s.Update(b.Context(), func(tx *store.Tx) error { return tx.Create(make(int(i))) }); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			})
		}
	}
}

// BenchmarkHistory writes and deletes 12,800 Services and reports what the store then holds.
func BenchmarkHistory(b *testing.B) {
	for range b.N {
		s, _ := open(b, store.Options{NoSync: true})
		before := heap()
		for i := range 12800 {
			if _, err := s.Update(b.Context(), func(tx *store.Tx) error { return tx.Create(service(i)) }); err != nil {
				b.Fatal(err)
			}
		}
		full := heap()
		for i := range 12800 {
			name := fmt.Sprintf("svc-%d", i)
			if _, err := s.Update(b.Context(), func(tx *store.Tx) error {
				return tx.Delete(api.Services, "default", name, store.DeleteOptions{})
			}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(full-before)/(1<<20), "MiB-full")
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-deleted")
		runtime.KeepAlive(s)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkOpenEmpty is the store's part of the boot: a file that does not exist yet.
func BenchmarkOpenEmpty(b *testing.B) {
	for range b.N {
		dir := b.TempDir()
		s, err := store.Open(dir+"/s.db", store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
