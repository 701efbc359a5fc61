package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
)

func (a *app) whyCommand() *cobra.Command {
	var namespace, output, from string
	c := &cobra.Command{
		Use:   "why svc/NAME|pod/NAME|ing/NAME|PROTOCOL://ADDRESS:PORT",
		Short: "Say why: where a Service or an Ingress leads, what a pod waits for, how a name is found, which rules a packet meets",
		Args:  args(1, "kubarium why svc/NAME|pod/NAME|ing/NAME|tcp://ADDRESS:PORT [--from pod/NAME|node/NAME|outside] [-n NAMESPACE]"),
		RunE: func(cmd *cobra.Command, words []string) error {
			if _, _, ok := packetTarget(words[0]); ok {
				return a.whyPacket(cmd.Context(), words[0], from, namespace, output)
			}
			if name, ok := ingressName(words[0]); ok {
				return a.whyIngress(cmd.Context(), name, namespace, output)
			}
			if name, ok := podName(words[0]); ok {
				return a.whyPod(cmd.Context(), name, namespace, output)
			}
			path, err := servicePath(words[0], namespace)
			if err != nil {
				return failf(exitUsage, "write svc/NAME, pod/NAME, ing/NAME or PROTOCOL://ADDRESS:PORT", "%q is nothing that can be explained", words[0])
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			var why cluster.Why
			if err := cl.get(cmd.Context(), path+"/why", &why); err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(a.out)
				enc.SetIndent("", "  ")
				return enc.Encode(why)
			}
			return a.whyTable(why)
		},
	}
	c.AddCommand(a.whyDNSCommand())
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "the Service's, Ingress's or pod's namespace")
	c.Flags().StringVar(&from, "from", "", "where a packet comes from: pod/NAME, node/NAME or outside; by default a node")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func (a *app) whyTable(why cluster.Why) error {
	fmt.Fprintf(a.out, "Service %s (%s), selector %s\n", why.Service, why.Type, why.Selector)
	for _, ad := range why.Addresses {
		fmt.Fprintf(a.out, "  %s\n", ad)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "POD\tCHOSEN\tSHARE\tADDRESSES\tWHY")
	for _, p := range why.Pods {
		chosen, share := "no", "-"
		if p.Chosen {
			chosen, share = "yes", fmt.Sprintf("%.1f %%", 100*p.Share)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Pod, chosen, share, strings.Join(p.Addresses, ","), p.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range why.Notes {
		fmt.Fprintf(a.out, "note: %s\n", n)
	}
	return nil
}
