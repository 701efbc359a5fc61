package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// listed is one cluster of this user.
type listed struct {
	Name    string `json:"name"`
	Running bool   `json:"running"`
	PID     int    `json:"pid,omitempty"`
	URL     string `json:"url,omitempty"`
	State   string `json:"state"` // its folder
}

func (a *app) listCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "list", Short: "List your clusters", Args: args(0, "kubarium list [-o table|json|yaml|name]"),
		RunE: func(*cobra.Command, []string) error {
			all, err := clusters()
			if err != nil {
				return err
			}
			s := shown{value: all, table: func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NAME\tRUNNING\tPID\tAPI\tSTATE")
				for _, l := range all {
					fmt.Fprintf(w, "%s\t%t\t%d\t%s\t%s\n", l.Name, l.Running, l.PID, l.URL, l.State)
				}
			}}
			for _, l := range all {
				s.names = append(s.names, l.Name)
			}
			return a.show(output, s)
		},
	}
	outputFlag(c.Flags(), &output)
	return c
}

// clusters are those that have a folder below this user's state.
func clusters() ([]listed, error) {
	root, err := stateRoot()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := []listed{}
	for _, e := range entries {
		st, err := newState(e.Name())
		if err != nil {
			continue // a file of somebody else's
		}
		l := listed{Name: st.name, State: st.dir}
		if r, ok := st.running(); ok {
			l.Running, l.PID, l.URL = true, r.PID, r.URL
		}
		all = append(all, l)
	}
	return all, nil
}
