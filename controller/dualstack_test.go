package controller

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/api"
)

// slicesByFamily prints the slices of a Service: "IPv4 10.244.0.1", "IPv6 fd00::1".
func (c *testCluster) slicesByFamily(service string) (all []string) {
	for _, s := range list[*discoveryv1.EndpointSlice](c, api.EndpointSlices) {
		if s.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		line := string(s.AddressType)
		for _, e := range s.Endpoints {
			line += " " + e.Addresses[0]
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

// P-48, E-5: a Service of two families has slices of each, with the pods' addresses of that family; one that goes back to a single
// family keeps that one's alone. Endpoints tell the first family.
func TestADualStackServiceHasSlicesOfEachFamily(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	svc := service("web", map[string]string{"app": "web"})
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "fd96::1", []string{"fd96::1", "10.96.1.1"}
	c.create(svc)
	if got, want := c.slicesByFamily("web"), []string{"IPv4", "IPv6"}; !cmp.Equal(got, want) {
		t.Errorf("without pods: got %v, want an empty slice of each family", got)
	}
	for i, ips := range [][]string{{"10.0.0.1", "fd00::1"}, {"10.0.0.2"}, {"fd00::3"}} {
		pod := running(fmt.Sprint("p", i), ips[0])
		pod.UID, pod.Labels = "", map[string]string{"app": "web"}
		for _, ip := range ips {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		c.create(pod)
	}
	if got, want := c.slicesByFamily("web"), []string{"IPv4 10.0.0.1 10.0.0.2", "IPv6 fd00::1 fd00::3"}; !cmp.Equal(got, want) {
		t.Errorf("slices: got %v, want %v", got, want)
	}
	var told []string
	for _, a := range list[*corev1.Endpoints](c, api.Endpoints)[0].Subsets[0].Addresses {
		told = append(told, a.IP)
	}
	if want := []string{"fd00::1", "fd00::3"}; !cmp.Equal(told, want) {
		t.Errorf("Endpoints: got %v, want %v", told, want)
	}
	change(c, api.Services, "web", func(s *corev1.Service) {
		s.Spec.IPFamilies, s.Spec.ClusterIPs = s.Spec.IPFamilies[:1], s.Spec.ClusterIPs[:1]
	})
	if got, want := c.slicesByFamily("web"), []string{"IPv6 fd00::1 fd00::3"}; !cmp.Equal(got, want) {
		t.Errorf("single family: got %v, want %v", got, want)
	}
}

// E-7, P-48: Endpoints of both families, written by hand, are mirrored to slices of each.
func TestEndpointsOfBothFamiliesAreMirroredToSlicesOfEach(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("ext", nil))
	ep := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}, Ports: []corev1.EndpointPort{{Port: 80}},
	}}}
	ep.Namespace, ep.Name = "dev", "ext"
	c.create(ep)
	if got, want := c.slicesByFamily("ext"), []string{"IPv4 192.0.2.1", "IPv6 2001:db8::1"}; !cmp.Equal(got, want) {
		t.Errorf("slices: got %v, want %v", got, want)
	}
}

// E-9, E-10: 250 pods fill three slices; a change of one pod rewrites one slice, its own, and stamps it with the time.
func TestAChangeOfOnePodRewritesItsOwnSliceAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "n1")
	c.create(service("web", map[string]string{"app": "web"}))
	for i := range 250 {
		pod := running(fmt.Sprintf("p%03d", i), fmt.Sprintf("10.0.%d.%d", i/200, 1+i%200))
		pod.UID, pod.Labels = "", map[string]string{"app": "web"}
		c.create(pod)
	}
	look := func() map[string]string {
		all := map[string]string{}
		for _, s := range list[*discoveryv1.EndpointSlice](c, api.EndpointSlices) {
			all[s.Name] = s.Annotations[corev1.EndpointsLastChangeTriggerTime]
			if len(s.Endpoints) > maxEndpoints {
				t.Errorf("%s: got %d endpoints, want at most %d", s.Name, len(s.Endpoints), maxEndpoints)
			}
		}
		return all
	}
	before := look()
	if len(before) != 3 {
		t.Errorf("slices: got %d, want 3", len(before))
	}
	c.delete(api.Pods, "p117", "")
	changed := 0
	for name, stamp := range look() {
		if before[name] != stamp {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("slices rewritten: got %d, want 1", changed)
	}
}
