package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// running is a ready pod with an address.
func running(name, ip string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name, UID: types.UID("uid-" + name)}}
	p.Spec.NodeName = "n1"
	p.Spec.Containers = []corev1.Container{{Name: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	return p
}

func but(p *corev1.Pod, edit func(*corev1.Pod)) *corev1.Pod { edit(p); return p }

// show prints groups as a person reads them: ports, then each endpoint with its conditions.
func show(groups []group) (lines []string) {
	for _, g := range groups {
		lines = append(lines, showEndpoints(portsKey(g.ports), g.endpoints))
	}
	return lines
}

func showEndpoints(ports string, es []discoveryv1.Endpoint) string {
	line := "[" + ports + "]"
	for _, e := range es {
		line += " " + e.Addresses[0]
		for _, f := range []struct {
			set  *bool
			name string
		}{{e.Conditions.Ready, "+ready"}, {e.Conditions.Serving, "+serving"}, {e.Conditions.Terminating, "+terminating"}} {
			if f.set != nil && *f.set {
				line += f.name
			}
		}
		if e.Hostname != nil {
			line += "+" + *e.Hostname
		}
		if e.Hints != nil {
			line += fmt.Sprint("+zones", e.Hints.ForZones, "nodes", e.Hints.ForNodes)
		}
	}
	return line
}

// E-1, E-2, E-3, E-6, E-11, E-12
func TestPodsBecomeEndpointsGroupedByTheirPorts(t *testing.T) {
	t.Parallel()
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	ending := func(p *corev1.Pod) { now := metav1.Unix(1, 0); p.DeletionTimestamp = &now }
	named := func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }
	for _, tc := range []struct {
		name string
		svc  func(*corev1.Service)
		pods []*corev1.Pod
		want []string
	}{
		{"ready, unready, terminating", nil, []*corev1.Pod{running("a", "10.0.0.1"), but(running("b", "10.0.0.2"), unready), but(running("c", "10.0.0.3"), ending)},
			[]string{"[http/TCP/80/] 10.0.0.1+ready+serving 10.0.0.2 10.0.0.3+serving+terminating"}},
		{"no address, ended", nil, []*corev1.Pod{running("a", ""), but(running("b", "10.0.0.2"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, nil},
		{"publishNotReadyAddresses", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
			[]*corev1.Pod{but(running("b", "10.0.0.2"), unready), but(running("c", "10.0.0.3"), ending)},
			[]string{"[http/TCP/80/] 10.0.0.2+ready 10.0.0.3+ready+serving+terminating"}},
		{"named target port that differs", named, []*corev1.Pod{running("a", "10.0.0.1"), but(running("b", "10.0.0.2"), func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 })},
			[]string{"[http/TCP/8080/] 10.0.0.1+ready+serving", "[http/TCP/9090/] 10.0.0.2+ready+serving"}},
		{"named target port that a pod lacks", named, []*corev1.Pod{but(running("a", "10.0.0.1"), func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil })},
			[]string{"[] 10.0.0.1+ready+serving"}},
		{"named target port of a sidecar", named, []*corev1.Pod{but(running("a", "10.0.0.1"), func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.InitContainers = p.Spec.Containers
			p.Spec.InitContainers[0].RestartPolicy, p.Spec.Containers = &always, nil
		})}, []string{"[http/TCP/8080/] 10.0.0.1+ready+serving"}},
		{"hostname of the Service's own subdomain", nil, []*corev1.Pod{
			but(running("a", "10.0.0.1"), func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "zero", "web" }),
			but(running("b", "10.0.0.2"), func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "one", "other" }),
		}, []string{"[http/TCP/80/] 10.0.0.1+ready+serving+zero 10.0.0.2+ready+serving"}},
		{"same zone preferred", func(s *corev1.Service) { d := "PreferSameZone"; s.Spec.TrafficDistribution = &d }, []*corev1.Pod{running("a", "10.0.0.1")},
			[]string{"[http/TCP/80/] 10.0.0.1+ready+serving+zones[{z1}]nodes[]"}},
		{"same node preferred", func(s *corev1.Service) { d := "PreferSameNode"; s.Spec.TrafficDistribution = &d }, []*corev1.Pod{running("a", "10.0.0.1")},
			[]string{"[http/TCP/80/] 10.0.0.1+ready+serving+zones[{z1}]nodes[{n1}]"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			svc := service("web", nil)
			if tc.svc != nil {
				tc.svc(svc)
			}
			var cands []candidate
			for _, p := range tc.pods {
				cands = append(cands, candidate{p, "z1"})
			}
			if d := cmp.Diff(tc.want, show(groupEndpoints(svc, cands, discoveryv1.AddressTypeIPv4))); d != "" {
				t.Errorf("groups (-want +got):\n%s", d)
			}
		})
	}
}

