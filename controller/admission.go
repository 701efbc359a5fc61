package controller

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// barred is the work of each namespace that was not admitted. It is done again when something changes that admits: a timer would
// only make users wait longer.
type barred map[string]map[barredWork]bool

type barredWork struct {
	by   controller
	name string
}

// touched files the refused work that an event may make possible.
func (b barred) touched(t *turn, ev store.Event) {
	if len(b) == 0 || filled(ev) {
		return
	}
	switch ev.Kind {
	case api.ResourceQuotas, api.LimitRanges, api.ServiceAccounts:
		for work := range b[ev.Object.GetNamespace()] {
			t.todo(work.by, work.name)
		}
		delete(b, ev.Object.GetNamespace())
	}
}

// filled tells that a quota has no more room than before.
func filled(ev store.Event) bool {
	quota, ok := ev.Object.(*corev1.ResourceQuota)
	was, modified := ev.Old.(*corev1.ResourceQuota)
	if !ok || !modified || ev.Type != store.Modified || !equality.Semantic.DeepEqual(was.Spec, quota.Spec) {
		return false
	}
	for name, used := range quota.Status.Used {
		if before, counted := was.Status.Used[name]; counted && used.Cmp(before) < 0 {
			return false
		}
	}
	return true
}

// note keeps the work that was refused.
func (b barred) note(by controller, owner api.Object) {
	ns := owner.GetNamespace()
	if b[ns] == nil {
		b[ns] = map[barredWork]bool{}
	}
	b[ns][barredWork{by, api.Name(owner)}] = true
}

// forbidden tells that an error is the answer to what was asked for, and asking again is of no use.
func forbidden(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) }

// turnedAway sorts the error of making owner's pod: it tells the users of a failure to be admitted, has the work done again when
// that may have changed, and hands other errors back.
func (t *turn) turnedAway(owner api.Object, component string, err error) (failure, other error) {
	if !forbidden(err) {
		return nil, err
	}
	t.engine.barred.note(t.by, owner)
	return err, t.record(owner, happening{
		component: component, warning: true, reason: "FailedCreate", message: "Error creating: " + err.Error(), topic: "pods",
	})
}

// admit does to an object of a controller what the API server does to a client's before it is written.
func (t *turn) admit(obj api.Object) error {
	if pod, ok := obj.(*corev1.Pod); ok {
		if err := t.admitPod(pod); err != nil {
			return err
		}
	}
	if t.engine.o.Admit == nil {
		return nil
	}
	base := obj.GetGenerateName()
	if base == "" || obj.GetName() != "" {
		return t.engine.o.Admit(t.tx, obj)
	}
	obj.SetName(base[:min(len(base), longestPrefix)] + rand.String(5)) // a refusal tells a name; the store gives the one that lasts
	if err := t.engine.o.Admit(t.tx, obj); err != nil {
		return err
	}
	obj.SetName("")
	return nil
}

// replicaFailure files why a ReplicaSet's pods are missing; the first reason stays until none is missing for it.
func replicaFailure(conditions []appsv1.ReplicaSetCondition, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	var next []appsv1.ReplicaSetCondition
	for _, c := range conditions {
		if c.Type != appsv1.ReplicaSetReplicaFailure {
			next = append(next, c)
		} else if failure != nil {
			return conditions
		}
	}
	if failure == nil {
		return next
	}
	return append(next, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: failure.Error(),
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	})
}
