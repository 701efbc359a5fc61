package controller

import (
	"maps"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// staff keeps as many pods running as the Job wants now.
func (c *jobs) staff(t *turn, r *run) error {
	want := r.wanted()
	if surplus := len(r.active) - want; surplus > 0 {
		return c.dismiss(t, r, rankVictims(r.active, r.active)[:surplus])
	}
	busy := len(r.active)
	if p := r.job.Spec.PodReplacementPolicy; p != nil && *p == batchv1.Failed {
		busy += len(r.terminating)
	}
	missing := want - busy
	if missing <= 0 {
		return nil
	}
	name := api.Name(r.job)
	if wait := c.failing[name].wait(t.now); wait > 0 {
		t.later(c, name, t.now.Add(wait))
		return nil
	}
	indexes := r.freeIndexes()
	for n := range min(missing, burst) {
		pod := newJobPod(r.job)
		if indexed(r.job) {
			if n >= len(indexes) {
				break
			}
			r.index(pod, indexes[n])
		}
		if err := t.create(pod); err != nil {
			return err
		}
		r.active = append(r.active, pod)
		h := happening{component: jobComponent, reason: "SuccessfulCreate", message: "Created pod: " + pod.Name}
		if err := t.record(r.job, h); err != nil {
			return err
		}
	}
	if missing > burst {
		t.todo(c, name) // the rest comes in another burst
	}
	return nil
}

// wanted is how many pods are to run now.
func (r *run) wanted() int {
	spec := &r.job.Spec
	parallel := int(wanted(spec.Parallelism))
	switch {
	case spec.Completions == nil && r.status.Succeeded > 0:
		return min(len(r.active), parallel) // a work queue that one pod has found empty takes no new ones
	case spec.Completions == nil:
		return parallel
	case indexed(r.job):
		left := int(*spec.Completions) - len(indexesOf(r.status.CompletedIndexes))
		if r.status.FailedIndexes != nil {
			left -= len(indexesOf(*r.status.FailedIndexes))
		}
		return min(parallel, left)
	}
	return min(parallel, int(*spec.Completions-r.status.Succeeded))
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
	pod.GenerateName = r.job.Name + "-" + word + "-"
	pod.Annotations = with(pod.Annotations, batchv1.JobCompletionIndexAnnotation, word)
	pod.Labels = with(pod.Labels, batchv1.JobCompletionIndexAnnotation, word)
	if r.job.Spec.BackoffLimitPerIndex != nil {
		pod.Annotations = with(pod.Annotations, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(int(r.failuresOf(index))))
	}
	if pod.Spec.Hostname == "" {
		pod.Spec.Hostname = r.job.Name + "-" + word
	}
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

// failuresOf is how often an index has failed: its last pod knows how often before it.
func (r *run) failuresOf(index int) int32 {
	var most int32
	for _, pod := range r.history {
		if i, ok := indexOf(pod); ok && i == index && pod.Status.Phase != corev1.PodSucceeded {
			most = max(most, failureCount(pod)+1)
		}
	}
	return most
}

func failureCount(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[batchv1.JobIndexFailureCountAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// freeIndexes are the indexes that have neither ended nor a pod, lowest first.
func (r *run) freeIndexes() []int {
	if !indexed(r.job) {
		return nil
	}
	taken := indexesOf(r.status.CompletedIndexes)
	if r.status.FailedIndexes != nil {
		maps.Copy(taken, indexesOf(*r.status.FailedIndexes))
	}
	for _, pods := range [][]*corev1.Pod{r.active, r.terminating} {
		for _, pod := range pods {
			if i, ok := indexOf(pod); ok {
				taken[i] = true
			}
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
