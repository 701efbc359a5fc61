package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const jobComponent = "job-controller"

// jobs runs each Job's pods to completion.
//
// Each pod carries a finalizer until its end is counted in the Job's status; counting and taking the finalizer off are one
// transaction, so that no end is lost or counted twice.
//
// Work is named after the Job, or "pod|namespace/name" for a pod whose Job is gone and whose end nobody will count.
type jobs struct {
	failing map[string]backoff // by Job; forgotten in a restart, which may then try again early
}

func newJobs() *jobs { return &jobs{failing: map[string]backoff{}} }

func (c *jobs) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.Jobs:
		if ev.Type == store.Deleted {
			delete(c.failing, api.Name(ev.Object))
			for _, pod := range owned[*corev1.Pod](t, api.Pods, ev.Object) {
				t.todo(c, orphanPod+api.Name(pod))
			}
		}
		t.todo(c, api.Name(ev.Object))
	case api.Pods:
		if t.by == controller(c) {
			return
		}
		if pod := ev.Object.(*corev1.Pod); ev.Type != store.Deleted && tracked(pod) && jobOf(t, pod) == nil {
			t.todo(c, orphanPod+api.Name(pod))
		}
		for _, pod := range states[*corev1.Pod](ev) {
			if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == api.Jobs.Kind {
				t.todo(c, pod.Namespace+"/"+ref.Name)
			}
		}
	}
}

// tracked tells that a pod's end is still to be counted.
func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// jobOf is the Job that a pod belongs to; nil when there is none.
func jobOf(t *turn, pod *corev1.Pod) *batchv1.Job {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != api.Jobs.Kind {
		return nil
	}
	if job, ok := find[*batchv1.Job](t, api.Jobs, pod.Namespace, ref.Name); ok && job.UID == ref.UID {
		return job
	}
	return nil
}

// run is one look at a Job: what it was, what has become of its pods, and the status that follows.
type run struct {
	job         *batchv1.Job
	status      *batchv1.JobStatus
	active      []*corev1.Pod // neither ended nor deleted
	terminating []*corev1.Pod // deleted, and not ended yet
	succeeded   []*corev1.Pod // newly: to be counted
	failed      []*corev1.Pod // likewise; under the usual podReplacementPolicy a terminating pod is one at once
	failures    int32         // all that count, those that delayed withholds from the status included
	delayed     map[int]*corev1.Pod
	counted     []*corev1.Pod // those that the status has now: their finalizer is to go
	now         time.Time
}

func (c *jobs) reconcile(t *turn, name string) error {
	if rest, ok := strings.CutPrefix(name, orphanPod); ok {
		return c.reconcileOrphan(t, rest)
	}
	namespace, plain := split(name)
	job, ok := find[*batchv1.Job](t, api.Jobs, namespace, plain)
	if !ok {
		return nil
	}
	if job.DeletionTimestamp != nil {
		return c.letGo(t, owned[*corev1.Pod](t, api.Pods, job))
	}
	if job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName {
		return nil
	}
	r, err := c.look(t, job)
	if err != nil {
		return err
	}
	if jobEnded(job.Status) {
		if err := c.letGo(t, slices.Concat(r.succeeded, r.failed)); err != nil {
			return err
		}
		delete(c.failing, name)
		return c.expire(t, job)
	}
	r.count()
	if b := c.failing[name].after(r.succeeded, r.failed); b.times > 0 && job.Spec.BackoffLimitPerIndex == nil {
		c.failing[name] = b
	} else {
		delete(c.failing, name)
	}
	if err := c.decide(t, r); err != nil {
		return err
	}
	if err := c.letGo(t, r.counted); err != nil {
		return err
	}
	return c.report(t, r)
}

// reconcileOrphan lets a pod go that waits for a Job which is not there.
func (c *jobs) reconcileOrphan(t *turn, name string) error {
	namespace, plain := split(name)
	pod, ok := find[*corev1.Pod](t, api.Pods, namespace, plain)
	if !ok || jobOf(t, pod) != nil {
		return nil
	}
	return c.letGo(t, []*corev1.Pod{pod})
}

// look sorts a Job's pods, and sets those free that its selector matches no longer.
func (c *jobs) look(t *turn, job *batchv1.Job) (*run, error) {
	r := &run{job: job, status: job.Status.DeepCopy(), now: t.now}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, err
	}
	for _, pod := range owned[*corev1.Pod](t, api.Pods, job) {
		if !selector.Matches(labels.Set(pod.Labels)) {
			free := api.Copy(pod)
			dropFinalizer(free)
			if err := release(t, free, job); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case podEnded(pod):
		case pod.DeletionTimestamp != nil:
			r.terminating = append(r.terminating, pod)
		default:
			r.active = append(r.active, pod)
		}
		switch {
		case !tracked(pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			r.succeeded = append(r.succeeded, pod)
		case pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil && !replacesFailedOnly(job):
			r.failed = append(r.failed, pod)
		}
	}
	return r, nil
}

// replacesFailedOnly tells that a pod on its way out is not replaced, nor counted, before it has ended.
func replacesFailedOnly(job *batchv1.Job) bool {
	return job.Spec.PodReplacementPolicy != nil && *job.Spec.PodReplacementPolicy == batchv1.Failed
}

