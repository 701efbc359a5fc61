package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"

	"kubarium.dev/ingress"
)

// ingressName takes the name out of ing/NAME, ingress/NAME or ingresses/NAME.
func ingressName(word string) (string, bool) {
	kind, name, ok := strings.Cut(word, "/")
	return name, ok && (kind == "ing" || kind == "ingress" || kind == "ingresses")
}

// whyIngress is "why ing/NAME".
func (a *app) whyIngress(ctx context.Context, name, namespace, output string) error {
	if name == "" || strings.Contains(name, "/") {
		return failf(exitUsage, "write ing/NAME", "%q is not the name of an Ingress", name)
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	var d ingress.Description
	path := "/kubarium/v1/namespaces/" + url.PathEscape(namespace) + "/ingresses/" + url.PathEscape(name) + "/why"
	if err := cl.get(ctx, path, &d); err != nil {
		return err
	}
	if output != "table" && output != "wide" {
		return a.show(output, shown{value: d, names: []string{"ingress/" + name}})
	}
	fmt.Fprintf(a.out, "Ingress %s, class %s, at %s\n", d.Ingress, d.Class, orNone(d.Addresses))
	for _, set := range d.Annotations {
		fmt.Fprintf(a.out, "  %s: %s\n", set[0], set[1])
	}
	if len(d.Rules) > 0 {
		if err := a.show("table", shown{table: func(w *tabwriter.Writer) { ingressRules(w, d.Rules, output == "wide") }}); err != nil {
			return err
		}
	}
	for _, c := range d.TLS {
		fmt.Fprintf(a.out, "TLS %s, Secret %s: %s\n", c.Host, orNone(strings.Fields(c.Secret)), c.State)
	}
	for _, w := range d.Wrong {
		fmt.Fprintf(a.out, "wrong: %s\n       %s\n", w.What, w.Next)
	}
	return nil
}

func orNone(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// fewEndpoints is how many a line shows unless it may be wide.
const fewEndpoints = 2

// ingressRules is a line for each place that a rule's requests go to.
func ingressRules(w *tabwriter.Writer, rules []ingress.Path, wide bool) {
	fmt.Fprintln(w, "HOST\tPATH\tTYPE\tBACKEND\tSHARE\tENDPOINTS\tFROM")
	for _, r := range rules {
		line := func(backend, share, endpoints string) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Host, r.Path, r.Kind, backend, share, endpoints, strings.TrimSuffix(r.Field+", if "+r.Condition, ", if "))
		}
		if r.Answer != "" {
			line(r.Answer, "-", "-")
		}
		for _, to := range r.To {
			some := to.Endpoints
			if more := len(some) - fewEndpoints; more > 1 && !wide {
				some = append(some[:fewEndpoints:fewEndpoints], fmt.Sprint(more, " more"))
			}
			endpoints := strings.Join(some, ", ")
			if to.Problem != "" {
				endpoints = "503: " + to.Problem
			}
			line(to.Backend, fmt.Sprintf("%.1f %%", 100*to.Share), endpoints)
		}
	}
}
