package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"kubarium.dev/cluster"
)

func (a *app) statusCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "status", Short: "Show nodes, addresses, ranges, memory, published ports, problems", Args: args(0, "kubarium status [-o table|json|yaml]"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := newState(a.name)
			if err != nil {
				return err
			}
			cl, err := st.client()
			if err != nil {
				return err
			}
			var s cluster.Status
			if err := cl.get(cmd.Context(), "/kubarium/v1/status", &s); err != nil {
				return err
			}
			return a.printStatus(s, output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return c
}

func (a *app) printStatus(s cluster.Status, output string) error {
	switch output {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	case "yaml":
		raw, err := yaml.Marshal(s)
		if err != nil {
			return err
		}
		_, err = a.out.Write(raw)
		return err
	case "table", "wide":
		return a.statusTable(s)
	}
	return failf(exitUsage, "use -o table, json or yaml", "unknown output %q", output)
}

func (a *app) statusTable(s cluster.Status) error {
	fmt.Fprintf(a.out, "cluster %s, kubarium %s, pid %d, up %s\n", s.Name, s.Version, s.PID, s.Uptime)
	fmt.Fprintf(a.out, "API %s, revision %d; memory %d MiB, network namespaces %d\n", s.API, s.Revision, s.MemoryKiB/1024, s.Namespaces)
	fmt.Fprintf(a.out, "pods %v, Services %v, DNS %v (%s)\n\n", s.Networks.Pods, s.Networks.Services, s.Networks.DNS, s.Domain)
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tREADY\tADDRESS\tON THE HOST\tPODS\tPOD RANGE")
	for _, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%t\t%v\t%v\t%d\t%v\n", n.Name, n.Ready, n.Address, n.Loopback, n.Pods, n.PodRange)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.Published) > 0 {
		fmt.Fprintln(w, "\nSERVICE\tPROTOCOL\tON THE HOST\tLEADS TO")
		for _, p := range s.Published {
			fmt.Fprintf(w, "%s\t%s\t%v\t%v\n", p.Service, p.Protocol, p.Host, p.Target)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, p := range s.Problems {
		fmt.Fprintf(a.out, "problem: %s\n", p)
	}
	return nil
}
