package controller

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	jobComponent = "job-controller"
	// jobBackoff and jobBackoffMost are how long a Job waits after its first failed pod, and at most: Kubernetes' figures.
	jobBackoff     = 10 * time.Second
	jobBackoffMost = 10 * time.Minute
)

// jobs runs each Job's pods to completion.
//
// Each pod carries a finalizer until its end is counted in the Job's status; counting and taking the finalizer off are one
// transaction, so that no end is lost or counted twice.
type jobs struct {
	failing map[string]backoff // by Job; forgotten in a restart, which may then try again early
}

// backoff is the failures in a row, and when the last one was.
type backoff struct {
	times int
	last  time.Time
}

func newJobs() *jobs { return &jobs{failing: map[string]backoff{}} }

func (c *jobs) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.Jobs:
		if ev.Type == store.Deleted {
			delete(c.failing, api.Name(ev.Object))
		}
		t.todo(c, api.Name(ev.Object))
	case api.Pods:
		if t.by == controller(c) {
			return
		}
		for _, pod := range states[*corev1.Pod](ev) {
			if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == api.Jobs.Kind {
				t.todo(c, pod.Namespace+"/"+ref.Name)
			}
		}
	}
}

// run is one look at a Job: what it was, what has become of its pods, and the status that follows.
type run struct {
	job         *batchv1.Job
	status      *batchv1.JobStatus
	active      []*corev1.Pod // neither ended nor deleted
	terminating []*corev1.Pod
	ended       []*corev1.Pod // newly: to be counted
	history     []*corev1.Pod // every pod that is still there and over
	failedNow   int
	now         time.Time
}

func (c *jobs) reconcile(t *turn, name string) error {
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
		if err := c.letGo(t, r.ended); err != nil {
			return err
		}
		return c.expire(t, job)
	}
	verdict := r.count()
	if err := c.letGo(t, r.ended); err != nil {
		return err
	}
	c.backOff(name, r)
	if err := c.decide(t, r, verdict); err != nil {
		return err
	}
	return c.report(t, r)
}

// look sorts a Job's pods.
func (c *jobs) look(t *turn, job *batchv1.Job) (*run, error) {
	r := &run{job: job, status: job.Status.DeepCopy(), now: t.now}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, err
	}
	for _, pod := range owned[*corev1.Pod](t, api.Pods, job) {
		switch tracked := slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer); {
		case !selector.Matches(labels.Set(pod.Labels)):
			if err := c.letGo(t, []*corev1.Pod{pod}); err != nil {
				return nil, err
			}
		case podOver(pod):
			if r.history = append(r.history, pod); tracked {
				r.ended = append(r.ended, pod)
			}
		case pod.DeletionTimestamp != nil:
			r.terminating = append(r.terminating, pod)
		default:
			r.active = append(r.active, pod)
		}
	}
	return r, nil
}

// podOver tells that nothing of a pod runs any more: it has ended, or it was deleted and its node is done with it.
func podOver(pod *corev1.Pod) bool {
	return podEnded(pod) || pod.DeletionTimestamp != nil && (pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds == 0)
}

// letGo takes the Job's finalizer off pods.
func (c *jobs) letGo(t *turn, pods []*corev1.Pod) error {
	for _, pod := range pods {
		i := slices.Index(pod.Finalizers, batchv1.JobTrackingFinalizer)
		if i < 0 {
			continue
		}
		free := api.Copy(pod)
		free.Finalizers = slices.Delete(free.Finalizers, i, i+1)
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

func (c *jobs) backOff(name string, r *run) {
	b := c.failing[name]
	for _, pod := range r.ended {
		if pod.Status.Phase == corev1.PodSucceeded {
			b = backoff{}
		}
	}
	if r.failedNow > 0 {
		b.times += r.failedNow
		b.last = r.now
	}
	if b.times == 0 {
		delete(c.failing, name)
		return
	}
	c.failing[name] = b
}

// wait is how long no pod is to be made after the last failure.
func (b backoff) wait(now time.Time) time.Duration {
	if b.times == 0 {
		return 0
	}
	pause := jobBackoff
	for n := 1; n < b.times && pause < jobBackoffMost; n++ {
		pause *= 2
	}
	return b.last.Add(min(pause, jobBackoffMost)).Sub(now)
}

// decide does what the Job's state asks for: end it, pause it, or keep the wanted number of pods.
func (c *jobs) decide(t *turn, r *run, verdict *verdict) error {
	if verdict == nil {
		verdict = r.judge()
	}
	switch {
	case verdict != nil:
		return c.end(t, r, *verdict)
	case suspended(r.job):
		return c.pause(t, r)
	}
	if r.status.StartTime == nil {
		now := metav1.NewTime(t.now.Truncate(time.Second))
		r.status.StartTime = &now
	}
	if cond := jobCondition(r.status, batchv1.JobSuspended); cond != nil && cond.Status == corev1.ConditionTrue {
		r.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		if err := t.record(r.job, happening{component: jobComponent, reason: "Resumed", message: "Job resumed"}); err != nil {
			return err
		}
	}
	if at, ok := r.deadline(); ok {
		t.later(c, api.Name(r.job), at)
	}
	return c.staff(t, r)
}

// end writes down how a Job ends, deletes what still runs and, when that is over, ends it.
func (c *jobs) end(t *turn, r *run, v verdict) error {
	interim, final := batchv1.JobSuccessCriteriaMet, batchv1.JobComplete
	if v.failed {
		interim, final = batchv1.JobFailureTarget, batchv1.JobFailed
	}
	if r.set(interim, corev1.ConditionTrue, v.reason, v.message); len(r.active) > 0 {
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

// dismiss deletes pods that still run.
func (c *jobs) dismiss(t *turn, r *run, pods []*corev1.Pod) error {
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
