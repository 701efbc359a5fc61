package apiserver_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// of many writers at once exactly as many get in as the quota has room for, and the refusal names the quota.
func TestAQuotaHoldsUnderConcurrentWriters(t *testing.T) {
	t.Parallel()
	c := start(t)
	client := c.client(t).CoreV1()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}}
	quota.Spec.Hard = corev1.ResourceList{"pods": resource.MustParse("3"), "requests.cpu": resource.MustParse("1")}
	if _, err := client.ResourceQuotas("dev").Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Pods("dev").Create(t.Context(), pod("silent"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("a pod that does not say what it needs: %v, want 403", err)
	} else {
		contains(t, err.Error(), "failed quota: few: must specify requests.cpu for: c")
	}
	var made atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			p := pod(fmt.Sprintf("p%d", i))
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m")}
			_, err := client.Pods("dev").Create(t.Context(), p, metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case !apierrors.IsForbidden(err):
				t.Errorf("refused with %v, want 403", err)
			default:
				contains(t, err.Error(), "exceeded quota: few, requested: pods=1, used: pods=3, limited: pods=3")
			}
		})
	}
	all.Wait()
	if made.Load() != 3 {
		t.Errorf("%d pods were made under a quota of 3", made.Load())
	}
	contains(t, c.must(t, "get", "quota", "-n", "dev"), "pods: 3/3", "requests.cpu: 300m/1")
}

// a LimitRange gives amounts to pods that state none.
func TestALimitRangeFillsIn(t *testing.T) {
	t.Parallel()
	c := start(t)
	client := c.client(t).CoreV1()
	limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}}
	limits.Spec.Limits = []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{"cpu": resource.MustParse("2")}}}
	if _, err := client.LimitRanges("dev").Create(t.Context(), limits, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := client.Pods("dev").Create(t.Context(), pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Spec.Containers[0].Resources; r.Limits.Cpu().Value() != 2 || r.Requests.Cpu().Value() != 2 {
		t.Errorf("got %v, want the LimitRange's 2 cpus", r)
	}
}
