package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// E-1, E-2, E-3, E-4, E-9: what a slice says of pods, and what labels and owner it carries.
func TestASliceFollowsThePodsOfItsService(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	svc := service("web", map[string]string{"app": "web"})
	svc.Labels = map[string]string{"team": "x"}
	c.create(svc)
	c.create(deployment("web", 1))
	c.until("web is rolled out", c.rolledOut("web"))
	slice := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)[0]
	svc, err := store.Get[*corev1.Service](c.store, api.Services, "dev", "web")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: sliceManager, "team": "x"}
	if !cmp.Equal(slice.Labels, want) || !metav1.IsControlledBy(slice, svc) || slice.AddressType != discoveryv1.AddressTypeIPv4 {
		t.Errorf("slice: got %+v", slice.ObjectMeta)
	}
	if rest, ok := strings.CutPrefix(slice.Name, "web-"); !ok || len(rest) != 5 {
		t.Errorf("name: got %s, want web-xxxxx", slice.Name)
	}
	if _, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime]); err != nil {
		t.Errorf("change trigger time: %v", err)
	}
	e := slice.Endpoints[0]
	if *e.NodeName != "n1" || *e.Zone != "zone-n1" || e.TargetRef.Kind != "Pod" || e.Hostname != nil {
		t.Errorf("endpoint: got %+v", e)
	}
}

// E-1, P-12: an unready pod leaves, a terminating one leaves in the same transaction as its deletion is answered, and both leave
// Endpoints or move in it.
func TestUnreadyAndTerminatingPodsLeaveAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 2))
	c.until("web is rolled out", c.rolledOut("web"))
	name := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)[0].Name
	pod := list[*corev1.Pod](c, api.Pods)[0].Name

	c.kubelet.set(c, holdReady, true)
	change(c, api.Pods, pod, func(p *corev1.Pod) {
		setPodCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}, time.Now())
	})
	if n, all := c.readyEndpoints("web"), len(c.endpointsOf("web")); n != 1 || all != 2 {
		t.Errorf("one unready: got %d ready of %d, want 1 of 2", n, all)
	}
	ep := list[*corev1.Endpoints](c, api.Endpoints)[0]
	if len(ep.Subsets[0].Addresses) != 1 || len(ep.Subsets[0].NotReadyAddresses) != 1 {
		t.Errorf("Endpoints: got %+v, want one ready and one not", ep.Subsets)
	}
	c.kubelet.set(c, holdReady, false)
	c.until("it is ready again", func() bool { return c.readyEndpoints("web") == 2 })

	c.kubelet.set(c, holdEnds, true)
	c.delete(api.Pods, pod, "")
	for _, e := range c.endpointsOf("web") {
		if e.TargetRef.Name == pod && (*e.Conditions.Ready || !*e.Conditions.Serving || !*e.Conditions.Terminating) {
			t.Errorf("terminating endpoint: got %+v, want serving and terminating, not ready", e.Conditions)
		}
	}
	ep = list[*corev1.Endpoints](c, api.Endpoints)[0]
	for _, a := range slices.Concat(ep.Subsets[0].Addresses, ep.Subsets[0].NotReadyAddresses) {
		if a.TargetRef.Name == pod {
			t.Errorf("Endpoints still name the terminating pod %s", pod)
		}
	}
	if got := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)[0].Name; got != name {
		t.Errorf("slice: got %s, want it kept as %s", got, name)
	}
}

// E-5: no match still gives one empty slice and an empty Endpoints; both go with the Service.
func TestAServiceThatSelectsNothingHasAnEmptySliceUntilItGoes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("void", map[string]string{"app": "void"}))
	got := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)
	eps := list[*corev1.Endpoints](c, api.Endpoints)
	if len(got) != 1 || len(got[0].Endpoints) != 0 || len(eps) != 1 || len(eps[0].Subsets) != 0 {
		t.Errorf("got %v and %v, want one empty slice and one empty Endpoints", got, eps)
	}
	c.delete(api.Services, "void", "")
	if s, e := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices), list[*corev1.Endpoints](c, api.Endpoints); len(s)+len(e) != 0 {
		t.Errorf("left after the Service: %v, %v", s, e)
	}
}

// The canary: labels and selectors move pods in and out of a Service, in the very transaction that answers the change.
func TestLabelsAndSelectorsMoveEndpoints(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("shop", map[string]string{"app": "v1", "track": "stable"}))
	for _, name := range []string{"v1", "v2"} {
		d := deployment(name, 2)
		d.Spec.Template.Labels["track"] = "stable"
		c.create(d)
		c.until(name+" is rolled out", c.rolledOut(name))
	}
	apps := func() map[string]int {
		got := map[string]int{}
		for _, e := range c.endpointsOf("shop") {
			app, _, _ := strings.Cut(e.TargetRef.Name, "-")
			got[app]++
		}
		return got
	}
	if want := map[string]int{"v1": 2}; !cmp.Equal(apps(), want) {
		t.Errorf("selector app=v1: got %v, want %v", apps(), want)
	}
	change(c, api.Services, "shop", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"track": "stable"} })
	if want := map[string]int{"v1": 2, "v2": 2}; !cmp.Equal(apps(), want) {
		t.Errorf("selector track=stable: got %v, want %v", apps(), want)
	}
	for _, p := range list[*corev1.Pod](c, api.Pods) {
		if p.Labels["app"] == "v1" {
			change(c, api.Pods, p.Name, func(p *corev1.Pod) { delete(p.Labels, "track") })
		}
	}
	if want := map[string]int{"v2": 2}; !cmp.Equal(apps(), want) {
		t.Errorf("label taken off v1: got %v, want %v", apps(), want)
	}
}

