package cli

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
)

func (a *app) statusCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "status", Short: "Show nodes, addresses, ranges, memory, published ports, problems", Args: args(0, "kubarium status [-o table|json|yaml]"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.status(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(output, shown{value: s, table: func(w *tabwriter.Writer) { statusTable(w, s) }, names: []string{s.Name}})
		},
	}
	outputFlag(c.Flags(), &output)
	return c
}

// status asks the daemon how the cluster is.
func (a *app) status(ctx context.Context) (s cluster.Status, err error) {
	cl, err := a.client()
	if err != nil {
		return s, err
	}
	return s, cl.get(ctx, "/kubarium/v1/status", &s)
}

func statusTable(w *tabwriter.Writer, s cluster.Status) {
	fmt.Fprintf(w, "cluster %s, kubarium %s, pid %d, up %s\n", s.Name, s.Version, s.PID, s.Uptime)
	fmt.Fprintf(w, "API %s, revision %d; memory %d MiB, network namespaces %d\n", s.API, s.Revision, s.MemoryKiB/1024, s.Namespaces)
	fmt.Fprintf(w, "pods %v, Services %v, DNS %v (%s)\n\n", s.Networks.Pods, s.Networks.Services, s.Networks.DNS, s.Domain)
	nodesShown(s.Nodes).table(w)
	if len(s.Published) > 0 {
		fmt.Fprintln(w, "\nSERVICE\tPROTOCOL\tON THE HOST\tLEADS TO")
		for _, p := range s.Published {
			fmt.Fprintf(w, "%s\t%s\t%v\t%v\n", p.Service, p.Protocol, p.Host, p.Target)
		}
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
}
