package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/controller"
	"kubarium.dev/proxy"
	"kubarium.dev/store"
)

// Why says where a Service leads and why: every pod of its namespace with a verdict, from the functions that decide.
type Why struct {
	Service   string   `json:"service"` // namespace/name
	Type      string   `json:"type"`
	Selector  string   `json:"selector"`
	Addresses []string `json:"addresses"` // "TCP 10.96.0.7:80 (ClusterIP)"
	Pods      []WhyPod `json:"pods"`      // the chosen first
	Notes     []string `json:"notes"`
}

// WhyPod is one candidate: a pod, or an address that a slice names without a pod.
type WhyPod struct {
	Pod       string   `json:"pod"`
	Chosen    bool     `json:"chosen"`
	Share     float64  `json:"share"` // 0..1 of new connections to the Service's first port
	Addresses []string `json:"addresses"`
	Reason    string   `json:"reason"`
}

// Why explains a Service.
func (c *Cluster) Why(ctx context.Context, name types.NamespacedName) (Why, error) {
	svc, err := c.service(name)
	if err != nil {
		return Why{}, err
	}
	table := c.anyMachine().proxy.Explain(name)
	w := Why{
		Service: name.String(), Type: string(svc.Spec.Type), Selector: labels.FormatLabels(svc.Spec.Selector),
		Addresses: []string{}, Pods: []WhyPod{}, Notes: []string{},
	}
	for _, port := range table.Ports {
		for _, way := range port.Ways {
			w.Addresses = append(w.Addresses, port.Protocol+" "+way.String())
		}
	}
	list, err := c.store.List(ctx, api.Pods, store.Query{Namespace: name.Namespace})
	if err != nil {
		return w, err
	}
	held := byPod(table)
	for _, pod := range store.All[*corev1.Pod](list.Items) {
		w.Pods = append(w.Pods, whyPod(svc, pod, held, table.Absent != ""))
		delete(held, pod.Namespace+"/"+pod.Name)
	}
	for _, at := range held {
		w.Pods = append(w.Pods, WhyPod{Pod: "-", Chosen: at.used, Addresses: at.addresses, Reason: at.reason})
	}
	w.finish(svc, table)
	return w, nil
}

// atProxy is what a connected node's table holds for a pod, over all ports.
type atProxy struct {
	used      bool // for the first port
	addresses []string
	reason    string
}

// byPod gathers the table's endpoints by pod; those without one by address.
func byPod(table proxy.Explanation) map[string]*atProxy {
	out := map[string]*atProxy{}
	for i, port := range table.Ports {
		for _, e := range port.Endpoints {
			key := cmp.Or(e.Pod, e.Address.Addr().String())
			at := out[key]
			if at == nil {
				at = &atProxy{reason: string(e.Verdict)}
				out[key] = at
			}
			at.addresses = append(at.addresses, e.Address.String())
			at.used = at.used || i == 0 && e.Verdict.Used()
		}
	}
	return out
}

// whyPod: the slices decide first, then the rulesets, unless they leave the Service alone.
func whyPod(svc *corev1.Service, pod *corev1.Pod, held map[string]*atProxy, alone bool) WhyPod {
	verdict := controller.Explain(svc, pod)
	out := WhyPod{Pod: pod.Name, Chosen: verdict.Ready, Addresses: []string{}, Reason: verdict.Reason}
	at := held[pod.Namespace+"/"+pod.Name]
	switch {
	case alone && verdict.Endpoint:
		out.Addresses = append(out.Addresses, pod.Status.PodIP)
	case at != nil:
		out.Chosen, out.Addresses = at.used, at.addresses
		if at.used != verdict.Ready { // e.g. the last one serves while it ends
			out.Reason = at.reason
		}
	case verdict.Ready && !alone:
		out.Chosen, out.Reason = false, "ready, and on its way to the rulesets"
	}
	return out
}

// finish orders the pods, shares the connections out, and notes what a reader may wonder about.
func (w *Why) finish(svc *corev1.Service, table proxy.Explanation) {
	chosen := 0
	for _, p := range w.Pods {
		if p.Chosen {
			chosen++
		}
	}
	for i := range w.Pods {
		if w.Pods[i].Chosen {
			w.Pods[i].Share = 1 / float64(chosen)
		}
	}
	slices.SortStableFunc(w.Pods, func(a, b WhyPod) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Pod, b.Pod))
	})
	note := func(format string, words ...any) { w.Notes = append(w.Notes, fmt.Sprintf(format, words...)) }
	if table.Absent != "" {
		note("no ruleset holds it: %s", table.Absent)
	}
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		note("its name is an alias of %s", svc.Spec.ExternalName)
	case len(svc.Spec.Selector) == 0:
		note("it has no selector: its endpoints are what its EndpointSlices say")
	}
	if chosen == 0 && len(table.Ports) > 0 {
		note("nothing is chosen: a connection is refused at once")
	}
	for _, port := range table.Ports {
		if port.Affinity > 0 {
			note("session affinity: a client keeps its pod for %d s", port.Affinity)
			break
		}
	}
}
