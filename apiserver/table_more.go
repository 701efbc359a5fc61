package apiserver

import (
	"cmp"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
)

var secretColumns = []column{
	text("Type", func(s *corev1.Secret) string { return string(s.Type) }),
	number("Data", func(s *corev1.Secret) int64 { return int64(len(s.Data)) }),
	ageColumn,
}

var quotaColumns = []column{
	text("Request", func(q *corev1.ResourceQuota) string {
		return quotaText(q, func(name string) bool { return !strings.HasPrefix(name, "limits.") })
	}),
	text("Limit", func(q *corev1.ResourceQuota) string {
		return quotaText(q, func(name string) bool { return strings.HasPrefix(name, "limits.") })
	}),
	ageColumn,
}

// quotaText is how much is used of what a quota bounds, of the resources chosen.
func quotaText(q *corev1.ResourceQuota, chosen func(string) bool) string {
	var all []string
	for name, hard := range q.Status.Hard {
		if used := q.Status.Used[name]; chosen(string(name)) {
			all = append(all, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
		}
	}
	sort.Strings(all)
	return strings.Join(all, ", ")
}

var daemonSetColumns = []column{
	number("Desired", func(d *appsv1.DaemonSet) int64 { return int64(d.Status.DesiredNumberScheduled) }),
	number("Current", func(d *appsv1.DaemonSet) int64 { return int64(d.Status.CurrentNumberScheduled) }),
	number("Ready", func(d *appsv1.DaemonSet) int64 { return int64(d.Status.NumberReady) }),
	number("Up-to-date", func(d *appsv1.DaemonSet) int64 { return int64(d.Status.UpdatedNumberScheduled) }),
	number("Available", func(d *appsv1.DaemonSet) int64 { return int64(d.Status.NumberAvailable) }),
	text("Node Selector", func(d *appsv1.DaemonSet) string { return labels.FormatLabels(d.Spec.Template.Spec.NodeSelector) }),
	ageColumn,
	wide("Containers", func(d *appsv1.DaemonSet) string { return containerNames(d.Spec.Template.Spec.Containers) }),
	wide("Images", func(d *appsv1.DaemonSet) string { return containerImages(d.Spec.Template.Spec.Containers) }),
	wide("Selector", func(d *appsv1.DaemonSet) string { return selectorText(d.Spec.Selector) }),
}

var statefulSetColumns = []column{
	text("Ready", func(s *appsv1.StatefulSet) string {
		return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, value(s.Spec.Replicas))
	}),
	ageColumn,
	wide("Containers", func(s *appsv1.StatefulSet) string { return containerNames(s.Spec.Template.Spec.Containers) }),
	wide("Images", func(s *appsv1.StatefulSet) string { return containerImages(s.Spec.Template.Spec.Containers) }),
}

var revisionColumns = []column{
	text("Controller", func(r *appsv1.ControllerRevision) string {
		ref := metav1.GetControllerOf(r)
		if ref == nil {
			return "<none>"
		}
		group, _, grouped := strings.Cut(ref.APIVersion, "/")
		if grouped {
			return strings.ToLower(ref.Kind) + "." + group + "/" + ref.Name
		}
		return strings.ToLower(ref.Kind) + "/" + ref.Name
	}),
	number("Revision", func(r *appsv1.ControllerRevision) int64 { return r.Revision }),
	ageColumn,
}

var jobColumns = []column{
	text("Status", jobStatus),
	text("Completions", jobCompletions),
	{name: "Duration", kind: "string", cell: func(obj api.Object, now time.Time) any { return jobDuration(obj.(*batchv1.Job), now) }},
	ageColumn,
	wide("Containers", func(j *batchv1.Job) string { return containerNames(j.Spec.Template.Spec.Containers) }),
	wide("Images", func(j *batchv1.Job) string { return containerImages(j.Spec.Template.Spec.Containers) }),
	wide("Selector", func(j *batchv1.Job) string { return selectorText(j.Spec.Selector) }),
}

