package controller

import (
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// verdict is how a Job ends, and why.
type verdict struct {
	failed          bool
	reason, message string
}

func suspended(job *batchv1.Job) bool { return job.Spec.Suspend != nil && *job.Spec.Suspend }

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion && job.Spec.Completions != nil
}

func jobEnded(s batchv1.JobStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}

func jobCondition(s *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// set files a condition; its times move only with what it says.
func (r *run) set(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.now.Truncate(time.Second))
	next := batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	switch old := jobCondition(r.status, kind); {
	case old == nil:
		r.status.Conditions = append(r.status.Conditions, next)
	case old.Status != status || old.Reason != reason:
		*old = next
	}
}

// count adds the newly ended pods to the status.
func (r *run) count() {
	completed, failed := r.indexes()
	for _, pod := range r.succeeded {
		if index, ok := r.indexOf(pod); ok {
			completed[index] = true
			r.status.Succeeded++
		}
	}
	r.counted = append(r.counted, r.succeeded...)
	r.failures = r.status.Failed
	for _, pod := range r.failed {
		action, _ := r.policy(pod)
		if action == batchv1.PodFailurePolicyActionIgnore {
			continue
		}
		r.failures++
		limit := r.job.Spec.BackoffLimitPerIndex
		if index, ok := r.indexOf(pod); ok && limit != nil && (action == batchv1.PodFailurePolicyActionFailIndex || failureCount(pod) >= *limit) {
			failed[index] = true
		}
	}
	r.delayed = r.delay(completed, failed)
	var now []*corev1.Pod
	for _, pod := range r.failed {
		if index, ok := indexOf(pod); !ok || r.delayed[index] != pod {
			now = append(now, pod)
		}
	}
	r.fail(now)
	if indexed(r.job) {
		r.status.Succeeded = int32(len(completed))
		r.status.CompletedIndexes = printIndexes(completed)
		if r.job.Spec.BackoffLimitPerIndex != nil {
			text := printIndexes(failed)
			r.status.FailedIndexes = &text
		}
	}
}

// fail counts failed pods, but for those that the Job's policy ignores.
func (r *run) fail(pods []*corev1.Pod) {
	for _, pod := range pods {
		if action, _ := r.policy(pod); action == batchv1.PodFailurePolicyActionIgnore {
			continue
		}
		if _, ok := r.indexOf(pod); ok {
			r.status.Failed++
		}
	}
	r.counted = append(r.counted, pods...)
}

// delay picks for each index that needs another pod its last failed one: it stays uncounted until its successor, who is told how
// often the index has failed, is there.
func (r *run) delay(completed, failed map[int]bool) map[int]*corev1.Pod {
	if r.job.Spec.BackoffLimitPerIndex == nil {
		return nil
	}
	busy := map[int]bool{}
	for _, pod := range r.active {
		if i, ok := indexOf(pod); ok {
			busy[i] = true
		}
	}
	last := map[int]*corev1.Pod{}
	for _, pod := range r.failed {
		i, ok := r.indexOf(pod)
		if !ok || completed[i] || failed[i] || busy[i] {
			continue
		}
		if old := last[i]; old == nil || allFailures(pod) >= allFailures(old) && byFinish(pod, old) >= 0 {
			last[i] = pod
		}
	}
	return last
}

// release counts what would still wait to be counted, now that the Job ends; with it, if it fails, the pods that run.
func (r *run) release(failed bool) {
	for _, i := range slices.Sorted(maps.Keys(r.delayed)) {
		r.fail([]*corev1.Pod{r.delayed[i]})
	}
	r.delayed = nil
	rest := slices.Concat(r.active, r.terminating)
	rest = slices.DeleteFunc(rest, func(p *corev1.Pod) bool { return !tracked(p) || slices.Contains(r.failed, p) })
	if failed {
		r.fail(rest)
	} else {
		r.counted = append(r.counted, rest...)
	}
}

// indexes are those that the status says have completed, and have failed; none beyond the number that is wanted by now.
func (r *run) indexes() (completed, failed map[int]bool) {
	completed, failed = indexesOf(r.status.CompletedIndexes), map[int]bool{}
	if r.status.FailedIndexes != nil {
		failed = indexesOf(*r.status.FailedIndexes)
	}
	if indexed(r.job) {
		beyond := func(i int, _ bool) bool { return i >= int(*r.job.Spec.Completions) }
		maps.DeleteFunc(completed, beyond)
		maps.DeleteFunc(failed, beyond)
	}
	return completed, failed
}

// indexOf is a pod's index; false for a pod that an indexed Job does not want. The pods of another Job have no index.
func (r *run) indexOf(pod *corev1.Pod) (int, bool) {
	if !indexed(r.job) {
		return -1, true
	}
	index, ok := indexOf(pod)
	return index, ok && index < int(*r.job.Spec.Completions)
}

