package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

const (
	maxRate      = 5000        // requests a second: what one generator can keep up on two cores beside the cluster itself
	defaultEvery = time.Second // between two samples
	groupOther   = "(none)"    // pods without the label that groups
	groupGone    = "(gone)"    // answers and connections whose pod is not in the store any more
)

// TrafficOptions says which traffic to watch, and to make.
type TrafficOptions struct {
	Service   types.NamespacedName
	Port      string        // name or number of the Service's port; "" for the first
	Rate      float64       // requests a second to make; 0 only watches
	From      string        // where they come from: node/NAME, pod/NAME, outside; "" for the first node
	By        string        // pod, version or label=KEY; "" for version
	For       time.Duration // 0: until the context ends
	Every     time.Duration // between samples; 0 for 1 s
	KeepAlive bool          // requests on kept-alive connections instead of a connection each
}

// Sample is the split over one interval.
type Sample struct {
	Elapsed time.Duration `json:"elapsed"` // since the beginning
	Shares  []Share       `json:"shares,omitempty"`
	Sent    uint64        `json:"sent"`   // requests sent since the beginning
	Failed  uint64        `json:"failed"` // of them, since the beginning
	Failure string        `json:"failure,omitempty"`
	Marks   []string      `json:"marks,omitempty"` // label and selector changes in the interval
	Error   string        `json:"error,omitempty"` // why the view ended
}

// Share is one group's part: expected from the ready endpoints, observed by the kernel's counters and in the answers.
type Share struct {
	Group       string  `json:"group"`
	Ready       int     `json:"ready"`       // endpoints the Service leads to now
	Expected    float64 `json:"expected"`    // 0..1, at the sample's end
	Connections uint64  `json:"connections"` // new connections in the interval, counted by every node's kernel
	Requests    uint64  `json:"requests"`    // answers in the interval, counted by the generator
	Observed    float64 `json:"observed"`    // 0..1, of the requests if there are any, else of the connections
}

// Traffic watches, and with a rate makes, a Service's traffic, and emits a sample for each interval.
func (c *Cluster) Traffic(ctx context.Context, o TrafficOptions, emit func(Sample) error) error {
	if o.Every <= 0 {
		o.Every = defaultEvery
	}
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	v := &trafficView{c: c, o: o, groups: map[string]string{}}
	if err := v.begin(ctx); err != nil {
		return err
	}
	gen, err := c.newGenerator(o)
	if err != nil {
		return err
	}
	marks, err := c.newMarks(ctx, o.Service)
	if err != nil {
		return err
	}
	gen.start(ctx)
	defer gen.wait()
	marks.start(ctx)
	defer marks.wait()
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	began := time.Now()
	for {
		ended := false
		select {
		case <-tick.C:
			if o.For > 0 && time.Since(began)+o.Every/2 > o.For {
				continue // the end is near, and has a sample of its own
			}
		case <-ctx.Done():
			gen.wait()
			ended = true
		}
		s, err := v.sample(context.WithoutCancel(ctx), gen)
		if err != nil {
			return err
		}
		s.Elapsed = time.Since(began)
		s.Marks = marks.take()
		if err := emit(s); err != nil || ended {
			return err
		}
	}
}

// trafficView remembers what the last sample saw.
type trafficView struct {
	c      *Cluster
	o      TrafficOptions
	counts map[string]uint64 // node/endpoint -> connections, at the last sample
	groups map[string]string // pod -> its group, also of pods that are gone by now
}

func (v *trafficView) begin(ctx context.Context) error {
	v.counts = map[string]uint64{}
	_, err := v.connections(ctx)
	return err
}

func (v *trafficView) sample(ctx context.Context, gen *generator) (Sample, error) {
	s := Sample{}
	shares := map[string]*Share{}
	share := func(group string) *Share {
		if shares[group] == nil {
			shares[group] = &Share{Group: group}
		}
		return shares[group]
	}
	ready, err := v.ready(ctx)
	if err != nil {
		return s, err
	}
	for _, pod := range ready {
		share(v.group(pod)).Ready++
	}
	conns, err := v.connections(ctx)
	if err != nil {
		return s, err
	}
	for pod, n := range conns {
		share(v.group(pod)).Connections += n
	}
	answers := gen.take()
	for pod, n := range answers.byPod {
		share(v.group(pod)).Requests += n
	}
	s.Sent, s.Failed, s.Failure = answers.sent, answers.failed, answers.failure
	s.Shares = finish(shares, len(ready))
	return s, nil
}

