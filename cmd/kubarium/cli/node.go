package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
)

const nodeUsage = "kubarium node list | add [NODE] | stop NODE | start NODE | remove NODE | partition NODE [NODE] [--heal]"

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "Nodes come, go, lose power, lose each other", nodeUsage, a.nodeList(), a.nodeAdd(), a.nodePartition(),
		a.nodeAct("stop", "stopped", "Take the node's power away: its pods die without a word"),
		a.nodeAct("start", "started", "Give the node its power back"),
		a.nodeAct("remove", "removed", "Take the node away for good, and its Node object with it"))
}

func (a *app) nodeList() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "list", Short: "List the nodes", Args: args(0, "kubarium node list [-o table|json|yaml|name]"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.status(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(output, nodesShown(s.Nodes))
		},
	}
	outputFlag(c.Flags(), &output)
	return c
}

func nodesShown(nodes []cluster.NodeStatus) shown {
	s := shown{value: nodes, table: func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NODE\tPOWER\tREADY\tADDRESS\tON THE HOST\tPODS\tPOD RANGE")
		for _, n := range nodes {
			fmt.Fprintf(w, "%s\t%s\t%t\t%v\t%v\t%d\t%v\n", n.Name, n.State, n.Ready, n.Address, n.Loopback, n.Pods, n.PodRange)
		}
	}}
	for _, n := range nodes {
		s.names = append(s.names, "node/"+n.Name)
	}
	return s
}

func (a *app) nodeAdd() *cobra.Command {
	var n cluster.NodeConfig
	c := &cobra.Command{
		Use: "add [NODE]", Short: "Add a node; it is Ready when this returns", Args: argsBetween(0, 1, nodeUsage),
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) == 1 {
				n.Name = words[0]
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			raw, err := json.Marshal(n)
			if err != nil {
				return err
			}
			body, err := cl.do(cmd.Context(), http.MethodPost, "/kubarium/v1/nodes", bytes.NewReader(raw))
			if err != nil {
				return err
			}
			defer body.Close()
			var added cluster.NodeStatus
			if err := json.NewDecoder(body).Decode(&added); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "node/%s added: %v, on the host %v, pods in %v\n", added.Name, added.Address, added.Loopback, added.PodRange)
			return nil
		},
	}
	c.Flags().StringVar(&n.Zone, "zone", "", "its label topology.kubernetes.io/zone")
	c.Flags().StringToStringVar(&n.Labels, "label", nil, "more labels (key=value,...)")
	return c
}

func (a *app) nodeAct(act, done, short string) *cobra.Command {
	return &cobra.Command{
		Use: act + " NODE", Short: short, Args: args(1, "kubarium node "+act+" NODE"),
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := a.onNode(cmd, words, act); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "node/%s %s\n", words[0], done)
			return nil
		},
	}
}

func (a *app) nodePartition() *cobra.Command {
	var heal bool
	c := &cobra.Command{
		Use: "partition NODE [NODE]", Args: argsBetween(1, 2, nodeUsage),
		Short: "Cut a node off from everything, or two nodes from each other; --heal ends it",
		RunE: func(cmd *cobra.Command, words []string) error {
			act, done := "partition", "cut off from everything"
			switch {
			case heal:
				act, done = "heal", "connected again"
			case len(words) == 2:
				done = "and node/" + words[1] + " do not reach each other"
			}
			if err := a.onNode(cmd, words, act); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "node/%s %s\n", words[0], done)
			return nil
		},
	}
	c.Flags().BoolVar(&heal, "heal", false, "end the partition")
	return c
}

// onNode asks the daemon to do one thing to a node; a second node is its counterpart.
func (a *app) onNode(cmd *cobra.Command, words []string, act string) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	path := "/kubarium/v1/nodes/" + url.PathEscape(words[0]) + "/" + act
	if len(words) == 2 {
		path += "?with=" + url.QueryEscape(words[1])
	}
	body, err := cl.do(cmd.Context(), http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	return body.Close()
}