// judge tells how the Job ends, if it does now. A verdict once begun stands.
func (r *run) judge() *verdict {
	if c := jobCondition(r.status, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		return &verdict{false, c.Reason, c.Message}
	}
	if c := jobCondition(r.status, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		return &verdict{true, c.Reason, c.Message}
	}
	for _, pod := range r.failed {
		if action, why := r.policy(pod); action == batchv1.PodFailurePolicyActionFailJob {
			return &verdict{true, batchv1.JobReasonPodFailurePolicy, why}
		}
	}
	if limit := wantedOr(r.job.Spec.BackoffLimit, 6); r.failures > limit || r.restarts(int(limit)) {
		return &verdict{true, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"}
	}
	if at, ok := r.deadline(); ok && !at.After(r.now) && !suspended(r.job) {
		return &verdict{true, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"}
	}
	if v := r.failedByIndex(); v != nil {
		return v
	}
	if v := r.successPolicy(); v != nil {
		return v
	}
	if r.done() {
		return &verdict{false, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"}
	}
	return nil
}

// done tells that as many pods have succeeded as the Job wants; without a number one is enough, once no other runs.
func (r *run) done() bool {
	if r.job.Spec.Completions == nil {
		return r.status.Succeeded > 0 && len(r.active) == 0
	}
	return r.status.Succeeded >= *r.job.Spec.Completions
}

func wantedOr(n *int32, otherwise int32) int32 {
	if n == nil {
		return otherwise
	}
	return *n
}

// restarts tells that pods which are restarted in place have been so more often than the limit.
func (r *run) restarts(limit int) bool {
	if r.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := 0
	for _, pod := range r.active {
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for _, s := range statuses {
				n += int(s.RestartCount)
			}
		}
	}
	return n > 0 && n >= limit
}

// deadline is when the Job must have ended.
func (r *run) deadline() (time.Time, bool) {
	if r.job.Spec.ActiveDeadlineSeconds == nil || r.status.StartTime == nil {
		return time.Time{}, false
	}
	return r.status.StartTime.Add(time.Duration(*r.job.Spec.ActiveDeadlineSeconds) * time.Second), true
}

func (r *run) failedByIndex() *verdict {
	if r.status.FailedIndexes == nil {
		return nil
	}
	failed := int32(len(indexesOf(*r.status.FailedIndexes)))
	if most := r.job.Spec.MaxFailedIndexes; most != nil && failed > *most {
		return &verdict{true, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"}
	}
	if failed > 0 && failed+r.status.Succeeded >= *r.job.Spec.Completions {
		return &verdict{true, batchv1.JobReasonFailedIndexes, "Job has failed indexes"}
	}
	return nil
}

// successPolicy tells that enough indexes have succeeded, though not all.
func (r *run) successPolicy() *verdict {
	if r.job.Spec.SuccessPolicy == nil || !indexed(r.job) {
		return nil
	}
	done := indexesOf(r.status.CompletedIndexes)
	for i, rule := range r.job.Spec.SuccessPolicy.Rules {
		among := done
		want := len(done) + 1
		if rule.SucceededIndexes != nil {
			listed := indexesOf(*rule.SucceededIndexes)
			want = len(listed)
			among = map[int]bool{}
			for n := range listed {
				if done[n] {
					among[n] = true
				}
			}
		}
		if rule.SucceededCount != nil {
			want = int(*rule.SucceededCount)
		}
		if len(among) >= want {
			return &verdict{false, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i)}
		}
	}
	return nil
}

// policy is what the Job's rules make of a failed pod: the first that matches, else its failure counts.
func (r *run) policy(pod *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if r.job.Spec.PodFailurePolicy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range r.job.Spec.PodFailurePolicy.Rules {
		if rule.OnExitCodes != nil {
			if s, ok := exited(pod, rule.OnExitCodes); ok {
				return rule.Action, fmt.Sprintf("Container %s for pod %s failed with exit code %d matching %v rule at index %d",
					s.Name, api.Name(pod), s.State.Terminated.ExitCode, rule.Action, i)
			}
		}
		for _, cond := range pod.Status.Conditions {
			if slices.ContainsFunc(rule.OnPodConditions, func(p batchv1.PodFailurePolicyOnPodConditionsPattern) bool {
				return p.Type == cond.Type && p.Status == cond.Status
			}) {
				return rule.Action, fmt.Sprintf("Pod %s has condition %v matching %v rule at index %d", api.Name(pod), cond.Type, rule.Action, i)
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// exited finds a container whose exit code a rule names.
func exited(pod *corev1.Pod, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) (corev1.ContainerStatus, bool) {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if s.State.Terminated == nil || s.State.Terminated.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != s.Name {
			continue
		}
		if slices.Contains(rule.Values, s.State.Terminated.ExitCode) == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return s, true
		}
	}
	return corev1.ContainerStatus{}, false
}
