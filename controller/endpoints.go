package controller

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Who made a slice or an Endpoints object.
const (
	sliceManager     = "endpointslice-controller.k8s.io"
	mirrorManager    = "endpointslicemirroring-controller.k8s.io"
	endpointsManager = "endpoint-controller"
	// managedEndpointsLabel marks Endpoints that follow a selector, so that nobody takes them for written by hand.
	managedEndpointsLabel = "endpoints.kubernetes.io/managed-by"
)

// endpoints keeps the slices and the Endpoints object of each Service. Work is named by the Service.
type endpoints struct {
	died map[string]bool // Services whose deletion has yet to be answered
}

func newEndpoints() *endpoints { return &endpoints{died: map[string]bool{}} }

func (c *endpoints) touched(t *turn, ev store.Event) {
	switch ev.Kind {
	case api.Services:
		c.died[api.Name(ev.Object)] = ev.Type == store.Deleted
		t.todo(c, api.Name(ev.Object))
	case api.Pods:
		c.podTouched(t, ev)
	case api.Endpoints:
		if t.by != controller(c) {
			t.todo(c, api.Name(ev.Object))
		}
	case api.EndpointSlices:
		c.sliceTouched(t, ev)
	case api.Nodes:
		if ev.Old == nil || ev.Type == store.Deleted || ev.Old.GetLabels()[corev1.LabelTopologyZone] != ev.Object.GetLabels()[corev1.LabelTopologyZone] {
			for _, pod := range query[*corev1.Pod](t, api.Pods, store.Query{Index: api.IndexNode, Value: ev.Object.GetName()}) {
				c.todoFor(t, pod)
			}
		}
	}
}

func (c *endpoints) podTouched(t *turn, ev store.Event) {
	pod := ev.Object.(*corev1.Pod)
	was, modified := ev.Old.(*corev1.Pod)
	relabelled := modified && !maps.Equal(was.Labels, pod.Labels)
	if modified && ev.Type == store.Modified && !relabelled && sameEndpoint(was, pod) {
		return
	}
	c.todoFor(t, pod)
	if relabelled {
		c.todoFor(t, was)
	}
}

// sliceTouched mends a slice that someone else changed or deleted.
func (c *endpoints) sliceTouched(t *turn, ev store.Event) {
	if t.by == controller(c) {
		return
	}
	for _, s := range states[*discoveryv1.EndpointSlice](ev) {
		if m := s.Labels[discoveryv1.LabelManagedBy]; m == sliceManager || m == mirrorManager {
			t.todo(c, s.Namespace+"/"+s.Labels[discoveryv1.LabelServiceName])
		}
	}
}

// sameEndpoint tells that nothing of a pod changed that its endpoints show.
func sameEndpoint(a, b *corev1.Pod) bool {
	return podReady(a) == podReady(b) && podEnded(a) == podEnded(b) && a.Spec.NodeName == b.Spec.NodeName &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && a.Status.PodIP == b.Status.PodIP &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && a.Spec.Hostname == b.Spec.Hostname && a.Spec.Subdomain == b.Spec.Subdomain
}

// todoFor files the Services that select a pod.
func (c *endpoints) todoFor(t *turn, pod *corev1.Pod) {
	if t.engine.beginning {
		return // every Service is looked at anyway
	}
	for k, v := range pod.Labels {
		for _, svc := range query[*corev1.Service](t, api.Services, store.Query{Index: api.IndexMatchLabel, Value: api.SelectorTerm(pod.Namespace, k, v)}) {
			if labels.SelectorFromValidatedSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				t.todo(c, api.Name(svc))
			}
		}
	}
}

func (c *endpoints) reconcile(t *turn, name string) error {
	namespace, plain := split(name)
	svc, ok := find[*corev1.Service](t, api.Services, namespace, plain)
	died := c.died[name]
	delete(c.died, name)
	switch {
	case !ok:
		return c.clear(t, namespace, plain, died)
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return c.clear(t, namespace, plain, false)
	case len(svc.Spec.Selector) == 0:
		return c.mirror(t, svc)
	}
	cands := c.candidates(t, svc)
	if err := c.writeSlices(t, svc, cands); err != nil {
		return err
	}
	return c.writeEndpoints(t, svc, cands)
}

// candidate is a pod that a Service selects, and its node's zone.
type candidate struct {
	pod  *corev1.Pod
	zone string
}

// candidates lists the selected pods by name.
func (c *endpoints) candidates(t *turn, svc *corev1.Service) []candidate {
	pods := query[*corev1.Pod](t, api.Pods, store.Query{Namespace: svc.Namespace, Labels: labels.SelectorFromValidatedSet(svc.Spec.Selector)})
	found := make([]candidate, 0, len(pods))
	for _, pod := range pods {
		zone := ""
		if node, ok := find[*corev1.Node](t, api.Nodes, "", pod.Spec.NodeName); ok {
			zone = node.Labels[corev1.LabelTopologyZone]
		}
		found = append(found, candidate{pod, zone})
	}
	return found
}

