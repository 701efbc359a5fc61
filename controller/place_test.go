package controller

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// room is nodes for a table of placements: each is described by words, then the pods on it.
//
//	"n1 zone=a cpu=2 gpu=1 | app=db app=web"
func room(descriptions ...string) hall {
	h := hall{labels: func(ns string) labels.Set { return labels.Set{"team": ns} }}
	for _, d := range descriptions {
		what, lodgers, _ := strings.Cut(d, "|")
		words := strings.Fields(what)
		n := node(words[0])
		n.Labels = map[string]string{corev1.LabelHostname: words[0]}
		n.Status.Allocatable = corev1.ResourceList{}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			switch k {
			case "cpu", "memory", "pods", "ephemeral-storage", "example.com/gpu":
				n.Status.Allocatable[corev1.ResourceName(k)] = resource.MustParse(v)
			case "prefer-not":
				n.Spec.Taints = []corev1.Taint{{Key: v, Effect: corev1.TaintEffectPreferNoSchedule}}
			default:
				n.Labels[k] = v
			}
		}
		var pods []*corev1.Pod
		for i, l := range strings.Fields(lodgers) {
			pods = append(pods, guest(fmt.Sprint(words[0], i), strings.Split(l, ",")...))
		}
		h.seats = append(h.seats, newSeat(n, pods))
	}
	return h
}

// guest is a pod with labels and requests: "app=db", "cpu:2", "ns:other", "hates:app=web" for a required anti-affinity to it on a node,
// "likes:app=web" for a preferred affinity.
func guest(name string, words ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name, Labels: map[string]string{}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, ":"); ok {
			switch k {
			case "ns":
				p.Namespace = v
			case "hates":
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{near(v, corev1.LabelHostname)}}}
			case "likes":
				p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 5, PodAffinityTerm: near(v, corev1.LabelHostname)}}}}
			default:
				p.Spec.Containers[0].Resources.Requests[corev1.ResourceName(k)] = resource.MustParse(v)
			}
			continue
		}
		k, v, _ := strings.Cut(w, "=")
		p.Labels[k] = v
	}
	return p
}

// near is an affinity term for pods with a label, by a topology key.
func near(label, key string) corev1.PodAffinityTerm {
	k, v, _ := strings.Cut(label, "=")
	return corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}, TopologyKey: key}
}

func spreadBy(key string, action corev1.UnsatisfiableConstraintAction, edit ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.TopologySpreadConstraint{
			MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: action, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		}
		for _, e := range edit {
			e(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func affinity(terms ...corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
	}
}

func antiAffinity(terms ...corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
	}
}

type placement struct {
	name string
	pod  []string
	edit func(*corev1.Pod)
	room hall
	want string
}

func checkPlacements(t *testing.T, table []placement) {
	t.Helper()
	for _, tc := range table {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pod := guest("new", tc.pod...)
			if tc.edit != nil {
				tc.edit(pod)
			}
			best, _, got := place(pod, tc.room)
			if best != nil {
				got = best.node.Name
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// N-4: what a pod requests is there, or the message says of what there is too little, as kube-scheduler does.
func TestAPodGoesWhereWhatItRequestsIsFree(t *testing.T) {
	t.Parallel()
	checkPlacements(t, []placement{
		{"fits", []string{"cpu:500m"}, nil, room("n1 cpu=1 | cpu:600m", "n2 cpu=1 | cpu:500m"), "n2"},
		{"the emptier by requests", []string{"cpu:500m"}, nil, room("n1 cpu=4 | cpu:3", "n2 cpu=4 | cpu:1 cpu:1"), "n2"},
		{"too little of several", []string{"cpu:2", "memory:3Gi"}, nil, room("n1 cpu=1 memory=4Gi", "n2 cpu=2 memory=1Gi", "n3 cpu=4 memory=4Gi | cpu:3"),
			"0/3 nodes are available: 1 Insufficient memory, 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."},
		{"both on one node count both", []string{"cpu:2", "memory:3Gi"}, nil, room("n1 cpu=1 memory=1Gi"),
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"extended resources", []string{"example.com/gpu:1"}, nil, room("n1", "n2 example.com/gpu=2 | example.com/gpu:1"), "n2"},
		{"no extended resource", []string{"example.com/gpu:1"}, nil, room("n1"),
			"0/1 nodes are available: 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"ephemeral storage", []string{"ephemeral-storage:2Gi"}, nil, room("n1 ephemeral-storage=1Gi", "n2 ephemeral-storage=4Gi"), "n2"},
		{"too many pods, terminating ones among them", nil, nil, func() hall {
			h := room("n1 pods=2 | a=b")
			gone := guest("gone")
			gone.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
			h.seats[0].take(gone)
			return h
		}(), "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"never preempts", []string{"cpu:2"}, func(p *corev1.Pod) {
			never := corev1.PreemptNever
			p.Spec.PreemptionPolicy = &never
		}, room("n1 cpu=1"), "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		{"the greatest init container", nil, func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}}}
		}, room("n1 cpu=1", "n2 cpu=2"), "n2"},
		{"a preference against a node", nil, nil, room("n1 prefer-not=batch", "n2 | a=b c=d"), "n2"},
		{"preferred node affinity", nil, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
				{Weight: 10, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}}},
			}}}
		}, room("n1", "n2 disk=ssd | a=b c=d"), "n2"},
	})
}

