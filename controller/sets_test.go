package controller

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func template(name string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: name + ":1"}}},
	}
}

func daemon(name string, edit ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}}
	d.Spec.Selector, d.Spec.Template = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, template(name)
	for _, fn := range edit {
		fn(d)
	}
	api.Default(d)
	return d
}

func stateful(name string, replicas int32, edit ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}}
	s.Spec.Selector, s.Spec.Template = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, template(name)
	s.Spec.Replicas, s.Spec.ServiceName = &replicas, name
	for _, fn := range edit {
		fn(s)
	}
	api.Default(s)
	return s
}

// standing prints the pods by where they stand: "n1:web:2" for a daemon's, "web-0:web:2" for a StatefulSet's.
func (c *testCluster) standing(where func(*corev1.Pod) string) string {
	var all []string
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		if podActive(p) {
			all = append(all, where(p)+":"+p.Spec.Containers[0].Image)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func byNode(p *corev1.Pod) string { return p.Spec.NodeName }
func byName(p *corev1.Pod) string { return p.Name }

func (c *testCluster) daemonStatus(name string) appsv1.DaemonSetStatus {
	d, err := store.Get[*appsv1.DaemonSet](c.store, api.DaemonSets, "dev", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return d.Status
}

func (c *testCluster) daemonRolled(name string, n int32) func() bool {
	return func() bool {
		s := c.daemonStatus(name)
		return s.DesiredNumberScheduled == n && s.NumberAvailable == n && s.UpdatedNumberScheduled == n
	}
}

func TestADaemonSetHasOnePodOnEachNodeThatItMayRunOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	tainted := node("n3")
	tainted.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	cordoned := node("n4")
	cordoned.Spec.Unschedulable = true
	c.create(tainted)
	c.create(cordoned)
	c.create(daemon("agent"))
	c.until("three daemons run", c.daemonRolled("agent", 3))
	if got, want := c.standing(byNode), "n1:agent:1 n2:agent:1 n4:agent:1"; got != want {
		t.Errorf("pods: got %s, want %s", got, want)
	}
	c.create(node("n5"))
	c.until("a new node has one", c.daemonRolled("agent", 4))
	change(c, api.DaemonSets, "agent", func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n2"}
	})
	c.until("only n2 keeps its own", func() bool { return c.standing(byNode) == "n2:agent:1" && c.daemonRolled("agent", 1)() })
}

func TestADaemonSetRollsOverNodeByNode(t *testing.T) {
	t.Parallel()
	for name, surge := range map[string]bool{"maxUnavailable": false, "maxSurge": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, "n1", "n2", "n3")
			one, none := intstr.FromInt32(1), intstr.FromInt32(0)
			c.create(daemon("agent", func(d *appsv1.DaemonSet) {
				d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &one, MaxSurge: &none}
				if surge {
					d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &none, MaxSurge: &one}
				}
			}))
			c.until("all run", c.daemonRolled("agent", 3))
			change(c, api.DaemonSets, "agent", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "agent:2" })
			least := int32(2)
			if surge {
				least = 3
			}
			c.until("all are new", func() bool {
				if s := c.daemonStatus("agent"); s.NumberAvailable < least {
					t.Errorf("available: got %d, want at least %d", s.NumberAvailable, least)
				}
				return c.daemonRolled("agent", 3)()
			})
			c.until("the old ones are gone", func() bool { return c.standing(byNode) == "n1:agent:2 n2:agent:2 n3:agent:2" })
		})
	}
}

// What kubectl rollout undo sends back is the older revision, which then is the newest one.
func TestADaemonSetsHistoryIsKeptAndGoneBackTo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(daemon("agent", func(d *appsv1.DaemonSet) {
		d.Spec.RevisionHistoryLimit = number(1)
		d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	}))
	c.until("it runs", c.daemonRolled("agent", 1))
	for _, image := range []string{"agent:2", "agent:3", "agent:1"} {
		change(c, api.DaemonSets, "agent", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = image })
	}
	var history []string
	for _, r := range list[*appsv1.ControllerRevision](c, api.ControllerRevisions) {
		tmpl, err := templateOf(r)
		if err != nil || !strings.Contains(string(r.Data.Raw), `"$patch":"replace"`) {
			t.Fatalf("revision %s: %v", r.Data.Raw, err)
		}
		history = append(history, string(rune('0'+r.Revision))+" "+tmpl.Spec.Containers[0].Image)
	}
	slices.Sort(history)
	if want := []string{"3 agent:3", "4 agent:1"}; !cmp.Equal(history, want) {
		t.Errorf("history: got %v, want %v", history, want)
	}
	change(c, api.DaemonSets, "agent", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "agent:5" })
	if got, want := c.standing(byNode), "n1:agent:1"; got != want {
		t.Errorf("OnDelete: got %s, want %s", got, want)
	}
	c.delete(api.Pods, list[*corev1.Pod](c, api.Pods)[0].Name, "")
	c.until("the deleted one is replaced by a new one", func() bool { return c.standing(byNode) == "n1:agent:5" })
}