// finish works out the shares and orders them by name.
func finish(shares map[string]*Share, ready int) []Share {
	var requests, conns uint64
	for _, s := range shares {
		requests += s.Requests
		conns += s.Connections
	}
	var out []Share
	for _, s := range shares {
		if ready > 0 {
			s.Expected = float64(s.Ready) / float64(ready)
		}
		switch {
		case requests > 0:
			s.Observed = float64(s.Requests) / float64(requests)
		case conns > 0:
			s.Observed = float64(s.Connections) / float64(conns)
		}
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Share) int { return cmp.Compare(a.Group, b.Group) })
	return out
}

// ready names the pods (or, without one, the addresses) of the Service's ready endpoints.
func (v *trafficView) ready(ctx context.Context) ([]string, error) {
	list, err := v.c.store.List(ctx, api.EndpointSlices, store.Query{Index: api.IndexService, Value: v.o.Service.String()})
	if err != nil {
		return nil, err
	}
	pods := map[string]bool{}
	for _, obj := range list.Items {
		for _, e := range obj.(*discoveryv1.EndpointSlice).Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			pods[endpointName(e)] = true
		}
	}
	return slices.Sorted(maps.Keys(pods)), nil
}

func endpointName(e discoveryv1.Endpoint) string {
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		return e.TargetRef.Name
	}
	if len(e.Addresses) > 0 {
		return e.Addresses[0]
	}
	return groupGone
}

// connections returns the new connections of each pod since the last call, from every node's kernel.
func (v *trafficView) connections(ctx context.Context) (map[string]uint64, error) {
	fresh := map[string]uint64{}
	for _, m := range v.c.machines() {
		counts, err := m.proxy.Counts(ctx, v.o.Service)
		if errors.Is(err, proxy.ErrNotRunning) {
			continue // without power a node counts nothing
		}
		if err != nil {
			return nil, fmt.Errorf("counters of node %s: %w", m.Name, err)
		}
		for _, k := range counts {
			key := m.Name + " " + k.Port + " " + k.Endpoint.String() + " " + k.Pod
			last := v.counts[key]
			v.counts[key] = k.Connections
			if k.Connections < last {
				last = 0 // the endpoint left and came back: its counter is a new one
			}
			fresh[podName(k.Pod)] += k.Connections - last
		}
	}
	maps.DeleteFunc(fresh, func(_ string, n uint64) bool { return n == 0 })
	return fresh, nil
}

// podName takes the namespace off.
func podName(pod string) string { return pod[strings.LastIndexByte(pod, '/')+1:] }

// group is the group of a pod: what it was when it was last seen, for a pod that is gone.
func (v *trafficView) group(pod string) string {
	obj, err := v.c.store.Get(api.Pods, v.o.Service.Namespace, pod)
	if err == nil {
		v.groups[pod] = groupOf(obj.(*corev1.Pod), v.o.By)
	}
	if g := v.groups[pod]; g != "" {
		return g
	}
	return groupGone
}

func groupOf(pod *corev1.Pod, by string) string {
	key := "version"
	switch {
	case by == "pod":
		return pod.Name
	case strings.HasPrefix(by, "label="):
		key = strings.TrimPrefix(by, "label=")
	}
	if v, ok := pod.Labels[key]; ok {
		return v
	}
	if by == "" || by == "version" { // no version label: the application's name says more than "(none)"
		if app := cmp.Or(pod.Labels["app"], pod.Labels["app.kubernetes.io/name"]); app != "" {
			return app
		}
	}
	return groupOther
}

func (c *Cluster) service(name types.NamespacedName) (*corev1.Service, error) {
	obj, err := c.store.Get(api.Services, name.Namespace, name.Name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}

// servicePort picks a port by name or number; "" is the first.
func servicePort(svc *corev1.Service, want string) (corev1.ServicePort, error) {
	for _, p := range svc.Spec.Ports {
		if want == "" || p.Name == want || fmt.Sprint(p.Port) == want {
			return p, nil
		}
	}
	return corev1.ServicePort{}, apierrors.NewBadRequest(fmt.Sprintf("service %s has no port %q", api.Name(svc), want))
}

// selectorText is how marks show a selector.
func selectorText(svc *corev1.Service) string { return labels.FormatLabels(svc.Spec.Selector) }