func jobStatus(j *batchv1.Job) string {
	for _, want := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if jobHas(j, want) {
			return string(want)
		}
	}
	switch {
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case jobHas(j, batchv1.JobSuspended):
		return "Suspended"
	case jobHas(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case jobHas(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func jobHas(j *batchv1.Job, t batchv1.JobConditionType) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == t && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func jobCompletions(j *batchv1.Job) string {
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case value(j.Spec.Parallelism) > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

var ingressColumns = []column{
	text("Class", func(in *networkingv1.Ingress) string {
		if c := in.Spec.IngressClassName; c != nil {
			return *c
		}
		return "<none>"
	}),
	text("Hosts", ingressHosts),
	text("Address", func(in *networkingv1.Ingress) string {
		var all []string
		for _, a := range in.Status.LoadBalancer.Ingress {
			if a.IP != "" {
				all = append(all, a.IP)
			} else if a.Hostname != "" {
				all = append(all, a.Hostname)
			}
		}
		return strings.Join(all, ",")
	}),
	text("Ports", func(in *networkingv1.Ingress) string {
		if len(in.Spec.TLS) > 0 {
			return "80, 443"
		}
		return "80"
	}),
	ageColumn,
}

func ingressHosts(in *networkingv1.Ingress) string {
	var all []string
	for _, r := range in.Spec.Rules {
		if len(all) == maxShown {
			return fmt.Sprintf("%s + %d more...", strings.Join(all, ","), len(in.Spec.Rules)-maxShown)
		}
		if r.Host == "" {
			r.Host = "*"
		}
		all = append(all, r.Host)
	}
	if len(all) == 0 {
		return "*"
	}
	return strings.Join(all, ",")
}

var priorityClassColumns = []column{
	number("Value", func(c *schedulingv1.PriorityClass) int64 { return int64(c.Value) }),
	{name: "Global-Default", kind: "boolean", cell: func(obj api.Object, _ time.Time) any {
		return obj.(*schedulingv1.PriorityClass).GlobalDefault
	}},
	ageColumn,
	wide("PreemptionPolicy", func(c *schedulingv1.PriorityClass) string {
		return string(*cmp.Or(c.PreemptionPolicy, new(corev1.PreemptionPolicy)))
	}),
}

var ingressClassColumns = []column{
	text("Controller", func(c *networkingv1.IngressClass) string { return c.Spec.Controller }),
	text("Parameters", func(c *networkingv1.IngressClass) string {
		p := c.Spec.Parameters
		switch {
		case p == nil:
			return "<none>"
		case p.APIGroup != nil:
			return p.Kind + "." + *p.APIGroup + "/" + p.Name
		}
		return p.Kind + "/" + p.Name
	}),
	ageColumn,
}

var policyColumns = []column{
	text("Pod-Selector", func(p *networkingv1.NetworkPolicy) string { return selectorText(&p.Spec.PodSelector) }),
	ageColumn,
}

var serviceCIDRColumns = []column{
	text("CIDRs", func(s *networkingv1.ServiceCIDR) string { return strings.Join(s.Spec.CIDRs, ",") }),
	ageColumn,
}

var ipAddressColumns = []column{
	text("ParentRef", func(a *networkingv1.IPAddress) string {
		p := a.Spec.ParentRef
		if p == nil {
			return "<none>"
		}
		parts := []string{p.Resource}
		if p.Group != "" {
			parts = []string{p.Resource + "." + p.Group}
		}
		if p.Namespace != "" {
			parts = append(parts, p.Namespace)
		}
		return strings.Join(append(parts, p.Name), "/")
	}),
	ageColumn,
}

var budgetColumns = []column{
	text("Min Available", func(b *policyv1.PodDisruptionBudget) string { return orNA(b.Spec.MinAvailable) }),
	text("Max Unavailable", func(b *policyv1.PodDisruptionBudget) string { return orNA(b.Spec.MaxUnavailable) }),
	number("Allowed Disruptions", func(b *policyv1.PodDisruptionBudget) int64 { return int64(b.Status.DisruptionsAllowed) }),
	ageColumn,
}

func orNA(v *intstr.IntOrString) string {
	switch {
	case v == nil:
		return "N/A"
	case v.Type == intstr.String:
		return v.StrVal
	}
	return strconv.Itoa(int(v.IntVal))
}

// createdColumn is how Kubernetes shows when a role was made.
var createdColumn = column{
	name: "Created At", kind: "string", text: ageColumn.text,
	cell: func(obj api.Object, _ time.Time) any { return obj.GetCreationTimestamp().UTC().Format(time.RFC3339) },
}

var roleBindingColumns = append([]column{
	text("Role", func(b *rbacv1.RoleBinding) string { return b.RoleRef.Kind + "/" + b.RoleRef.Name }), ageColumn,
}, subjectColumns(func(b *rbacv1.RoleBinding) []rbacv1.Subject { return b.Subjects })...)

var clusterRoleBindingColumns = append([]column{
	text("Role", func(b *rbacv1.ClusterRoleBinding) string { return b.RoleRef.Kind + "/" + b.RoleRef.Name }), ageColumn,
}, subjectColumns(func(b *rbacv1.ClusterRoleBinding) []rbacv1.Subject { return b.Subjects })...)

// subjectColumns show whom a binding names, by what they are.
func subjectColumns[T api.Object](subjects func(T) []rbacv1.Subject) []column {
	of := func(kind string) func(T) string {
		return func(obj T) string {
			var all []string
			for _, s := range subjects(obj) {
				name := s.Name
				if s.Kind == rbacv1.ServiceAccountKind {
					name = s.Namespace + "/" + name
				}
				if s.Kind == kind {
					all = append(all, name)
				}
			}
			return strings.Join(all, ", ")
		}
	}
	return []column{
		wide("Users", of(rbacv1.UserKind)), wide("Groups", of(rbacv1.GroupKind)), wide("ServiceAccounts", of(rbacv1.ServiceAccountKind)),
	}
}

var leaseColumns = []column{
	text("Holder", func(l *coordinationv1.Lease) string {
		if l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}),
	ageColumn,
}
