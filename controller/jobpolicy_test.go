package controller

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// end ends a pod with an exit code, now.
func (l *lab) end(pod *corev1.Pod, code int32, edit ...func(*corev1.Pod)) {
	l.t.Helper()
	change(l.testCluster, api.Pods, pod.Name, func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			p.Status.Phase = corev1.PodFailed
		}
		setPodCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}, time.Now())
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "work", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}}
		for _, fn := range edit {
			fn(p)
		}
	})
	synctest.Wait()
}

// running lists the pods that run, by their indexes.
func (l *lab) running() (pods []*corev1.Pod, indexes []string) {
	synctest.Wait()
	for _, p := range list[*corev1.Pod](l.testCluster, api.Pods) {
		if podActive(p) {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		i, _ := indexOf(a)
		j, _ := indexOf(b)
		return i - j
	})
	for _, p := range pods {
		indexes = append(indexes, p.Annotations[batchv1.JobCompletionIndexAnnotation]+" after "+p.Annotations[batchv1.JobIndexFailureCountAnnotation])
	}
	return pods, indexes
}

func onExit(action batchv1.PodFailurePolicyAction, code int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
		Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}}}
}

func inRange(n int32, edit ...func(*batchv1.Job)) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		mode := batchv1.IndexedCompletion
		j.Spec.Completions, j.Spec.Parallelism, j.Spec.CompletionMode = number(n), number(n), &mode
		for _, fn := range edit {
			fn(j)
		}
	}
}

func TestAPodFailurePolicyIgnoresCountsAndEnds(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(job("rules", func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
				onExit(batchv1.PodFailurePolicyActionIgnore, 7), onExit(batchv1.PodFailurePolicyActionCount, 8), onExit(batchv1.PodFailurePolicyActionFailJob, 42),
				{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
					{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
			}}
		}))
		next := func() *corev1.Pod {
			l.pass(15 * time.Minute) // longer than any pause
			pods, _ := l.running()
			if len(pods) != 1 {
				t.Fatalf("got %d pods at work, want one", len(pods))
			}
			return pods[0]
		}
		l.end(next(), 7)
		l.wantJob("rules", "", 0, 0, 0) // ignored, and replaced after a pause
		l.end(next(), 1, func(p *corev1.Pod) {
			setPodCondition(p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}, time.Now())
		})
		l.wantJob("rules", "", 0, 0, 0)
		l.end(next(), 8)
		l.wantJob("rules", "", 0, 0, 1)
		last := next()
		l.end(last, 42)
		l.wantJob("rules", "FailureTarget(PodFailurePolicy) Failed(PodFailurePolicy)", 0, 0, 2)
		want := "Warning PodFailurePolicy Container work for pod dev/" + last.Name + " failed with exit code 42 matching FailJob rule at index 2"
		if l.told()[want] != 1 {
			t.Errorf("events: got %v, want %q", l.told(), want)
		}
	}, "n1")
}

func TestEachIndexHasItsOwnBackoffAndLimit(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(job("grid", inRange(3, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = number(1), number(1)
		})))
		pods, _ := l.running()
		l.end(pods[1], 1)
		l.pass(9 * time.Second)
		if _, got := l.running(); !cmp.Equal(got, []string{"0 after 0", "2 after 0"}) {
			t.Errorf("before the pause of index 1 is over: got %v", got)
		}
		l.pass(2 * time.Second)
		if _, got := l.running(); !cmp.Equal(got, []string{"0 after 0", "1 after 1", "2 after 0"}) {
			t.Errorf("after it: got %v", got)
		}
		l.wantJob("grid", "", 3, 0, 1)
		pods, _ = l.running()
		l.end(pods[1], 1)
		if s, _ := l.jobState("grid"); s.FailedIndexes == nil || *s.FailedIndexes != "1" {
			t.Errorf("index 1 is over its limit: got failed indexes %v", s.FailedIndexes)
		}
		l.pass(time.Hour)
		l.wantJob("grid", "", 2, 0, 2) // the others go on
		l.end(pods[0], 0)
		l.end(pods[2], 0)
		l.wantJob("grid", "FailureTarget(FailedIndexes) Failed(FailedIndexes)", 0, 2, 2)
	}, "n1")
}

func TestTooManyFailedIndexesEndAJob(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(job("grid", inRange(4, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = number(5), number(1)
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{onExit(batchv1.PodFailurePolicyActionFailIndex, 9)}}
		})))
		pods, _ := l.running()
		l.end(pods[0], 9)
		l.wantJob("grid", "", 3, 0, 1)
		l.end(pods[3], 9)
		l.pass(time.Second)
		l.wantJob("grid", "FailureTarget(MaxFailedIndexesExceeded) Failed(MaxFailedIndexesExceeded)", 0, 0, 4) // the two others are cut short
		if s, _ := l.jobState("grid"); s.FailedIndexes == nil || *s.FailedIndexes != "0,3" {
			t.Errorf("failed indexes: got %v, want 0,3", s.FailedIndexes)
		}
	}, "n1")
}

