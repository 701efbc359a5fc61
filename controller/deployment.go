package controller

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const deploymentComponent = "deployment-controller"

// deployments rolls each Deployment's pods over to its newest template.
type deployments struct{}

func (c *deployments) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.Deployments:
		if ev.Type != store.Deleted {
			t.todo(c, api.Name(ev.Object))
		}
	case api.ReplicaSets:
		for _, rs := range states[*appsv1.ReplicaSet](ev) {
			if ref := metav1.GetControllerOf(rs); ref != nil && ref.Kind == api.Deployments.Kind {
				t.todo(c, rs.Namespace+"/"+ref.Name)
			}
		}
	case api.Pods:
		if ev.Type == store.Deleted || podEnded(ev.Object.(*corev1.Pod)) {
			c.podGone(t, ev.Object.(*corev1.Pod))
		}
	}
}

// podGone looks again at a Deployment that may have waited for the pod's end (Recreate).
func (c *deployments) podGone(t *turn, pod *corev1.Pod) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil || ref.Kind != api.ReplicaSets.Kind {
		return
	}
	if rs, ok := find[*appsv1.ReplicaSet](t, api.ReplicaSets, pod.Namespace, ref.Name); ok {
		if up := metav1.GetControllerOf(rs); up != nil && up.Kind == api.Deployments.Kind {
			t.todo(c, rs.Namespace+"/"+up.Name)
		}
	}
}

func (c *deployments) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	d, ok := find[*appsv1.Deployment](t, api.Deployments, namespace, plain)
	if !ok {
		return nil
	}
	r, err := c.look(t, d)
	if err != nil || d.DeletionTimestamp != nil {
		return err
	}
	if c.mayBegin(r) {
		if r.current, err = c.createSet(t, r); err != nil {
			return c.notCreated(t, r, err)
		}
	}
	steps := planScale(r)
	for _, s := range steps {
		if err := c.scale(t, r, s); err != nil {
			return err
		}
	}
	if len(steps) == 0 && (settled(r) || d.Spec.Paused) {
		if err := c.forget(t, r); err != nil {
			return err
		}
	}
	if r, err = c.look(t, d); err != nil {
		return err
	}
	return c.report(t, r)
}

// mayBegin tells that the ReplicaSet of the newest template is missing and is to be made now: after a change of size is dealt with,
// and, under Recreate, after the old pods have ended.
func (c *deployments) mayBegin(r rollout) bool {
	if r.current != nil || r.deployment.Spec.Paused || resized(r) {
		return false
	}
	return r.deployment.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || !r.oldPods && total(r.old) == 0
}

// look gathers a rollout, and sets ReplicaSets free that the selector matches no longer.
func (c *deployments) look(t *turn, d *appsv1.Deployment) (rollout, error) {
	r := rollout{deployment: d}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return r, err
	}
	for _, rs := range owned[*appsv1.ReplicaSet](t, api.ReplicaSets, d) {
		if !selector.Matches(labels.Set(rs.Labels)) {
			if err := release(t, rs, d); err != nil {
				return r, err
			}
			continue
		}
		r.old = append(r.old, rs)
	}
	slices.SortStableFunc(r.old, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(revisionOf(a), revisionOf(b)))
	})
	if i := slices.IndexFunc(r.old, func(rs *appsv1.ReplicaSet) bool { return sameTemplate(&rs.Spec.Template, &d.Spec.Template) }); i >= 0 {
		r.current = r.old[i]
		r.old = slices.Delete(r.old, i, i+1)
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		r.oldPods = slices.ContainsFunc(r.old, func(rs *appsv1.ReplicaSet) bool {
			return slices.ContainsFunc(owned[*corev1.Pod](t, api.Pods, rs), func(p *corev1.Pod) bool { return !podEnded(p) })
		})
	}
	return r, nil
}

// sameTemplate compares templates but for the label that tells ReplicaSets apart.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(x, y)
}

// templateHash names a template as Kubernetes does.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%v", dump.ForHash(*template))
	if collisions != nil {
		_, _ = fmt.Fprintf(sum, "%s", littleEndian(uint32(*collisions)))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(sum.Sum32()), 10))
}

func littleEndian(n uint32) []byte {
	return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), 0, 0, 0, 0}
}

// createSet makes the ReplicaSet of the newest template, at the size that the strategy allows at once.
func (c *deployments) createSet(t *turn, r rollout) (*appsv1.ReplicaSet, error) {
	d := r.deployment
	size := wanted(d.Spec.Replicas)
	if d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		size = rollingSize(r)
	}
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, api.Deployments.GroupVersionKind())},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &size, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	annotate(rs, r)
	if _, taken := find[*appsv1.ReplicaSet](t, api.ReplicaSets, rs.Namespace, rs.Name); taken {
		return nil, c.collide(t, d)
	}
	if err := t.create(rs); err != nil {
		return nil, err
	}
	if size > 0 {
		if err := c.tell(t, d, fmt.Sprintf("Scaled up replica set %s from 0 to %d", rs.Name, size)); err != nil {
			return nil, err
		}
	}
	return rs, nil
}

