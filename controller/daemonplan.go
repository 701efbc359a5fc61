package controller

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// daemonPlan is the next step of a DaemonSet: nodes that get a pod, pods that go.
type daemonPlan struct {
	create []string
	delete []*corev1.Pod
}

// planDaemons decides the next step. An old pod that is not available goes first, for it costs nothing.
func planDaemons(ds *appsv1.DaemonSet, hosts []*host) (p daemonPlan) {
	var willing []*host // with an old pod that serves and can be replaced
	surge, unavailable := daemonBounds(ds, hosts)
	rolls := ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType
	for _, x := range hosts {
		if x.run && !x.available {
			unavailable--
		}
		if x.fresh != nil && x.old != nil {
			surge--
		}
		p.delete = append(p.delete, x.surplus...)
		if rolls && x.replaceable() {
			willing = append(willing, x)
			continue
		}
		p.tend(x, rolls)
	}
	for _, x := range willing {
		switch {
		case surge > 0 && x.run:
			p.create = append(p.create, x.node.Name)
			surge--
		case !surges(ds) && unavailable > 0:
			p.delete = append(p.delete, x.old)
			unavailable--
		}
	}
	return p
}

// replaceable tells that the node has an old pod that serves, and no new one yet.
func (x *host) replaceable() bool { return x.keep && x.old != nil && x.fresh == nil && x.available }

// tend does for one node what no bound forbids.
func (p *daemonPlan) tend(x *host, rolls bool) {
	switch {
	case !x.keep:
		p.delete = appendPods(p.delete, x.fresh, x.old)
	case x.fresh == nil && x.old == nil:
		if x.run && !x.ending {
			p.create = append(p.create, x.node.Name)
		}
	case x.fresh != nil && x.old != nil: // a surge
		if x.freshAvailable || !podReady(x.old) {
			p.delete = append(p.delete, x.old)
		}
	case x.old != nil && rolls: // not available
		p.delete = append(p.delete, x.old)
	}
}

func appendPods(all []*corev1.Pod, pods ...*corev1.Pod) []*corev1.Pod {
	for _, p := range pods {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// surges tells that new pods start before the old ones end.
func surges(ds *appsv1.DaemonSet) bool {
	r := ds.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxSurge == nil {
		return false
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxSurge, 100, true)
	return err == nil && n > 0
}

// daemonBounds resolves how many pods may be there beyond one on each node, and how many may be missing.
func daemonBounds(ds *appsv1.DaemonSet, hosts []*host) (surge, unavailable int) {
	n := 0
	for _, x := range hosts {
		if x.run {
			n++
		}
	}
	r := ds.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 0, 0
	}
	if r.MaxSurge != nil {
		surge, _ = intstr.GetScaledValueFromIntOrPercent(r.MaxSurge, n, true)
	}
	if r.MaxUnavailable != nil {
		unavailable, _ = intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, n, true)
	}
	return surge, unavailable
}

// daemonTolerations are what each daemon pod tolerates besides what its template says: Kubernetes' list.
func daemonTolerations(hostNetwork bool) []corev1.Toleration {
	tolerate := func(key string, effect corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
	}
	all := []corev1.Toleration{
		tolerate(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute), tolerate(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute),
		tolerate(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule), tolerate(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule),
		tolerate(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule), tolerate(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule),
	}
	if hostNetwork {
		all = append(all, tolerate(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule))
	}
	return all
}

// daemonPod is a DaemonSet's pod for a node: the scheduler places it, by an affinity that only this node meets.
func daemonPod(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	return podFrom(&ds.Spec.Template, ds, func(pod *corev1.Pod) {
		pod.Labels = with(pod.Labels, appsv1.ControllerRevisionHashLabelKey, hash)
		for _, tol := range daemonTolerations(pod.Spec.HostNetwork) {
			if !slices.Contains(pod.Spec.Tolerations, tol) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, tol)
			}
		}
		bind(&pod.Spec, node)
	})
}

// bind adds to every way in which a pod may choose its node that the node has this name.
func bind(spec *corev1.PodSpec, node string) {
	named := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	a := spec.Affinity.NodeAffinity
	if a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
	}
	terms := a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range terms {
		terms[i].MatchFields = append(terms[i].MatchFields, named)
	}
}

// daemonNode is the node that a daemon pod is on, or is meant for.
func daemonNode(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// daemonFits tells whether a daemon pod is to run on a node, and whether one that is there may stay.
func daemonFits(pod *corev1.Pod, node *corev1.Node) (run, keep bool) {
	if fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !fits {
		return false, false
	}
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name || node.DeletionTimestamp != nil {
		return false, false
	}
	run, keep = true, true
	for _, taint := range node.Spec.Taints {
		ok := slices.ContainsFunc(pod.Spec.Tolerations, func(tol corev1.Toleration) bool { return tolerates(tol, taint) })
		switch {
		case ok || taint.Effect == corev1.TaintEffectPreferNoSchedule:
		case taint.Effect == corev1.TaintEffectNoExecute:
			return false, false
		default:
			run = false
		}
	}
	return run, keep
}