// endpointsFrom are n ready endpoints, the first with this number.
func endpointsFrom(first, n int) []discoveryv1.Endpoint {
	svc := service("web", nil)
	var all []discoveryv1.Endpoint
	for i := first; i < first+n; i++ {
		ip := fmt.Sprintf("10.0.%d.%d", i/250, i%250)
		all = append(all, endpointOf(svc, candidate{running(fmt.Sprint("p", i), ip), ""}, ip))
	}
	return all
}

func onPort(number int32) []discoveryv1.EndpointPort {
	name, protocol := "http", corev1.ProtocolTCP
	return []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &number}}
}

func sliceOf(name string, port int32, es []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, AddressType: discoveryv1.AddressTypeIPv4, Ports: onPort(port), Endpoints: es}
}

// E-5, E-10: slices keep their names and their endpoints, hold 100 at most, and there is always one.
func TestSlicesStayStable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		existing []*discoveryv1.EndpointSlice
		groups   []group
		want     []string // name/ports/count
	}{
		{"nothing at all", nil, nil, []string{" [] 0"}},
		{"the last endpoint goes: the slice stays, empty", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 1))}, nil, []string{"a [] 0"}},
		{"the first one comes: the empty slice is used", []*discoveryv1.EndpointSlice{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, []group{{onPort(80), endpointsFrom(0, 1)}}, []string{"a [http/TCP/80/] 1"}},
		{"another target port: the slice is used", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 2))}, []group{{onPort(81), endpointsFrom(0, 2)}}, []string{"a [http/TCP/81/] 2"}},
		{"a hundred and one", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 100))}, []group{{onPort(80), endpointsFrom(0, 101)}}, []string{"a [http/TCP/80/] 100", " [http/TCP/80/] 1"}},
		{"two hundred and fifty from nothing", nil, []group{{onPort(80), endpointsFrom(0, 250)}}, []string{" [http/TCP/80/] 100", " [http/TCP/80/] 100", " [http/TCP/80/] 50"}},
		{"one slice empties", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 100)), sliceOf("b", 80, endpointsFrom(100, 1))}, []group{{onPort(80), endpointsFrom(0, 100)}}, []string{"a [http/TCP/80/] 100"}},
		{"a new one goes where there is room", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 100)), sliceOf("b", 80, endpointsFrom(100, 1))}, []group{{onPort(80), endpointsFrom(0, 102)}}, []string{"a [http/TCP/80/] 100", "b [http/TCP/80/] 2"}},
		{"new ones go where something changes anyway", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 90)), sliceOf("b", 80, endpointsFrom(100, 50))}, []group{{onPort(80), slices.Concat(endpointsFrom(0, 90), endpointsFrom(110, 50))}}, []string{"a [http/TCP/80/] 90", "b [http/TCP/80/] 50"}},
		{"new ones go together into the slice that they fill best", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 96)), sliceOf("b", 80, endpointsFrom(100, 70)), sliceOf("c", 80, endpointsFrom(200, 90))}, []group{{onPort(80), slices.Concat(endpointsFrom(0, 96), endpointsFrom(100, 70), endpointsFrom(200, 95))}}, []string{"a [http/TCP/80/] 96", "b [http/TCP/80/] 70", "c [http/TCP/80/] 95"}},
		{"too many for any slice: a new one, and no old one changes", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 90)), sliceOf("b", 80, endpointsFrom(100, 95))}, []group{{onPort(80), slices.Concat(endpointsFrom(0, 90), endpointsFrom(100, 106))}}, []string{"a [http/TCP/80/] 90", "b [http/TCP/80/] 95", " [http/TCP/80/] 11"}},
		{"two groups", []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 2))}, []group{{onPort(80), endpointsFrom(0, 1)}, {onPort(81), endpointsFrom(1, 1)}}, []string{"a [http/TCP/80/] 1", " [http/TCP/81/] 1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, s := range planSlices(discoveryv1.AddressTypeIPv4, tc.existing, tc.groups) {
				got = append(got, fmt.Sprintf("%s [%s] %d", s.Name, portsKey(s.Ports), len(s.Endpoints)))
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("slices (-want +got):\n%s", d)
			}
		})
	}
}

