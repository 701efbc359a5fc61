package apiserver

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	amount "k8s.io/apimachinery/pkg/api/resource"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// applyLimits gives a new pod the amounts that its namespace's LimitRanges give to whoever states none.
func (s *Server) applyLimits(c *call, obj api.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	ranges, err := s.store.List(c.r.Context(), api.LimitRanges, store.Query{Namespace: pod.Namespace})
	if err != nil {
		return err
	}
	for _, l := range ranges.Items {
		api.ApplyLimits(l.(*corev1.LimitRange), pod)
	}
	return nil
}

// admitQuota refuses obj, the successor of old (nil for a new one), when it takes more than a ResourceQuota of its namespace
// leaves. It counts inside the transaction that writes, so that two writers cannot both take the last of something, and keeps
// the quota's status in step.
func admitQuota(tx *store.Tx, obj, old api.Object) error {
	if obj.GetNamespace() == "" || api.KindOf(obj) == api.Events {
		return nil
	}
	for _, q := range tx.List(api.ResourceQuotas, store.Query{Namespace: obj.GetNamespace()}) {
		quota := q.(*corev1.ResourceQuota)
		asked := api.QuotaUsed(quota.Spec.Hard, obj)
		if old != nil {
			for name, had := range api.QuotaUsed(quota.Spec.Hard, old) {
				more := asked[name]
				more.Sub(had)
				asked[name] = more
			}
		}
		if pod, ok := obj.(*corev1.Pod); ok && old == nil {
			if missing := api.QuotaMissing(quota.Spec.Hard, pod); len(missing) > 0 {
				slices.Sort(missing)
				return forbidden(obj, "failed quota: %s: must specify %s", quota.Name, strings.Join(missing, "; "))
			}
		}
		if err := chargeQuota(tx, quota, obj, asked); err != nil {
			return err
		}
	}
	return nil
}

// chargeQuota adds what was asked of a quota to what is used, unless that is too much.
func chargeQuota(tx *store.Tx, quota *corev1.ResourceQuota, obj api.Object, asked corev1.ResourceList) error {
	used := quotaUsage(tx, quota)
	var over []corev1.ResourceName
	for name, more := range asked {
		hard, total := quota.Spec.Hard[name], used[name].DeepCopy()
		total.Add(more)
		if more.Sign() > 0 && total.Cmp(hard) > 0 {
			over = append(over, name)
		}
	}
	if len(over) > 0 {
		slices.Sort(over)
		return forbidden(obj, "exceeded quota: %s, requested: %s, used: %s, limited: %s", quota.Name,
			amounts(over, asked), amounts(over, used), amounts(over, quota.Spec.Hard))
	}
	for name, more := range asked {
		total := used[name].DeepCopy()
		total.Add(more)
		used[name] = total
	}
	next := api.Copy(quota)
	next.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard.DeepCopy(), Used: used}
	return tx.Update(next)
}

// quotaUsage counts everything in a quota's namespace.
func quotaUsage(tx *store.Tx, quota *corev1.ResourceQuota) corev1.ResourceList {
	used := corev1.ResourceList{}
	for name := range quota.Spec.Hard {
		used[name] = *amount.NewQuantity(0, amount.DecimalSI)
	}
	for _, k := range api.Kinds {
		if !k.Namespaced || k == api.Events {
			continue
		}
		for _, obj := range tx.List(k, store.Query{Namespace: quota.Namespace}) {
			for name, q := range api.QuotaUsed(quota.Spec.Hard, obj) {
				total := used[name]
				total.Add(q)
				used[name] = total
			}
		}
	}
	return used
}

func amounts(names []corev1.ResourceName, list corev1.ResourceList) string {
	var all []string
	for _, name := range names {
		q := list[name]
		all = append(all, string(name)+"="+q.String())
	}
	return strings.Join(all, ",")
}

func forbidden(obj api.Object, format string, args ...any) error {
	return apierrors.NewForbidden(api.KindOf(obj).GroupResource(), obj.GetName(), fmt.Errorf(format, args...))
}
