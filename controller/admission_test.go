package controller

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// bounded refuses the pods that the quotas of their namespace have no room for.
func bounded(tx *store.Tx, obj api.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	for _, q := range store.All[*corev1.ResourceQuota](tx.List(api.ResourceQuotas, store.Query{Namespace: pod.Namespace})) {
		hard := q.Spec.Hard[corev1.ResourcePods]
		if n := len(tx.List(api.Pods, store.Query{Namespace: pod.Namespace})); int64(n) >= hard.Value() {
			return apierrors.NewForbidden(api.Pods.GroupResource(), pod.Name, fmt.Errorf("exceeded quota: %s, used: pods=%d", q.Name, n))
		}
	}
	return nil
}

func podQuota(most string, edit ...func(*corev1.ResourceQuota)) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "few"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse(most)}},
	}
	for _, fn := range edit {
		fn(q)
	}
	return q
}

// failures lists the FailedCreate events by the kind that they are about.
func (l *lab) failures() map[string]string {
	all := map[string]string{}
	list, err := l.store.List(l.ctx, api.Events, store.Query{Namespace: "dev"})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, ev := range store.All[*corev1.Event](list.Items) {
		if ev.Reason == "FailedCreate" && ev.Type == corev1.EventTypeWarning {
			all[ev.InvolvedObject.Kind] = ev.Message
		}
	}
	return all
}

func TestAQuotaRefusesAControllersPodsUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	inLab(t, Config{Admit: bounded}, func(l *lab) {
		l.create(podQuota("2"))
		l.create(deployment("web", 4))
		l.pass(time.Minute)
		d, err := store.Get[*appsv1.Deployment](l.store, api.Deployments, "dev", "web")
		if err != nil {
			t.Fatal(err)
		}
		c := condition(d.Status, appsv1.DeploymentReplicaFailure)
		if d.Status.ReadyReplicas != 2 || c == nil || c.Reason != "FailedCreate" || !strings.Contains(c.Message, "exceeded quota: few, used: pods=2") {
			t.Errorf("got %d ready pods, condition %v; want 2 and the quota's refusal", d.Status.ReadyReplicas, c)
		}
		if got := l.failures()["ReplicaSet"]; !strings.HasPrefix(got, `Error creating: pods "web-`) || !strings.Contains(got, "is forbidden: exceeded quota: few") {
			t.Errorf("event: got %q", got)
		}
		said := l.told()
		l.create(podQuota("2", func(q *corev1.ResourceQuota) { q.Namespace = "default" })) // nothing to do with it
		if l.pass(time.Hour / 2); !maps.Equal(l.told(), said) {
			t.Errorf("nothing made room, and yet more was said: %v, then %v", said, l.told())
		}
		change(l.testCluster, api.ResourceQuotas, "few", func(q *corev1.ResourceQuota) { q.Spec = podQuota("9").Spec })
		l.pass(time.Second)
		if d, err = store.Get[*appsv1.Deployment](l.store, api.Deployments, "dev", "web"); err != nil {
			t.Fatal(err)
		}
		if c := condition(d.Status, appsv1.DeploymentReplicaFailure); d.Status.ReadyReplicas != 4 || c != nil {
			t.Errorf("with room: got %d ready pods, condition %v; want 4 and none", d.Status.ReadyReplicas, c)
		}
	}, "n1", "n2")
}

func TestEveryControllerSaysThatItsPodsWereRefused(t *testing.T) {
	t.Parallel()
	inLab(t, Config{Admit: bounded}, func(l *lab) {
		l.create(podQuota("0"))
		l.create(daemon("agent"))
		l.create(stateful("db", 1))
		l.create(job("sum"))
		mode := batchv1.IndexedCompletion
		l.create(job("grid", func(j *batchv1.Job) { j.Spec.CompletionMode, j.Spec.Completions = &mode, number(1) }))
		l.pass(time.Second)
		got := l.failures()
		for _, kind := range []string{"DaemonSet", "StatefulSet", "Job"} {
			if !strings.Contains(got[kind], "exceeded quota") {
				t.Errorf("%s: got event %q, want the refusal", kind, got[kind])
			}
		}
		l.delete(api.ResourceQuotas, "few", metav1.DeletePropagationBackground)
		l.pass(time.Second)
		if pods := list[*corev1.Pod](l.testCluster, api.Pods); len(pods) != 4 {
			t.Errorf("without the quota: got %d pods, want 4", len(pods))
		}
	}, "n1")
}