func TestASuccessPolicyEndsAJobEarly(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		leaders := "0,3"
		l.create(job("chosen", inRange(4, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
				{SucceededIndexes: &leaders}, {SucceededCount: number(3)}}}
		})))
		pods, _ := l.running()
		l.end(pods[1], 0)
		l.end(pods[0], 0)
		l.wantJob("chosen", "", 2, 2, 0)
		l.end(pods[3], 0)
		l.pass(time.Second)
		l.wantJob("chosen", "SuccessCriteriaMet(SuccessPolicy) Complete(SuccessPolicy)", 0, 3, 0)
		if l.told()["Normal Completed Job completed"] != 1 {
			t.Errorf("events: got %v, want Completed", l.told())
		}
	}, "n1")
}

func TestASuccessPolicyCountsAmongItsIndexes(t *testing.T) {
	t.Parallel()
	among := "1-3"
	for done, want := range map[string]bool{"0": false, "1": false, "0,2": false, "1,2": true, "0-3": true} {
		r := &run{job: job("j", inRange(4, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: &among, SucceededCount: number(2)}}}
		})), status: &batchv1.JobStatus{CompletedIndexes: done}}
		if got := r.successPolicy() != nil; got != want {
			t.Errorf("completed %s: got %v, want %v", done, got, want)
		}
	}
}

func TestTheReplacementPolicyDecidesWhenADeletedPodIsReplaced(t *testing.T) {
	t.Parallel()
	for policy, want := range map[batchv1.PodReplacementPolicy]struct{ active, failed int32 }{
		batchv1.TerminatingOrFailed: {1, 1}, batchv1.Failed: {0, 0},
	} {
		inLab(t, Config{}, func(l *lab) {
			l.create(job("shift", func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = &policy }))
			pods, _ := l.running()
			l.kubelet.set(l.testCluster, holdEnds, true)
			l.write(func(tx *store.Tx) error {
				grace := int64(3600)
				return tx.Delete(api.Pods, "dev", pods[0].Name, store.DeleteOptions{GracePeriodSeconds: &grace})
			})
			l.pass(time.Minute)
			l.wantJob("shift", "", want.active, 0, want.failed)
			if s, _ := l.jobState("shift"); *s.Terminating != 1 {
				t.Errorf("%s: terminating: got %d, want 1", policy, *s.Terminating)
			}
			if policy == batchv1.Failed {
				l.end(pods[0], 1)
				l.pass(time.Minute)
				l.wantJob("shift", "", 1, 0, 1)
			}
		}, "n1")
	}
}

func TestAResumedJobsDeadlineBeginsAnew(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		pause := func(yes bool) func(*batchv1.Job) { return func(j *batchv1.Job) { j.Spec.Suspend = &yes } }
		deadline := int64(60)
		l.create(job("slow", func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds, j.Spec.BackoffLimit = &deadline, number(0) }))
		l.pass(50 * time.Second)
		change(l.testCluster, api.Jobs, "slow", pause(true))
		l.pass(time.Hour)
		l.wantJob("slow", "Suspended(JobSuspended)", 0, 0, 0) // the pod that was sent away has not failed
		change(l.testCluster, api.Jobs, "slow", pause(false))
		l.pass(50 * time.Second)
		l.wantJob("slow", "", 1, 0, 0)
		l.pass(20 * time.Second)
		l.wantJob("slow", "FailureTarget(DeadlineExceeded) Failed(DeadlineExceeded)", 0, 0, 1)
	}, "n1")
}

func TestAnIndexedJobSendsAwayWhatItsNewSizeDoesNotWant(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		l.create(job("elastic", inRange(4)))
		pods, _ := l.running()
		l.end(pods[3], 0)
		change(l.testCluster, api.Jobs, "elastic", func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = number(2), number(2) })
		l.pass(time.Second)
		if _, got := l.running(); !cmp.Equal(got, []string{"0 after ", "1 after "}) {
			t.Errorf("got %v, want the first two", got)
		}
		l.wantJob("elastic", "", 2, 0, 0)
	}, "n1")
}

func TestANewJobAdoptsThePodsThatWaitForIt(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		lonely := &corev1.Pod{Spec: job("sum").Spec.Template.Spec}
		lonely.Namespace, lonely.Name, lonely.Labels = "dev", "early", map[string]string{"job": "sum"}
		l.create(lonely)
		l.create(job("sum"))
		l.pass(time.Second)
		pods, _ := l.running()
		if len(pods) != 1 || pods[0].Name != "early" || !tracked(pods[0]) {
			t.Fatalf("got %v, want the pod that was there, tracked", pods)
		}
		l.end(pods[0], 0)
		l.wantJob("sum", "SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)", 0, 1, 0)
	}, "n1")
}

func TestAPodWhoseJobIsGoneIsLetGo(t *testing.T) {
	t.Parallel()
	inLab(t, Config{}, func(l *lab) {
		stray := &corev1.Pod{Spec: job("sum").Spec.Template.Spec}
		stray.Namespace, stray.Name, stray.Finalizers = "dev", "stray", []string{batchv1.JobTrackingFinalizer}
		l.create(stray)
		l.pass(time.Second)
		if pods, _ := l.running(); len(pods) != 1 || tracked(pods[0]) {
			t.Errorf("got %v, want one pod without the finalizer", pods)
		}
	}, "n1")
}
