package controller

import (
	"maps"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// longestPrefix is what a generated name leaves for what it begins with.
const longestPrefix = 58

// staff keeps as many pods running as the Job wants now.
func (c *jobs) staff(t *turn, r *run) error {
	want := r.wanted()
	if surplus := r.surplus(len(r.active) - want); len(surplus) > 0 {
		return c.dismiss(t, r, surplus)
	}
	busy := len(r.active)
	if replacesFailedOnly(r.job) {
		busy += len(r.terminating)
	}
	missing := min(want-busy, burst)
	if missing <= 0 {
		return nil
	}
	name := api.Name(r.job)
	if indexed(r.job) {
		return c.staffIndexes(t, r, missing)
	}
	if wait := c.failing[name].wait(t.now); wait > 0 {
		t.later(c, name, t.now.Add(wait))
		return nil
	}
	for range missing {
		if failure, err := c.hire(t, r, newJobPod(r.job)); failure != nil || err != nil {
			return err
		}
	}
	if len(r.active) < want {
		t.todo(c, name) // the rest comes in another burst
	}
	return nil
}

// staffIndexes makes pods for the first indexes that need one. Where each index has a limit of its own, it has a pause of its own.
func (c *jobs) staffIndexes(t *turn, r *run, missing int) error {
	name := api.Name(r.job)
	perIndex := r.job.Spec.BackoffLimitPerIndex != nil
	if wait := c.failing[name].wait(t.now); wait > 0 && !perIndex {
		t.later(c, name, t.now.Add(wait))
		return nil
	}
	free := r.freeIndexes()
	for _, index := range free[:min(missing, len(free))] {
		last := r.delayed[index]
		if last != nil {
			b := backoff{int(allFailures(last)) + 1, finishedAt(last)}
			if wait := b.wait(t.now); wait > 0 {
				t.later(c, name, t.now.Add(wait))
				continue
			}
			t.todo(c, name) // the last pod may be counted now
		}
		pod := newJobPod(r.job)
		r.index(pod, index)
		if failure, err := c.hire(t, r, pod); failure != nil || err != nil {
			return err
		}
	}
	if len(free) > missing && missing == burst {
		t.todo(c, name)
	}
	return nil
}

// hire makes a pod; failure is why it was refused.
func (c *jobs) hire(t *turn, r *run, pod *corev1.Pod) (failure, err error) {
	if failure, err = t.turnedAway(r.job, jobComponent, t.create(pod)); failure != nil || err != nil {
		return failure, err
	}
	r.active = append(r.active, pod)
	return nil, t.record(r.job, happening{component: jobComponent, reason: "SuccessfulCreate", message: "Created pod: " + pod.Name})
}

// surplus picks at least this many pods that are to go; all but one of those that share an index go first, and those whose index is
// not wanted any more.
func (r *run) surplus(least int) []*corev1.Pod {
	ranked := rankVictims(r.active, r.active)
	var gone []*corev1.Pod
	if indexed(r.job) {
		kept := map[int]bool{}
		for _, pod := range slices.Backward(ranked) {
			if i, ok := r.indexOf(pod); !ok || kept[i] {
				gone = append(gone, pod)
			} else {
				kept[i] = true
			}
		}
		ranked = slices.DeleteFunc(ranked, func(p *corev1.Pod) bool { return slices.Contains(gone, p) })
	}
	if more := least - len(gone); more > 0 {
		gone = append(gone, ranked[:more]...)
	}
	return gone[:min(len(gone), burst)]
}

// wanted is how many pods are to run now.
func (r *run) wanted() int {
	spec := &r.job.Spec
	parallel := int(wanted(spec.Parallelism))
	switch {
	case spec.Completions == nil && r.status.Succeeded > 0:
		return len(r.active) // a work queue that one pod has found empty takes no new ones
	case spec.Completions == nil:
		return parallel
	}
	return max(min(parallel, int(*spec.Completions-r.status.Succeeded)), 0)
}

func newJobPod(job *batchv1.Job) *corev1.Pod {
	pod := podFrom(&job.Spec.Template, job, func(pod *corev1.Pod) {
		pod.Finalizers = append(slices.Clone(pod.Finalizers), batchv1.JobTrackingFinalizer)
	})
	return pod
}

// index makes a pod the one for an index: its name, host name, label, annotation and environment tell it.
func (r *run) index(pod *corev1.Pod, index int) {
	word := strconv.Itoa(index)
	tail := "-" + word + "-"
	pod.GenerateName = r.job.Name[:min(len(r.job.Name), longestPrefix-len(tail))] + tail
	pod.Annotations = with(pod.Annotations, batchv1.JobCompletionIndexAnnotation, word)
	pod.Labels = with(pod.Labels, batchv1.JobCompletionIndexAnnotation, word)
	if r.job.Spec.BackoffLimitPerIndex != nil {
		r.tellFailures(pod, r.delayed[index])
	}
	pod.Spec.Hostname = r.job.Name + "-" + word
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			told := func(e corev1.EnvVar) bool { return e.Name == "JOB_COMPLETION_INDEX" }
			if slices.ContainsFunc(containers[i].Env, told) {
				continue
			}
			containers[i].Env = append(containers[i].Env, corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
			}})
		}
	}
}

// tellFailures tells a pod how often its index has failed up to and with last, which may be nil.
func (r *run) tellFailures(pod, last *corev1.Pod) {
	var failures, ignored int32
	if last != nil {
		failures, ignored = failureCount(last), ignoredCount(last)
		if action, _ := r.policy(last); action == batchv1.PodFailurePolicyActionIgnore {
			ignored++
		} else {
			failures++
		}
	}
	pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
	if ignored > 0 {
		pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
	}
}

// freeIndexes are the indexes that have neither ended nor a pod, lowest first.
func (r *run) freeIndexes() []int {
	taken, failed := r.indexes()
	maps.Copy(taken, failed)
	pods := r.active
	if replacesFailedOnly(r.job) {
		pods = slices.Concat(pods, r.terminating)
	}
	for _, pod := range pods {
		if i, ok := indexOf(pod); ok {
			taken[i] = true
		}
	}
	var free []int
	for i := range int(*r.job.Spec.Completions) {
		if !taken[i] {
			free = append(free, i)
		}
	}
	return free
}