// E-4, E-7: slices made by hand are left alone, Endpoints made by hand are mirrored as they come, change and go.
func TestHandMadeEndpointsAreMirroredAndHandMadeSlicesLeftAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	byHand := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "dev", Name: "mine", Labels: map[string]string{discoveryv1.LabelServiceName: "ext"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	ep := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "ext"},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.2"}},
			Ports: []corev1.EndpointPort{{Name: "http", Port: 8080}},
		}},
	}
	c.create(ep) // before its Service, as one file may have it
	c.create(byHand)
	c.create(service("ext", nil))
	mirrored := func() (got []string) {
		for _, s := range list[*discoveryv1.EndpointSlice](c, api.EndpointSlices) {
			for _, e := range s.Endpoints {
				got = append(got, s.Labels[discoveryv1.LabelManagedBy]+" "+e.Addresses[0])
			}
		}
		slices.Sort(got)
		return got
	}
	if want := []string{mirrorManager + " 192.0.2.1", mirrorManager + " 192.0.2.2"}; !cmp.Equal(mirrored(), want) {
		t.Errorf("mirrored: got %v, want %v", mirrored(), want)
	}
	change(c, api.Endpoints, "ext", func(e *corev1.Endpoints) { e.Subsets[0].NotReadyAddresses = nil })
	if want := []string{mirrorManager + " 192.0.2.1"}; !cmp.Equal(mirrored(), want) {
		t.Errorf("after a change: got %v, want %v", mirrored(), want)
	}
	c.delete(api.Endpoints, "ext", "")
	left := list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)
	if len(left) != 1 || left[0].Name != "mine" {
		t.Errorf("left: got %v, want the slice made by hand alone", left)
	}
}

// P-39: an ExternalName Service has no endpoints; turned into a ClusterIP one it gets them, and the other way round.
func TestTurningAServiceIntoAnExternalNameTakesItsEndpoints(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.create(deployment("web", 1))
	c.until("web is rolled out", c.rolledOut("web"))
	change(c, api.Services, "web", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	})
	if n := len(list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)) + len(list[*corev1.Endpoints](c, api.Endpoints)); n != 0 {
		t.Errorf("slices and Endpoints of an ExternalName: got %d, want none", n)
	}
	change(c, api.Services, "web", func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeClusterIP, "" })
	if n := c.readyEndpoints("web"); n != 1 {
		t.Errorf("ready endpoints: got %d, want 1", n)
	}
}

func TestASliceThatSomeoneDeletesIsMadeAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	c.delete(api.EndpointSlices, list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)[0].Name, "")
	if n := len(list[*discoveryv1.EndpointSlice](c, api.EndpointSlices)); n != 1 {
		t.Errorf("slices: got %d, want 1", n)
	}
}

// A-2, E-8: the first objects agree with each other, and giving birth again changes nothing.
func TestBirthWritesTheFirstObjectsOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1", "n2")
	for _, tc := range []struct{ namespace, name, address string }{
		{"default", "kubernetes", "10.96.0.1"}, {"kube-system", "kube-dns", "10.96.0.10"},
	} {
		svc, err1 := store.Get[*corev1.Service](c.store, api.Services, tc.namespace, tc.name)
		ep, err2 := store.Get[*corev1.Endpoints](c.store, api.Endpoints, tc.namespace, tc.name)
		l, _ := c.store.List(c.ctx, api.EndpointSlices, store.Query{Index: api.IndexService, Value: tc.namespace + "/" + tc.name})
		if err1 != nil || err2 != nil || len(l.Items) != 1 {
			t.Fatalf("%s: %v, %v, slices %v", tc.name, err1, err2, l.Items)
		}
		slice := l.Items[0].(*discoveryv1.EndpointSlice)
		if svc.Spec.ClusterIP != tc.address || len(slice.Endpoints) != 2 || len(ep.Subsets[0].Addresses) != 2 {
			t.Errorf("%s: got %s, slice %v, Endpoints %v", tc.name, svc.Spec.ClusterIP, slice.Endpoints, ep.Subsets)
		}
		for i, p := range slice.Ports {
			if q := ep.Subsets[0].Ports[i]; *p.Name != q.Name || *p.Port != q.Port || *p.Protocol != q.Protocol {
				t.Errorf("%s: slice port %v and Endpoints port %v differ", tc.name, p, q)
			}
		}
	}
	dns, _ := store.Get[*corev1.Service](c.store, api.Services, "kube-system", "kube-dns")
	if dns.Labels[proxyNameLabel] != dnsProxyName {
		t.Errorf("kube-dns: got labels %v", dns.Labels)
	}
	before := c.store.Revision()
	b := BirthConfig{APIPort: 6443, Nodes: []BirthNode{}}
	b.ServiceCIDR, b.DNSAddress = mustPrefix("10.96.0.0/16"), mustPrefix("10.96.0.10/32").Addr()
	for i, n := range []string{"n1", "n2"} {
		b.Nodes = append(b.Nodes, BirthNode{Name: n, Address: mustPrefix("172.30.0.1" + string(rune('1'+i)) + "/32").Addr()})
	}
	if err := Birth(c.ctx, c.store, b); err != nil {
		t.Fatal(err)
	}
	if after := c.store.Revision(); after != before {
		t.Errorf("born again: revision %d, want %d", after, before)
	}
	if _, err := c.store.Get(api.Namespaces, "", "kube-node-lease"); apierrors.IsNotFound(err) {
		t.Error(err)
	}
}
