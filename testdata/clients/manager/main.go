// Command manager is an operator as teams write them, on controller-runtime: for every Service labelled describe=yes it keeps a
// ConfigMap of the same name that it owns and that says where the Service is. It uses what operators use: leader election, a
// cached client with an index, watches of owned and of other objects, patches, a status subresource, a finalizer.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	finalizer = "kubarium.dev/describe" // holds a Service until the ConfigMap "gone" has noted its end
	bySetting = "spec.setting"          // the index: Services by the ConfigMap whose text they quote
	setting   = "setting"               // the annotation that is indexed
)

type describer struct {
	client.Client
	id string
}

func main() {
	id := flag.String("id", "manager", "written into what this process makes")
	flag.Parse()
	ctrl.SetLogger(zap.New())
	if err := run(ctrl.SetupSignalHandler(), *id); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, id string) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	lease, renew, retry := 2*time.Second, 1500*time.Millisecond, 200*time.Millisecond // short, as a test waits for it
	m, err := ctrl.NewManager(config, ctrl.Options{
		LeaderElection: true, LeaderElectionID: "describer", LeaderElectionNamespace: "default",
		LeaseDuration: &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		Metrics: server.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	quoted := func(o client.Object) []string { return []string{o.GetAnnotations()[setting]} }
	if err := m.GetFieldIndexer().IndexField(ctx, &corev1.Service{}, bySetting, quoted); err != nil {
		return err
	}
	d := &describer{Client: m.GetClient(), id: id}
	marked, err := predicate.LabelSelectorPredicate(metav1.LabelSelector{MatchLabels: map[string]string{"describe": "yes"}})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(m).
		For(&corev1.Service{}, builder.WithPredicates(marked)).
		Owns(&corev1.ConfigMap{}).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(d.quoting)).
		Complete(d)
	if err != nil {
		return err
	}
	return m.Start(ctx)
}

// quoting lists the Services that quote a ConfigMap, from the cache's index.
func (d *describer) quoting(ctx context.Context, o client.Object) []reconcile.Request {
	var list corev1.ServiceList
	if err := d.List(ctx, &list, client.InNamespace(o.GetNamespace()), client.MatchingFields{bySetting: o.GetName()}); err != nil {
		return nil
	}
	var all []reconcile.Request
	for i := range list.Items {
		all = append(all, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return all
}

func (d *describer) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	var s corev1.Service
	if err := d.Get(ctx, r.NamespacedName, &s); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if s.DeletionTimestamp != nil {
		return ctrl.Result{}, d.end(ctx, &s)
	}
	if before := s.DeepCopy(); controllerutil.AddFinalizer(&s, finalizer) {
		if err := d.Patch(ctx, &s, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return ctrl.Result{}, err
		}
	}
	text, err := d.quote(ctx, &s)
	if err != nil {
		return ctrl.Result{}, err
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace}}
	_, err = controllerutil.CreateOrUpdate(ctx, d.Client, cm, func() error {
		cm.Data = map[string]string{"address": s.Spec.ClusterIP, "by": d.id, "quote": text}
		return controllerutil.SetControllerReference(&s, cm, d.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	done := metav1.Condition{Type: "Described", Status: metav1.ConditionTrue, Reason: d.id, ObservedGeneration: s.Generation}
	if meta.SetStatusCondition(&s.Status.Conditions, done) {
		return ctrl.Result{}, d.Status().Update(ctx, &s)
	}
	return ctrl.Result{}, nil
}

// quote is the text of the ConfigMap that a Service names.
func (d *describer) quote(ctx context.Context, s *corev1.Service) (string, error) {
	var cm corev1.ConfigMap
	err := d.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: s.Annotations[setting]}, &cm)
	return cm.Data["text"], client.IgnoreNotFound(err)
}

// end notes by a server-side apply that a Service is going, and lets it go.
func (d *describer) end(ctx context.Context, s *corev1.Service) error {
	before := s.DeepCopy()
	if !controllerutil.RemoveFinalizer(s, finalizer) {
		return nil
	}
	gone := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "gone", Namespace: s.Namespace},
		Data:       map[string]string{s.Name: d.id},
	}
	if err := d.Patch(ctx, gone, client.Apply, client.FieldOwner("describer-"+s.Name), client.ForceOwnership); err != nil {
		return err
	}
	return client.IgnoreNotFound(d.Patch(ctx, s, client.MergeFrom(before)))
}