// N-4: pods that want each other's company or flee it, by any topology key, across namespaces as they say.
func TestPodsKeepCompanyOrDistance(t *testing.T) {
	t.Parallel()
	const zone = corev1.LabelTopologyZone
	const hopeless = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	const victimless = " preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
	elsewhere := near("app=db", corev1.LabelHostname)
	elsewhere.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "other"}}
	named := near("app=db", corev1.LabelHostname)
	named.Namespaces = []string{"other"}
	version := near("app=web", corev1.LabelHostname)
	version.MatchLabelKeys = []string{"version"}
	checkPlacements(t, []placement{
		{"affinity", nil, affinity(near("app=db", corev1.LabelHostname)), room("n1", "n2 | app=db app=db"), "n2"},
		{"affinity by zone", nil, affinity(near("app=db", zone)), room("n1 "+zone+"=a | app=db", "n2 "+zone+"=b", "n3 "+zone+"=a"), "n3"},
		{"affinity to nobody", nil, affinity(near("app=db", corev1.LabelHostname)), room("n1", "n2"), "0/2 nodes are available: 2 node(s) didn't match pod affinity rules." + hopeless},
		{"affinity to itself: the first may go anywhere", []string{"app=db"}, affinity(near("app=db", corev1.LabelHostname)), room("n1 | a=b", "n2"), "n2"},
		{"affinity without the key", nil, affinity(near("app=db", zone)), room("n1 | app=db", "n2"), "0/2 nodes are available: 2 node(s) didn't match pod affinity rules." + hopeless},
		{"only the own namespace", nil, affinity(near("app=db", corev1.LabelHostname)), room("n1 | app=db,ns:other", "n2"), "0/2 nodes are available: 2 node(s) didn't match pod affinity rules." + hopeless},
		{"a selected namespace", nil, affinity(elsewhere), room("n1 | app=db", "n2 | app=db,ns:other"), "n2"},
		{"a named namespace", nil, affinity(named), room("n1 | app=db", "n2 | app=db,ns:other"), "n2"},
		{"of the same version", []string{"version=2"}, affinity(version), room("n1 | app=web,version=1", "n2 | app=web,version=2"), "n2"},
		{"anti-affinity", nil, antiAffinity(near("app=db", corev1.LabelHostname)), room("n1 | app=db", "n2 | a=b c=d"), "n2"},
		{"anti-affinity everywhere", nil, antiAffinity(near("app=db", zone)), room("n1 "+zone+"=a | app=db", "n2 "+zone+"=a"), "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules." + victimless},
		{"the others' anti-affinity", []string{"app=web"}, nil, room("n1 | hates:app=web", "n2 | a=b c=d"), "n2"},
		{"the others' anti-affinity everywhere", []string{"app=web"}, nil, room("n1 | hates:app=web", "n2 | hates:app=web"), "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules." + victimless},
		{"liking", []string{"likes:app=db"}, nil, room("n1", "n2 | app=db a=b"), "n2"},
		{"being liked", []string{"app=web"}, nil, room("n1", "n2 | likes:app=web"), "n2"},
		{"dislike", nil, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: near("app=db", corev1.LabelHostname)}}}}
		}, room("n1 | app=db", "n2 | a=b c=d"), "n2"},
	})
}

// N-4: topology spread: no domain gets more than maxSkew ahead of the emptiest; ScheduleAnyway is a preference.
func TestPodsSpreadOverDomains(t *testing.T) {
	t.Parallel()
	const zone = corev1.LabelTopologyZone
	const unmatched = "node(s) didn't match pod topology spread constraints"
	four := int32(4)
	ignore := corev1.NodeInclusionPolicyIgnore
	web := []string{"app=web"}
	checkPlacements(t, []placement{
		{"the emptier zone", web, spreadBy(zone, corev1.DoNotSchedule), room("n1 "+zone+"=a | app=web", "n2 "+zone+"=a", "n3 "+zone+"=b | x=y x=y"), "n3"},
		{"within the skew", web, spreadBy(zone, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.MaxSkew = 2 }), room("n1 "+zone+"=a | app=web", "n2 "+zone+"=a", "n3 "+zone+"=b | x=y x=y"), "n2"},
		{"the emptier zone is full", web, spreadBy(zone, corev1.DoNotSchedule), room("n1 "+zone+"=a | app=web", "n2 "+zone+"=b pods=0"),
			"0/2 nodes are available: 1 Too many pods, 1 " + unmatched + ". preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		{"without the key", web, spreadBy(zone, corev1.DoNotSchedule), room("n1", "n2"),
			"0/2 nodes are available: 2 " + unmatched + " (missing required label). preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{"too few domains", web, spreadBy(zone, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &four }), room("n1 "+zone+"=a | app=web", "n2 "+zone+"=b | app=web"),
			"0/2 nodes are available: 2 " + unmatched + ". preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		{"nodes that the pod cannot use do not count", web, func(p *corev1.Pod) {
			spreadBy(zone, corev1.DoNotSchedule)(p)
			p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		}, room("n1 disk=ssd "+zone+"=a | app=web", "n2 "+zone+"=b"), "n1"},
		{"unless it says so", web, func(p *corev1.Pod) {
			spreadBy(zone, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore })(p)
			p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		}, room("n1 disk=ssd "+zone+"=a | app=web", "n2 "+zone+"=b"),
			"0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 " + unmatched + ". preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
		{"anyway, but rather the emptier", web, spreadBy(zone, corev1.ScheduleAnyway), room("n1 "+zone+"=a | app=web", "n2 "+zone+"=a", "n3 "+zone+"=b | x=y x=y"), "n3"},
		{"anyway, even where it is worse", web, spreadBy(zone, corev1.ScheduleAnyway), room("n1 "+zone+"=a | app=web", "n2 "+zone+"=b pods=0"), "n1"},
	})
}