func (c *testCluster) statefulStatus(name string) appsv1.StatefulSetStatus {
	s, err := store.Get[*appsv1.StatefulSet](c.store, api.StatefulSets, "dev", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Status
}

func TestAStatefulSetStartsAndStopsInOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	c.kubelet.set(c, holdReady, true)
	c.create(stateful("db", 3, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }))
	if got, want := c.standing(byName), "db-5:db:1"; got != want {
		t.Errorf("nothing is ready: got %s, want %s", got, want)
	}
	pod := list[*corev1.Pod](c, api.Pods)[0]
	if pod.Spec.Hostname != "db-5" || pod.Spec.Subdomain != "db" || pod.Labels[appsv1.StatefulSetPodNameLabel] != "db-5" || pod.Labels[appsv1.PodIndexLabel] != "5" {
		t.Errorf("pod: got hostname %q, subdomain %q, labels %v", pod.Spec.Hostname, pod.Spec.Subdomain, pod.Labels)
	}
	c.kubelet.set(c, holdReady, false)
	c.until("three are ready", func() bool { return c.statefulStatus("db").AvailableReplicas == 3 })
	c.kubelet.set(c, holdEnds, true)
	change(c, api.StatefulSets, "db", func(s *appsv1.StatefulSet) { s.Spec.Replicas = number(1) })
	if got, want := c.standing(byName), "db-5:db:1 db-6:db:1"; got != want {
		t.Errorf("the last one ends: got %s, want %s", got, want)
	}
	c.kubelet.set(c, holdEnds, false)
	c.until("one is left", func() bool { return c.standing(byName) == "db-5:db:1" && c.statefulStatus("db").Replicas == 1 })
}

func TestAParallelStatefulSetStartsAllAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.kubelet.set(c, holdReady, true)
	c.create(stateful("db", 3, func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }))
	if got, want := c.standing(byName), "db-0:db:1 db-1:db:1 db-2:db:1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAStatefulSetIsUpdatedFromTheLastDownToThePartition(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	partition := func(n int32) func(*appsv1.StatefulSet) {
		return func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
			s.Spec.Template.Spec.Containers[0].Image = "db:2"
		}
	}
	c.create(stateful("db", 3))
	c.until("three are ready", func() bool { return c.statefulStatus("db").AvailableReplicas == 3 })
	old := c.statefulStatus("db").CurrentRevision
	change(c, api.StatefulSets, "db", partition(2))
	c.until("the last one is new", func() bool {
		return c.standing(byName) == "db-0:db:1 db-1:db:1 db-2:db:2" && c.statefulStatus("db").ReadyReplicas == 3
	})
	c.delete(api.Pods, "db-0", "")
	c.until("a pod below the partition comes back as it was", func() bool {
		return c.standing(byName) == "db-0:db:1 db-1:db:1 db-2:db:2" && c.statefulStatus("db").ReadyReplicas == 3
	})
	if s := c.statefulStatus("db"); s.CurrentRevision != old || s.UpdateRevision == old || s.CurrentReplicas != 2 || s.UpdatedReplicas != 1 {
		t.Errorf("status amid the update: %+v", s)
	}
	change(c, api.StatefulSets, "db", partition(0))
	c.until("all are new", func() bool {
		s := c.statefulStatus("db")
		return c.standing(byName) == "db-0:db:2 db-1:db:2 db-2:db:2" && s.CurrentRevision == s.UpdateRevision && s.UpdatedReplicas == 3
	})
}

func TestAStatefulSetThatWantsStorageIsToldThatThereIsNone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(stateful("db", 1, func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	}))
	if got := c.standing(byName); got != "" {
		t.Errorf("pods: got %s, want none", got)
	}
	if got := c.troubles("db"); len(got) != 1 || !strings.Contains(got[0], "storage") {
		t.Errorf("events: got %q, want one that says that there is no storage", got)
	}
}

func TestAPodThatIsOrphanedIsAdoptedByASetOfItsName(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(stateful("db", 1))
	c.until("it is ready", func() bool { return c.statefulStatus("db").AvailableReplicas == 1 })
	uid := list[*corev1.Pod](c, api.Pods)[0].UID
	c.delete(api.StatefulSets, "db", metav1.DeletePropagationOrphan)
	c.create(stateful("db", 1))
	pods := list[*corev1.Pod](c, api.Pods)
	if len(pods) != 1 || pods[0].UID != uid || metav1.GetControllerOf(pods[0]) == nil {
		t.Errorf("pods: got %+v, want the old one, adopted", pods)
	}
	if all := list[*appsv1.ControllerRevision](c, api.ControllerRevisions); len(all) != 1 || metav1.GetControllerOf(all[0]) == nil {
		t.Errorf("revisions: got %+v, want the old one, adopted", all)
	}
}

func TestAStatefulSetReplacesAsManyAtOnceAsMayBeMissing(t *testing.T) {
	t.Parallel()
	two := intstr.FromInt32(2)
	s := &ranks{set: stateful("db", 4, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{
			Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &two},
		}
	})}
	s.history.current = &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "new"}}
	for i, available := range []bool{true, true, true, true} {
		pod := running("db-"+string(rune('0'+i)), "10.0.0.1")
		pod.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: "old"}
		s.wanted = append(s.wanted, member{i, pod, available})
	}
	names := func() (all []string) {
		for _, p := range planStateful(s).delete {
			all = append(all, p.Name)
		}
		return all
	}
	if want := []string{"db-3", "db-2"}; !cmp.Equal(names(), want) {
		t.Errorf("all available: got %v, want %v", names(), want)
	}
	s.wanted[3].available, s.wanted[3].pod.Labels[appsv1.ControllerRevisionHashLabelKey] = false, "new"
	s.set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	if want := []string{"db-2"}; !cmp.Equal(names(), want) {
		t.Errorf("the last one is starting: got %v, want %v", names(), want)
	}
}
