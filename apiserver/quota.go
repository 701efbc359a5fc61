package apiserver

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// applyLimits gives a new pod the amounts that its namespace's LimitRanges give to whoever states none.
func (s *Server) applyLimits(c *call, obj api.Object) error {
	return s.eachLimit(c, obj, func(l *corev1.LimitRange, pod *corev1.Pod) error {
		api.ApplyLimits(l, pod)
		return nil
	})
}

// checkLimits refuses a pod that goes against a LimitRange of its namespace.
func (s *Server) checkLimits(c *call, obj api.Object) error {
	return s.eachLimit(c, obj, func(l *corev1.LimitRange, pod *corev1.Pod) error {
		if err := api.CheckLimits(l, pod); err != nil {
			return forbidden(obj, "%w", err)
		}
		return nil
	})
}

// eachLimit does something with each LimitRange of a pod's namespace, until an error; nothing for what is no pod.
func (s *Server) eachLimit(c *call, obj api.Object, do func(*corev1.LimitRange, *corev1.Pod) error) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	ranges, err := s.store.List(c.r.Context(), api.LimitRanges, store.Query{Namespace: pod.Namespace})
	if err != nil {
		return err
	}
	for _, l := range store.All[*corev1.LimitRange](ranges.Items) {
		if err := do(l, pod); err != nil {
			return err
		}
	}
	return nil
}

// Admit refuses a new object that goes against a LimitRange or a ResourceQuota of its namespace, as a client's would be refused; it
// is for those who write to the store themselves, and writes nothing. The object has its defaults and its name.
func Admit(tx *store.Tx, obj api.Object) error {
	if pod, ok := obj.(*corev1.Pod); ok {
		for _, l := range store.All[*corev1.LimitRange](tx.List(api.LimitRanges, store.Query{Namespace: pod.Namespace})) {
			if err := api.CheckLimits(l, pod); err != nil {
				return forbidden(obj, "%w", err)
			}
		}
	}
	_, err := charge(tx, obj, nil)
	return err
}

// admitQuota refuses obj, the successor of old (nil for a new one), when it takes more than a ResourceQuota of its namespace
// leaves. It counts inside the transaction that writes, so that two writers cannot both take the last of something, and keeps
// the quotas' statuses in step.
func admitQuota(tx *store.Tx, obj, old api.Object) error {
	charged, err := charge(tx, obj, old)
	if err != nil {
		return err
	}
	for _, quota := range charged {
		if err := tx.Update(quota); err != nil {
			return err
		}
	}
	return nil
}

// charge is the quotas of obj's namespace as they are with it in old's place, unless it is too much for one of them.
func charge(tx *store.Tx, obj, old api.Object) (charged []*corev1.ResourceQuota, err error) {
	if obj.GetNamespace() == "" || api.KindOf(obj) == api.Events {
		return nil, nil
	}
	for _, q := range tx.List(api.ResourceQuotas, store.Query{Namespace: obj.GetNamespace()}) {
		quota := q.(*corev1.ResourceQuota)
		asked := api.QuotaUsed(&quota.Spec, obj)
		if old != nil {
			for name, had := range api.QuotaUsed(&quota.Spec, old) {
				more := asked[name]
				more.Sub(had)
				asked[name] = more
			}
		}
		if pod, ok := obj.(*corev1.Pod); ok && old == nil {
			if missing := api.QuotaMissing(&quota.Spec, pod); len(missing) > 0 {
				slices.Sort(missing)
				return nil, forbidden(obj, "failed quota: %s: must specify %s", quota.Name, strings.Join(missing, "; "))
			}
		}
		next, err := chargeQuota(tx, quota, obj, asked)
		if err != nil {
			return nil, err
		}
		charged = append(charged, next)
	}
	return charged, nil
}

// chargeQuota adds what was asked of a quota to what is used, unless that is too much.
func chargeQuota(tx *store.Tx, quota *corev1.ResourceQuota, obj api.Object, asked corev1.ResourceList) (*corev1.ResourceQuota, error) {
	used := api.QuotaStatus(quota, within(tx, quota.Namespace)).Used
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
		return nil, forbidden(obj, "exceeded quota: %s, requested: %s, used: %s, limited: %s", quota.Name,
			amounts(over, asked), amounts(over, used), amounts(over, quota.Spec.Hard))
	}
	for name, more := range asked {
		total := used[name].DeepCopy()
		total.Add(more)
		used[name] = total
	}
	next := api.Copy(quota)
	next.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard.DeepCopy(), Used: used}
	return next, nil
}

// refreshQuotas counts again what the ResourceQuotas of a namespace bound.
func refreshQuotas(tx *store.Tx, namespace string) error {
	for _, q := range tx.List(api.ResourceQuotas, store.Query{Namespace: namespace}) {
		quota := q.(*corev1.ResourceQuota)
		status := api.QuotaStatus(quota, within(tx, namespace))
		if equality.Semantic.DeepEqual(status, quota.Status) {
			continue
		}
		next := api.Copy(quota)
		next.Status = status
		if err := tx.Update(next); err != nil {
			return err
		}
	}
	return nil
}

// within lists a namespace's objects.
func within(tx *store.Tx, namespace string) func(*api.Kind) []api.Object {
	return func(k *api.Kind) []api.Object { return tx.List(k, store.Query{Namespace: namespace}) }
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