func dropFinalizer(pod *corev1.Pod) {
	pod.Finalizers = slices.DeleteFunc(pod.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
}

// letGo takes the Job's finalizer off pods.
func (c *jobs) letGo(t *turn, pods []*corev1.Pod) error {
	for _, pod := range pods {
		now, ok := find[*corev1.Pod](t, api.Pods, pod.Namespace, pod.Name)
		if !ok || now.UID != pod.UID || !tracked(now) {
			continue
		}
		free := api.Copy(now)
		dropFinalizer(free)
		if err := t.update(free); err != nil {
			return err
		}
	}
	return nil
}

// expire deletes a Job that has ended, when its time is over.
func (c *jobs) expire(t *turn, job *batchv1.Job) error {
	at, ok := jobEndedAt(job)
	if !ok || job.Spec.TTLSecondsAfterFinished == nil {
		return nil
	}
	at = at.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second)
	if at.After(t.now) {
		t.later(c, api.Name(job), at)
		return nil
	}
	return t.delete(job, store.DeleteOptions{Propagation: metav1.DeletePropagationForeground})
}

func jobEndedAt(job *batchv1.Job) (time.Time, bool) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, true
		}
	}
	return time.Time{}, false
}

// decide does what the Job's state asks for: end it, pause it, or keep the wanted number of pods.
func (c *jobs) decide(t *turn, r *run) error {
	if r.status.StartTime == nil && !suspended(r.job) {
		r.begin()
	}
	if v := r.judge(); v != nil {
		return c.end(t, r, *v)
	}
	if suspended(r.job) {
		return c.pause(t, r)
	}
	if cond := jobCondition(r.status, batchv1.JobSuspended); cond != nil && cond.Status == corev1.ConditionTrue {
		r.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		r.begin() // the deadline counts the time at work alone
		if err := t.record(r.job, happening{component: jobComponent, reason: "Resumed", message: "Job resumed"}); err != nil {
			return err
		}
	}
	if at, ok := r.deadline(); ok {
		t.later(c, api.Name(r.job), at)
	}
	return c.staff(t, r)
}

func (r *run) begin() {
	now := metav1.NewTime(r.now.Truncate(time.Second))
	r.status.StartTime = &now
}

// end writes down how a Job ends, deletes what still runs and, when that is over, ends it. What a failure cuts short has failed;
// what a success makes superfluous has not.
func (c *jobs) end(t *turn, r *run, v verdict) error {
	interim, final := batchv1.JobSuccessCriteriaMet, batchv1.JobComplete
	if v.failed {
		interim, final = batchv1.JobFailureTarget, batchv1.JobFailed
	}
	r.set(interim, corev1.ConditionTrue, v.reason, v.message)
	r.release(v.failed)
	if len(r.active) > 0 {
		return c.dismiss(t, r, r.active)
	}
	if len(r.terminating) > 0 {
		return nil
	}
	r.set(final, corev1.ConditionTrue, v.reason, v.message)
	h := happening{component: jobComponent, reason: "Completed", message: "Job completed"}
	if v.failed {
		h = happening{component: jobComponent, warning: true, reason: v.reason, message: v.message}
	} else {
		now := metav1.NewTime(t.now.Truncate(time.Second))
		r.status.CompletionTime = &now
	}
	return t.record(r.job, h)
}

func (c *jobs) pause(t *turn, r *run) error {
	if cond := jobCondition(r.status, batchv1.JobSuspended); cond == nil || cond.Status != corev1.ConditionTrue {
		r.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		r.status.StartTime = nil
		if err := t.record(r.job, happening{component: jobComponent, reason: "Suspended", message: "Job suspended"}); err != nil {
			return err
		}
	}
	return c.dismiss(t, r, r.active)
}

// dismiss deletes pods that still run, none of which counts as failed for that.
func (c *jobs) dismiss(t *turn, r *run, pods []*corev1.Pod) error {
	if err := c.letGo(t, pods); err != nil {
		return err
	}
	for _, pod := range pods {
		if err := t.delete(pod, store.DeleteOptions{}); err != nil {
			return err
		}
		h := happening{component: jobComponent, reason: "SuccessfulDelete", message: "Deleted pod: " + pod.Name}
		if err := t.record(r.job, h); err != nil {
			return err
		}
		t.todo(c, api.Name(r.job)) // a pod without a node is over at once
	}
	gone := func(p *corev1.Pod) bool { return slices.Contains(pods, p) }
	r.terminating = append(r.terminating, pods...)
	r.active = slices.DeleteFunc(slices.Clone(r.active), gone)
	return nil
}

// report writes the status.
func (c *jobs) report(t *turn, r *run) error {
	ready, terminating := int32(0), int32(len(r.terminating))
	for _, pod := range r.active {
		if podReady(pod) {
			ready++
		}
	}
	r.status.Active, r.status.Ready, r.status.Terminating = int32(len(r.active)), &ready, &terminating
	r.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	job := api.Copy(r.job)
	job.Status = *r.status
	if err := t.update(job); err != nil {
		return fmt.Errorf("status of Job %s: %w", api.Name(job), err)
	}
	return nil
}