// notCreated says that the newest template's ReplicaSet was refused.
func (c *deployments) notCreated(t *turn, r rollout, err error) error {
	if !forbidden(err) {
		return err
	}
	d := r.deployment
	t.engine.barred.note(c, d)
	message := fmt.Sprintf("Failed to create new replica set %q: %v", d.Name+"-"+templateHash(&d.Spec.Template, d.Status.CollisionCount), err)
	if hasDeadline(d) {
		next := api.Copy(d)
		next.Status.Conditions = slices.Clone(d.Status.Conditions)
		setCondition(&next.Status, appsv1.DeploymentCondition{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: reasonNotCreated, Message: message,
		}, t.now)
		if err := t.update(next); err != nil {
			return err
		}
	}
	return t.record(d, happening{component: deploymentComponent, warning: true, reason: reasonNotCreated, message: message})
}

// collide counts a template hash that another ReplicaSet has already, so that the next try takes another name.
func (c *deployments) collide(t *turn, d *appsv1.Deployment) error {
	next := api.Copy(d)
	var n int32
	if d.Status.CollisionCount != nil {
		n = *d.Status.CollisionCount
	}
	n++
	next.Status.CollisionCount = &n
	if err := t.update(next); err != nil {
		return err
	}
	return fmt.Errorf("the name of a ReplicaSet of Deployment %s is taken: collision %d", api.Name(d), n)
}

func with(m map[string]string, key, value string) map[string]string {
	c := maps.Clone(m)
	if c == nil {
		c = map[string]string{}
	}
	c[key] = value
	return c
}

func (c *deployments) tell(t *turn, d *appsv1.Deployment, message string) error {
	return t.record(d, happening{component: deploymentComponent, reason: "ScalingReplicaSet", message: message})
}

// scale gives a ReplicaSet its size, and writes down what it was sized for.
func (c *deployments) scale(t *turn, r rollout, s scaling) error {
	before := *s.set.Spec.Replicas
	rs := api.Copy(s.set)
	rs.Spec.Replicas = &s.replicas
	annotateSize(rs, r.deployment)
	if err := t.update(rs); err != nil || before == s.replicas {
		return err
	}
	direction := "up"
	if s.replicas < before {
		direction = "down"
	}
	return c.tell(t, r.deployment, fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, before, s.replicas))
}

// notCopied are annotations of a Deployment that do not concern its ReplicaSets.
var notCopied = []string{corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation, desiredAnnotation, maxReplicasAnnotation, appsv1.DeprecatedRollbackTo}

func annotateSize(rs *appsv1.ReplicaSet, d *appsv1.Deployment) {
	surge, _ := fenceposts(d)
	want := int(wanted(d.Spec.Replicas))
	rs.Annotations = with(rs.Annotations, desiredAnnotation, strconv.Itoa(want))
	rs.Annotations[maxReplicasAnnotation] = strconv.Itoa(want + int(surge))
}

// annotate brings the current ReplicaSet's annotations up to date: the Deployment's, its revision (one above all others), and
// the revisions it had before, when it was rolled back to.
func annotate(rs *appsv1.ReplicaSet, r rollout) {
	revision := int64(1)
	for _, o := range r.old {
		revision = max(revision, revisionOf(o)+1)
	}
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range r.deployment.Annotations {
		if !slices.Contains(notCopied, k) {
			rs.Annotations[k] = v
		}
	}
	if was := revisionOf(rs); was < revision {
		if was > 0 {
			past := rs.Annotations[revisionHistoryAnnotation]
			rs.Annotations[revisionHistoryAnnotation] = strings.TrimPrefix(past+","+strconv.FormatInt(was, 10), ",")
		}
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
	}
	if rs.Annotations[desiredAnnotation] == "" {
		annotateSize(rs, r.deployment)
	}
	rs.Spec.MinReadySeconds = r.deployment.Spec.MinReadySeconds
}

// revisionOf is a ReplicaSet's place in the history; 0 without one.
func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// settled tells that the rollout is done, so that history may be cut.
func settled(r rollout) bool {
	return r.current != nil && total(r.old) == 0 && available(r.current) == wanted(r.deployment.Spec.Replicas)
}

// forget deletes the oldest empty ReplicaSets beyond the history that is kept.
func (c *deployments) forget(t *turn, r rollout) error {
	limit := r.deployment.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	past := slices.Clone(r.old)
	slices.SortStableFunc(past, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	for i := 0; i < len(past)-int(*limit); i++ {
		if rs := past[i]; rs.Status.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration && rs.DeletionTimestamp == nil {
			if err := t.delete(rs, store.DeleteOptions{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// report writes the Deployment's status and revision, and the current ReplicaSet's annotations.
func (c *deployments) report(t *turn, r rollout) error {
	d := api.Copy(r.deployment)
	if r.current != nil {
		rs := api.Copy(r.current)
		annotate(rs, r)
		if err := t.update(rs); err != nil {
			return err
		}
		d.Annotations = with(d.Annotations, revisionAnnotation, rs.Annotations[revisionAnnotation])
	}
	d.Status = planStatus(r, t.now)
	if p := condition(d.Status, appsv1.DeploymentProgressing); p != nil && p.Status == corev1.ConditionTrue && p.Reason != reasonComplete {
		if at := deadline(d, p); at.After(t.now) {
			t.later(c, api.Name(d), at)
		}
	}
	return t.update(d)
}