// slicesOf lists the slices of a Service that one manager made.
func slicesOf(t *turn, namespace, service, manager string) []*discoveryv1.EndpointSlice {
	all := query[*discoveryv1.EndpointSlice](t, api.EndpointSlices, store.Query{Index: api.IndexService, Value: namespace + "/" + service})
	return slices.DeleteFunc(all, func(s *discoveryv1.EndpointSlice) bool { return s.Labels[discoveryv1.LabelManagedBy] != manager })
}

// clear removes what was made for a Service that has no endpoints any more. Endpoints written by hand go only with a Service
// that died, for they may be written before theirs.
func (c *endpoints) clear(t *turn, namespace, service string, died bool) error {
	for _, manager := range []string{sliceManager, mirrorManager} {
		if err := c.deleteAll(t, slicesOf(t, namespace, service, manager)); err != nil {
			return err
		}
	}
	ep, ok := find[*corev1.Endpoints](t, api.Endpoints, namespace, service)
	if !ok || !died && ep.Labels[managedEndpointsLabel] != endpointsManager {
		return nil
	}
	return t.delete(ep, store.DeleteOptions{})
}

// writeSlices makes the slices of a Service what planSlices says, address family by address family.
func (c *endpoints) writeSlices(t *turn, svc *corev1.Service, cands []candidate) error {
	if err := c.deleteAll(t, slicesOf(t, svc.Namespace, svc.Name, mirrorManager)); err != nil {
		return err
	}
	existing := slicesOf(t, svc.Namespace, svc.Name, sliceManager)
	var plan []*discoveryv1.EndpointSlice
	for _, family := range families(svc) {
		mine := slices.DeleteFunc(slices.Clone(existing), func(s *discoveryv1.EndpointSlice) bool { return s.AddressType != family })
		groups := groupEndpoints(svc, cands, family)
		plan = append(plan, planSlices(family, mine, groups)...)
	}
	for _, s := range plan {
		dressSlice(s, svc)
	}
	return c.apply(t, existing, plan)
}

// apply writes the difference between the slices that are there and those that should be.
func (c *endpoints) apply(t *turn, existing, plan []*discoveryv1.EndpointSlice) error {
	kept := map[string]bool{}
	for _, s := range plan {
		kept[s.Name] = true
		i := slices.IndexFunc(existing, func(e *discoveryv1.EndpointSlice) bool { return e.Name == s.Name })
		if i >= 0 && sameSlice(existing[i], s) {
			continue
		}
		stamp(&s.ObjectMeta, t.now)
		if i >= 0 {
			if err := t.update(s); err != nil {
				return err
			}
		} else if err := t.create(s); err != nil {
			return err
		}
	}
	return c.deleteAll(t, slices.DeleteFunc(existing, func(e *discoveryv1.EndpointSlice) bool { return kept[e.Name] }))
}

func (c *endpoints) deleteAll(t *turn, gone []*discoveryv1.EndpointSlice) error {
	for _, s := range gone {
		if err := t.delete(s, store.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// stamp says since when the change that an object carries was known, so that the time until it is programmed can be measured
// (E-9).
func stamp(m *metav1.ObjectMeta, now time.Time) {
	m.Annotations = with(m.Annotations, corev1.EndpointsLastChangeTriggerTime, now.UTC().Format(time.RFC3339Nano))
}

// writeEndpoints makes the Endpoints object of a Service what subsets says.
func (c *endpoints) writeEndpoints(t *turn, svc *corev1.Service, cands []candidate) error {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	want.Subsets, want.Annotations = subsets(svc, cands)
	want.Labels = with(svc.Labels, managedEndpointsLabel, endpointsManager)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		want.Labels[corev1.IsHeadlessService] = ""
	}
	have, ok := find[*corev1.Endpoints](t, api.Endpoints, svc.Namespace, svc.Name)
	if !ok {
		stamp(&want.ObjectMeta, t.now)
		return t.create(want)
	}
	if slices.EqualFunc(have.Subsets, want.Subsets, sameSubset) && maps.Equal(have.Labels, want.Labels) {
		return nil
	}
	changed := api.Copy(have)
	changed.Subsets, changed.Labels = want.Subsets, want.Labels
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	delete(changed.Annotations, corev1.EndpointsOverCapacity)
	maps.Copy(changed.Annotations, want.Annotations)
	stamp(&changed.ObjectMeta, t.now)
	return t.update(changed)
}