func TestAReplicaSetThatIsRefusedShowsInItsDeployment(t *testing.T) {
	t.Parallel()
	refuse := true
	inLab(t, Config{Admit: func(_ *store.Tx, obj api.Object) error {
		if _, ok := obj.(*appsv1.ReplicaSet); ok && refuse {
			return apierrors.NewForbidden(api.ReplicaSets.GroupResource(), obj.GetName(), fmt.Errorf("exceeded quota: sets"))
		}
		return nil
	}}, func(l *lab) {
		l.create(deployment("web", 1))
		d, err := store.Get[*appsv1.Deployment](l.store, api.Deployments, "dev", "web")
		if err != nil {
			t.Fatal(err)
		}
		if c := condition(d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != "ReplicaSetCreateError" || c.Status != corev1.ConditionFalse {
			t.Errorf("got condition %v, want ReplicaSetCreateError", c)
		}
	}, "n1")
}

func TestAPodOfAMissingServiceAccountIsRefused(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		d := deployment("web", 1)
		d.Spec.Template.Spec.ServiceAccountName = "robot"
		l.create(d)
		if got := l.failures()["ReplicaSet"]; !strings.Contains(got, `error looking up service account dev/robot: serviceaccount "robot" not found`) {
			t.Errorf("event: got %q", got)
		}
		l.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "robot"}})
		l.pass(time.Second)
		if pods := list[*corev1.Pod](l.testCluster, api.Pods); len(pods) != 1 {
			t.Errorf("with the account: got %d pods, want 1", len(pods))
		}
	}, "n1")
}

func TestAFailedDaemonPodIsReplacedLaterAndLater(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(daemon("agent"))
		l.pass(time.Second)
		first := time.Now()
		var waits []time.Duration
		for range 4 {
			pods := list[*corev1.Pod](l.testCluster, api.Pods)
			for tries := 0; len(pods) != 1 || podEnded(pods[0]); tries++ {
				if tries > 100 {
					t.Fatalf("got pods %v, want a living one", pods)
				}
				l.pass(100 * time.Millisecond)
				pods = list[*corev1.Pod](l.testCluster, api.Pods)
			}
			waits = append(waits, time.Since(first).Round(time.Second))
			first = time.Now()
			l.end(pods[0], 1)
		}
		if fmt.Sprint(waits) != "[0s 0s 1s 2s]" {
			t.Errorf("waits between failures: got %v, want [0s 0s 1s 2s]", waits)
		}
	}, "n1")
}

func TestDaemonAndStatefulSetsWaitForMinReadySeconds(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		ds, set := daemon("agent"), stateful("db", 2)
		ds.Spec.MinReadySeconds, set.Spec.MinReadySeconds = 10, 10
		l.create(ds)
		l.create(set)
		available := func() string {
			d, err := store.Get[*appsv1.DaemonSet](l.store, api.DaemonSets, "dev", "agent")
			if err != nil {
				t.Fatal(err)
			}
			s, err := store.Get[*appsv1.StatefulSet](l.store, api.StatefulSets, "dev", "db")
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("daemons %d of %d, members %d of %d", d.Status.NumberAvailable, d.Status.NumberReady, s.Status.AvailableReplicas, s.Status.Replicas)
		}
		for _, step := range []struct {
			after time.Duration
			want  string
		}{
			{5 * time.Second, "daemons 0 of 1, members 0 of 1"}, {8 * time.Second, "daemons 1 of 1, members 1 of 2"}, {12 * time.Second, "daemons 1 of 1, members 2 of 2"},
		} {
			l.pass(step.after)
			if got := available(); got != step.want {
				t.Errorf("got %q, want %q", got, step.want)
			}
		}
	}, "n1")
}
