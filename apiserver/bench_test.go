package apiserver_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Figures of issue 3: creates over TLS by 16 writers with one watch open, every one durable before it is answered.
func BenchmarkCreates(b *testing.B) {
	for name, create := range map[string]func(*kubernetes.Clientset, int64) error{
		"Services": func(client *kubernetes.Clientset, i int64) error {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}}
			svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
			_, err := client.CoreV1().Services("dev").Create(b.Context(), svc, metav1.CreateOptions{})
			return err
		},
		"ConfigMaps": func(client *kubernetes.Clientset, i int64) error {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)}, Data: map[string]string{"k": "v"}}
			_, err := client.CoreV1().ConfigMaps("dev").Create(b.Context(), cm, metav1.CreateOptions{})
			return err
		},
	} {
		b.Run(name+"/16writers", func(b *testing.B) {
			c := startDurable(b)
			client, err := kubernetes.NewForConfig(c.config)
			if err != nil {
				b.Fatal(err)
			}
			watch, err := client.CoreV1().Services("").Watch(b.Context(), metav1.ListOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer watch.Stop()
			go func() {
				for range watch.ResultChan() {
				}
			}()
			var n atomic.Int64
			b.SetParallelism(8) // of 2 cores
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := create(client, n.Add(1)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}