// N-4, N-12: a pod that waits for room, or for another pod, goes when that comes.
func TestAPodThatWaitsGoesWhenItsWishComesTrue(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := node("n1")
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("1")}
	c.create(n)
	fresh := func(name string, words ...string) *corev1.Pod {
		p := guest(name, words...)
		p.Status.Phase = corev1.PodPending
		return p
	}
	on := func(name string) string {
		p, err := store.Get[*corev1.Pod](c.store, api.Pods, "dev", name)
		if err != nil {
			t.Fatal(err)
		}
		return p.Spec.NodeName
	}
	c.create(fresh("first", "cpu:700m"))
	c.create(fresh("second", "cpu:700m"))
	c.create(but(fresh("friend"), affinity(near("app=db", corev1.LabelHostname))))
	if on("first") != "n1" || on("second") != "" || on("friend") != "" {
		t.Fatalf("first on %q, second on %q, friend on %q", on("first"), on("second"), on("friend"))
	}
	c.create(fresh("db", "app=db"))
	if on("friend") != "n1" {
		t.Error("the friend of db still waits")
	}
	c.delete(api.Pods, "first", "")
	c.until("the second pod has its room", func() bool { return on("second") == "n1" })
}

// N-4: what a pod holds back on its node is what it asks for or, while that is more, what it still has; a pod that waits goes when
// another one has less.
func TestAResizeCountsWhereThePodIs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := node("n1")
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("1")}
	c.create(n)
	first, second := guest("first", "cpu:700m"), guest("second", "cpu:700m")
	first.Status.Phase, second.Status.Phase = corev1.PodPending, corev1.PodPending
	c.create(first)
	c.create(second)
	change := func(fn func(*corev1.Pod)) {
		t.Helper()
		c.write(func(tx *store.Tx) error {
			p, err := store.Get[*corev1.Pod](tx, api.Pods, "dev", "first")
			if err != nil {
				return err
			}
			p = api.Copy(p)
			fn(p)
			return tx.Update(p)
		})
	}
	has := func(cpu string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			list := corev1.ResourceList{"cpu": resource.MustParse(cpu)}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: list, Resources: &corev1.ResourceRequirements{Requests: list}}}
		}
	}
	placed := func() bool {
		p, err := store.Get[*corev1.Pod](c.store, api.Pods, "dev", "second")
		return err == nil && p.Spec.NodeName == "n1"
	}
	change(has("700m"))
	change(func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("200m") })
	if placed() {
		t.Error("the second pod got what the first one still had")
	}
	change(has("200m"))
	c.until("the second pod has its room", placed)
}

// BenchmarkSchedule is the time to place a thousand pods that wait, on 4 nodes, to the disk; with wishes about each other, and without.
func BenchmarkSchedule(b *testing.B) {
	for name, edit := range map[string]func(*corev1.Pod){
		"plain": func(*corev1.Pod) {}, "spread": spreadBy(corev1.LabelHostname, corev1.DoNotSchedule),
		"affinity": affinity(near("app=web", corev1.LabelTopologyZone)),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s, err := store.Open(filepath.Join(b.TempDir(), "store"), store.Options{})
				if err != nil {
					b.Fatal(err)
				}
				ctx, stop := context.WithCancel(context.Background())
				m := New(Config{Store: s})
				ended := make(chan error)
				go func() { ended <- m.Run(ctx) }()
				revision, err := s.Update(ctx, func(tx *store.Tx) error {
					all := []api.Object{namespace("dev"), node("n1"), node("n2"), node("n3"), node("n4")}
					for i := range 1000 {
						all = append(all, but(guest(fmt.Sprint("p", i), "app=web", "cpu:1m"), edit))
					}
					for _, obj := range all {
						if err := tx.Create(obj); err != nil {
							return err
						}
					}
					return nil
				})
				if err == nil {
					_, err = m.Settle(ctx, revision)
				}
				if err != nil {
					b.Fatal(err)
				}
				stop()
				<-ended
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
