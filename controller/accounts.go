package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// accounts gives each namespace its ServiceAccount default and the ConfigMap with the certificate to trust, and makes them again
// when they are deleted or changed.
//
// Work is named after the namespace.
type accounts struct{}

const (
	caKey         = "ca.crt"
	caDescription = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the " +
		"internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

func (c *accounts) touched(t *turn, ev store.Event) {
	switch obj := ev.Object.(type) {
	case *corev1.Namespace:
		if ev.Old == nil && ev.Type != store.Deleted {
			t.todo(c, obj.Name)
		}
	case *corev1.ServiceAccount:
		if ev.Type == store.Deleted && obj.Name == api.DefaultServiceAccount {
			t.todo(c, obj.Namespace)
		}
	case *corev1.ConfigMap:
		if obj.Name == api.RootCA && t.by != controller(c) {
			t.todo(c, obj.Namespace)
		}
	}
}

func (c *accounts) reconcile(t *turn, name string) error {
	ns, ok := find[*corev1.Namespace](t, api.Namespaces, "", name)
	if !ok || ns.DeletionTimestamp != nil {
		return nil
	}
	if _, ok := find[*corev1.ServiceAccount](t, api.ServiceAccounts, name, api.DefaultServiceAccount); !ok {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: api.DefaultServiceAccount}}
		if err := t.create(account); err != nil {
			return err
		}
	}
	if t.engine.o.RootCA == "" {
		return nil
	}
	data := map[string]string{caKey: t.engine.o.RootCA}
	old, ok := find[*corev1.ConfigMap](t, api.ConfigMaps, name, api.RootCA)
	switch {
	case !ok:
		return t.create(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: name, Name: api.RootCA, Annotations: map[string]string{"kubernetes.io/description": caDescription},
			},
			Data: data,
		})
	case len(old.Data) == 1 && old.Data[caKey] == t.engine.o.RootCA && len(old.BinaryData) == 0:
		return nil
	}
	mended := api.Copy(old)
	mended.Data, mended.BinaryData = data, nil
	return t.update(mended)
}

// admit gives a pod that a controller makes what the API server's admission gives to everybody else's: its ServiceAccount with what
// that brings, its priority, and the amounts that LimitRanges give.
func (t *turn) admitPod(pod *corev1.Pod) error {
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = api.DefaultServiceAccount
	}
	pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount = name, name
	account, ok := find[*corev1.ServiceAccount](t, api.ServiceAccounts, pod.Namespace, name)
	if !ok && name != api.DefaultServiceAccount {
		return apierrors.NewForbidden(api.Pods.GroupResource(), pod.Name,
			fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found", pod.Namespace, name, name))
	}
	api.UseServiceAccount(pod, account, t.engine.o.MountTokens)
	api.TolerateLostNodes(pod, Toleration(t.engine.o.NodeGrace))
	if err := api.UsePriorityClass(pod, query[*schedulingv1.PriorityClass](t, api.PriorityClasses, store.Query{})); err != nil {
		return err
	}
	for _, l := range query[*corev1.LimitRange](t, api.LimitRanges, store.Query{Namespace: pod.Namespace}) {
		api.ApplyLimits(l, pod)
	}
	return nil
}
