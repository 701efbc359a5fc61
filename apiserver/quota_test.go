package apiserver_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
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

// what a client deletes gives back what it took, in the same transaction; a quota that comes later counts what is there.
func TestAQuotaIsGivenBack(t *testing.T) {
	t.Parallel()
	c := start(t)
	client := c.client(t).CoreV1()
	for _, name := range []string{"a", "b", "c"} {
		if _, err := client.Pods("dev").Create(t.Context(), pod(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}}
	quota.Spec.Hard = corev1.ResourceList{"pods": resource.MustParse("9"), "count/deployments.apps": resource.MustParse("1")}
	made, err := client.ResourceQuotas("dev").Create(t.Context(), quota, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	counted := func(q *corev1.ResourceQuota) int64 { return q.Status.Used.Pods().Value() }
	if now, err := client.ResourceQuotas("dev").Get(t.Context(), made.Name, metav1.GetOptions{}); err != nil || counted(now) != 3 {
		t.Errorf("at birth: %v (%v), want 3 pods", now, err)
	}
	if err := client.Pods("dev").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if now, err := client.ResourceQuotas("dev").Get(t.Context(), made.Name, metav1.GetOptions{}); err != nil || counted(now) != 2 {
		t.Errorf("after a pod has gone: %v (%v), want 2 pods", now, err)
	}
}

// a quota with scopes counts the pods within them alone.
func TestAQuotaCountsWithinItsScopes(t *testing.T) {
	t.Parallel()
	deadline := int64(5)
	busy := pod("busy")
	busy.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
	ending, urgent, social := pod("ending"), pod("urgent"), pod("social")
	ending.Spec.ActiveDeadlineSeconds, urgent.Spec.PriorityClassName = &deadline, "high"
	social.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: "zone", Namespaces: []string{"other"}}}}}
	hard := corev1.ResourceList{"pods": resource.MustParse("9")}
	selects := func(operator corev1.ScopeSelectorOperator, values ...string) *corev1.ScopeSelector {
		return &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: operator, Values: values}}}
	}
	for _, test := range []struct {
		spec corev1.ResourceQuotaSpec
		want string
	}{
		{corev1.ResourceQuotaSpec{}, "plain busy ending urgent social"},
		{corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"BestEffort"}}, "plain ending urgent social"},
		{corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"NotBestEffort"}}, "busy"},
		{corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"Terminating"}}, "ending"},
		{corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"NotTerminating", "BestEffort"}}, "plain urgent social"},
		{corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"CrossNamespacePodAffinity"}}, "social"},
		{corev1.ResourceQuotaSpec{ScopeSelector: selects(corev1.ScopeSelectorOpIn, "high", "low")}, "urgent"},
		{corev1.ResourceQuotaSpec{ScopeSelector: selects(corev1.ScopeSelectorOpNotIn, "high")}, "plain busy ending social"},
		{corev1.ResourceQuotaSpec{ScopeSelector: selects(corev1.ScopeSelectorOpExists)}, "urgent"},
		{corev1.ResourceQuotaSpec{ScopeSelector: selects(corev1.ScopeSelectorOpDoesNotExist)}, "plain busy ending social"},
	} {
		test.spec.Hard = hard
		var counted []string
		for _, p := range []*corev1.Pod{pod("plain"), busy, ending, urgent, social} {
			if len(api.QuotaUsed(&test.spec, p)) > 0 {
				counted = append(counted, p.Name)
			}
		}
		if got := strings.Join(counted, " "); got != test.want {
			t.Errorf("%v %v: counted %s, want %s", test.spec.Scopes, test.spec.ScopeSelector, got, test.want)
		}
	}
	if used := api.QuotaUsed(&corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"services": resource.MustParse("1")},
		Scopes: []corev1.ResourceQuotaScope{"BestEffort"}}, &corev1.Service{}); len(used) != 0 {
		t.Errorf("a Service within a scope of pods: %v", used)
	}
}

// a pod that goes against a LimitRange is refused with everything that is wrong, in Kubernetes' words.
func TestALimitRangeRefuses(t *testing.T) {
	t.Parallel()
	c := start(t)
	client := c.client(t).CoreV1()
	list := func(cpu string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(cpu)} }
	limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}}
	limits.Spec.Limits = []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Min: list("100m"), Max: list("2"), Default: list("1"), DefaultRequest: list("500m"), MaxLimitRequestRatio: list("4")},
		{Type: corev1.LimitTypePod, Max: list("3")},
	}
	if _, err := client.LimitRanges("dev").Create(t.Context(), limits, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	good, err := client.Pods("dev").Create(t.Context(), pod("good"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const note = "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
	if got := good.Annotations["kubernetes.io/limit-ranger"]; got != note {
		t.Errorf("noted %q, want %q", got, note)
	}
	for _, test := range []struct{ request, limit, want string }{
		{"50m", "100m", `pods "p" is forbidden: minimum cpu usage per Container is 100m, but request is 50m`},
		{"1", "4", `pods "p" is forbidden: [maximum cpu usage per Container is 2, but limit is 4, maximum cpu usage per Pod is 3, but limit is 4]`},
		{"100m", "1", `pods "p" is forbidden: cpu max limit to request ratio per Container is 4, but provided ratio is 10.000000`},
	} {
		p := pod("p")
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list(test.request), Limits: list(test.limit)}
		if _, err := client.Pods("dev").Create(t.Context(), p, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || err.Error() != test.want {
			t.Errorf("%s/%s: got %v, want %s", test.request, test.limit, err, test.want)
		}
	}
}
