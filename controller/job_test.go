package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// job is one as the API would have defaulted it, in namespace dev, with a selector of its own.
func job(name string, edit ...func(*batchv1.Job)) *batchv1.Job {
	manual, own := true, map[string]string{"job": name}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}}
	j.Spec.ManualSelector, j.Spec.Selector = &manual, &metav1.LabelSelector{MatchLabels: own}
	j.Spec.Template.Labels = own
	j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work", Image: "busybox:1"}}}
	for _, fn := range edit {
		fn(j)
	}
	api.Default(j)
	return j
}

func number(n int32) *int32 { return &n }

// exit ends a pod with an exit code.
func (c *testCluster) exit(name string, code int32) {
	c.t.Helper()
	change(c, api.Pods, name, func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			p.Status.Phase = corev1.PodFailed
		}
		setPodCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}, time.Now())
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "work", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}}
	})
}

// atWork lists the running pods, waiting until there are n.
func (c *testCluster) atWork(n int) (pods []*corev1.Pod) {
	c.t.Helper()
	c.until("pods run", func() bool {
		pods = slices.DeleteFunc(list[*corev1.Pod](c, api.Pods), func(p *corev1.Pod) bool { return !podActive(p) || !podReady(p) })
		return len(pods) == n
	})
	return pods
}

// jobState prints a Job's status: "active 1 succeeded 2 failed 0 SuccessCriteriaMet Complete(CompletionsReached)".
func (c *testCluster) jobState(name string) (s batchv1.JobStatus, conditions string) {
	j, err := store.Get[*batchv1.Job](c.store, api.Jobs, "dev", name)
	if err != nil {
		return s, "gone"
	}
	var all []string
	for _, cond := range j.Status.Conditions {
		if cond.Status == corev1.ConditionTrue {
			all = append(all, string(cond.Type)+"("+cond.Reason+")")
		}
	}
	return j.Status, strings.Join(all, " ")
}

func (c *testCluster) wantJob(name, conditions string, active, succeeded, failed int32) {
	c.t.Helper()
	s, got := c.jobState(name)
	if got != conditions || s.Active != active || s.Succeeded != succeeded || s.Failed != failed {
		c.t.Errorf("%s: got %q, active %d, succeeded %d, failed %d; want %q, %d, %d, %d", name, got, s.Active, s.Succeeded, s.Failed, conditions, active, succeeded, failed)
	}
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		if podEnded(p) && slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
			c.t.Errorf("pod %s has ended and been counted, but keeps its finalizer", p.Name)
		}
	}
}

func TestAJobRunsItsCompletionsInParallel(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.create(job("sum", func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = number(3), number(2) }))
	c.exit(c.atWork(2)[0].Name, 0)
	c.wantJob("sum", "", 2, 1, 0)
	for _, p := range c.atWork(2) {
		c.exit(p.Name, 0)
	}
	c.wantJob("sum", "SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)", 0, 3, 0)
	if s, _ := c.jobState("sum"); s.StartTime == nil || s.CompletionTime == nil {
		t.Errorf("times: got start %v, completion %v", s.StartTime, s.CompletionTime)
	}
}

func TestAJobFailsBeyondItsBackoffLimit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(job("bad", func(j *batchv1.Job) {
		j.Spec.BackoffLimit, j.Spec.Parallelism, j.Spec.Completions = number(1), number(2), number(2)
	}))
	both := c.atWork(2)
	c.exit(both[0].Name, 1)
	c.wantJob("bad", "", 1, 0, 1) // the next try waits for ten seconds
	c.exit(both[1].Name, 1)
	c.wantJob("bad", "FailureTarget(BackoffLimitExceeded) Failed(BackoffLimitExceeded)", 0, 0, 2)
}

func TestAJobWaitsLongerAfterEachFailure(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for times, want := range map[int]time.Duration{0: 0, 1: 10 * time.Second, 2: 20 * time.Second, 4: 80 * time.Second, 40: 10 * time.Minute} {
		if got := (backoff{times, now}).wait(now); got != want {
			t.Errorf("after %d failures: got %v, want %v", times, got, want)
		}
	}
}

func TestAnIndexedJobGivesEachPodItsIndex(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	mode := batchv1.IndexedCompletion
	c.create(job("grid", func(j *batchv1.Job) {
		j.Spec.Completions, j.Spec.Parallelism, j.Spec.CompletionMode, j.Spec.BackoffLimitPerIndex = number(3), number(3), &mode, number(0)
	}))
	pods := c.atWork(3)
	var hosts []string
	for _, p := range pods {
		hosts = append(hosts, p.Spec.Hostname+" "+p.Labels[batchv1.JobCompletionIndexAnnotation]+" "+p.Spec.Containers[0].Env[0].Name)
	}
	slices.Sort(hosts)
	if want := []string{"grid-0 0 JOB_COMPLETION_INDEX", "grid-1 1 JOB_COMPLETION_INDEX", "grid-2 2 JOB_COMPLETION_INDEX"}; !cmp.Equal(hosts, want) {
		t.Errorf("pods: got %v, want %v", hosts, want)
	}
	for _, p := range pods {
		code := int32(0)
		if i, _ := indexOf(p); i == 1 {
			code = 3
		}
		c.exit(p.Name, code)
	}
	c.wantJob("grid", "FailureTarget(FailedIndexes) Failed(FailedIndexes)", 0, 2, 1)
	if s, _ := c.jobState("grid"); s.CompletedIndexes != "0,2" || s.FailedIndexes == nil || *s.FailedIndexes != "1" {
		t.Errorf("indexes: got completed %q, failed %v", s.CompletedIndexes, s.FailedIndexes)
	}
}

func TestASuspendedJobHasNoPodsUntilItIsResumed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	pause := func(yes bool) func(*batchv1.Job) { return func(j *batchv1.Job) { j.Spec.Suspend = &yes } }
	c.create(job("later", pause(true)))
	c.wantJob("later", "Suspended(JobSuspended)", 0, 0, 0)
	change(c, api.Jobs, "later", pause(false))
	c.atWork(1)
	c.wantJob("later", "", 1, 0, 0)
	change(c, api.Jobs, "later", pause(true))
	c.until("the pod is gone", func() bool { return len(list[*corev1.Pod](c, api.Pods)) == 0 })
	s, _ := c.jobState("later")
	if s.StartTime != nil || s.Active != 0 {
		t.Errorf("suspended: got start %v, active %d; want none", s.StartTime, s.Active)
	}
}

func TestTimeEndsAJobAndRemovesIt(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	second := int64(1)
	c.create(job("slow", func(j *batchv1.Job) {
		j.Spec.ActiveDeadlineSeconds, j.Spec.TTLSecondsAfterFinished = &second, number(1)
	}))
	c.until("the deadline ends it", func() bool {
		_, conditions := c.jobState("slow")
		return conditions == "FailureTarget(DeadlineExceeded) Failed(DeadlineExceeded)"
	})
	c.until("it is removed", func() bool {
		_, s := c.jobState("slow")
		return s == "gone" && len(list[*corev1.Pod](c, api.Pods)) == 0
	})
}

func TestIndexesArePrintedAsKubernetesDoes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "0", "0,1", "0-2", "1,3-5,7,8"} {
		if got := printIndexes(indexesOf(text)); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}