// One endpoint of a hundred that changes is changed in its place, so that consumers see a small difference.
func TestAnEndpointThatChangesStaysInItsPlace(t *testing.T) {
	t.Parallel()
	now := endpointsFrom(0, 5)
	gone := false
	now[2].Conditions.Ready = &gone
	plan := planSlices(discoveryv1.AddressTypeIPv4, []*discoveryv1.EndpointSlice{sliceOf("a", 80, endpointsFrom(0, 5))}, []group{{onPort(80), append(now[3:5:5], now[:3]...)}})
	got := showEndpoints("", plan[0].Endpoints)
	want := "[] 10.0.0.0+ready+serving 10.0.0.1+ready+serving 10.0.0.2+serving 10.0.0.3+ready+serving 10.0.0.4+ready+serving"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzPlanSlices: whatever was there and whatever should be, every endpoint stands in exactly one slice of its ports, no slice is
// overfull, and planning again changes nothing.
func FuzzPlanSlices(f *testing.F) {
	f.Add(uint8(3), uint8(120), uint8(5), uint8(0))
	f.Add(uint8(0), uint8(0), uint8(250), uint8(130))
	f.Fuzz(func(t *testing.T, hadFirst, had, want, other uint8) {
		before := planSlices(discoveryv1.AddressTypeIPv4, nil, []group{{onPort(80), endpointsFrom(int(hadFirst), int(had))}})
		for i, s := range before {
			s.Name = fmt.Sprint("s", i)
		}
		groups := []group{{onPort(80), endpointsFrom(0, int(want))}, {onPort(81), endpointsFrom(300, int(other))}}
		plan := planSlices(discoveryv1.AddressTypeIPv4, before, groups)
		seen := map[string]int{}
		for i, s := range plan {
			if len(s.Endpoints) > maxEndpoints {
				t.Errorf("slice %s holds %d", s.Name, len(s.Endpoints))
			}
			for _, e := range s.Endpoints {
				seen[portsKey(s.Ports)+e.Addresses[0]]++
			}
			if s.Name == "" {
				s.Name = fmt.Sprint("n", i)
			}
		}
		if len(seen) != int(want)+int(other) || len(plan) == 0 {
			t.Errorf("%d endpoints in %d slices, want %d", len(seen), len(plan), int(want)+int(other))
		}
		for key, n := range seen {
			if n != 1 {
				t.Errorf("%s stands in %d slices", key, n)
			}
		}
		if again := planSlices(discoveryv1.AddressTypeIPv4, plan, groups); len(again) != len(plan) {
			t.Errorf("planned again: %d slices, want %d", len(again), len(plan))
		}
	})
}

// E-1: Endpoints leave out terminating pods, sort the rest by readiness and address, and hold a thousand at most.
func TestEndpointsAreTheReadyAndTheUnready(t *testing.T) {
	t.Parallel()
	now := metav1.Unix(1, 0)
	cands := []candidate{
		{pod: running("b", "10.0.0.2")}, {pod: running("a", "10.0.0.1")},
		{pod: but(running("c", "10.0.0.3"), func(p *corev1.Pod) { p.Status.Conditions = nil })},
		{pod: but(running("d", "10.0.0.4"), func(p *corev1.Pod) { p.DeletionTimestamp = &now })},
	}
	sets, notes := subsets(service("web", nil), cands)
	var got []string
	for _, s := range sets {
		for _, a := range s.Addresses {
			got = append(got, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			got = append(got, "("+a.IP+")")
		}
	}
	if line := strings.Join(got, " "); line != "10.0.0.1 10.0.0.2 (10.0.0.3)" || notes != nil {
		t.Errorf("got %q, %v", line, notes)
	}
	var many []candidate
	for i := range 1200 {
		many = append(many, candidate{pod: running(fmt.Sprint(i), fmt.Sprintf("10.1.%d.%d", i/250, i%250))})
	}
	if sets, notes := subsets(service("web", nil), many); len(sets[0].Addresses) != maxAddresses || notes[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("1,200 pods: got %d addresses and %v", len(sets[0].Addresses), notes)
	}
}
