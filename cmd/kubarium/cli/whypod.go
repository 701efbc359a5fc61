package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"

	"kubarium.dev/cluster"
)

// podName reads "pod/NAME".
func podName(word string) (string, bool) {
	kind, name, ok := strings.Cut(word, "/")
	return name, ok && (kind == "po" || kind == "pod" || kind == "pods")
}

// whyPod is "why pod/NAME".
func (a *app) whyPod(ctx context.Context, name, namespace, output string) error {
	if name == "" || strings.Contains(name, "/") {
		return failf(exitUsage, "write pod/NAME, and its namespace with -n", "%q is not the name of a pod", name)
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	var w cluster.PodWhy
	if err := cl.get(ctx, "/kubarium/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(name)+"/why", &w); err != nil {
		return err
	}
	if output != "table" {
		return a.show(output, shown{value: w, names: []string{"pod/" + name}})
	}
	ready := "not ready"
	if w.Ready {
		ready = "ready"
	}
	fmt.Fprintf(a.out, "Pod %s, %s, %s, on %s at %s\n", w.Pod, w.Phase, ready, cmp.Or(w.Node, "no node"), cmp.Or(w.Address, "no address"))
	for _, text := range w.Waits {
		fmt.Fprintf(a.out, "  %s\n", text)
	}
	if len(w.Services) == 0 {
		_, err := fmt.Fprintln(a.out, "no Service of its namespace has a selector")
		return err
	}
	return a.show("table", shown{table: func(t *tabwriter.Writer) {
		fmt.Fprintln(t, "SERVICE\tCHOSEN\tSHARE\tADDRESSES\tWHY")
		for _, s := range w.Services {
			chosen, share := "no", "-"
			if s.Chosen {
				chosen, share = "yes", fmt.Sprintf("%.1f %%", 100*s.Share)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.Service, chosen, share, orNone(s.Addresses), s.Reason)
		}
	}})
}
