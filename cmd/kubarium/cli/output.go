package cli

import (
	"encoding/json"
	"text/tabwriter"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// outputFlag declares -o for a command that shows things.
func outputFlag(fl *pflag.FlagSet, into *string) {
	fl.StringVarP(into, "output", "o", "table", "table, wide, json, yaml or name")
}

// shown is something that can be shown in each output of the contract.
type shown struct {
	value any                     // for json and yaml
	table func(*tabwriter.Writer) // for table and wide
	names []string                // for name
}

// show prints in the output that -o asked for.
func (a *app) show(output string, s shown) error {
	switch output {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(s.value)
	case "yaml":
		raw, err := yaml.Marshal(s.value)
		if err != nil {
			return err
		}
		_, err = a.out.Write(raw)
		return err
	case "table", "wide":
		w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
		s.table(w)
		return w.Flush()
	case "name":
		for _, n := range s.names {
			if _, err := a.out.Write([]byte(n + "\n")); err != nil {
				return err
			}
		}
		return nil
	}
	return failf(exitUsage, "use -o table, wide, json, yaml or name", "unknown output %q", output)
}
