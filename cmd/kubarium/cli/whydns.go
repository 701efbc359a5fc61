package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
	"kubarium.dev/dns"
)

type whyDNSFlags struct{ from, namespace, output string }

// whyDNSCommand is "why dns".
func (a *app) whyDNSCommand() *cobra.Command {
	var f whyDNSFlags
	const usage = "kubarium why dns [NAME] [--from pod/NAME] [-n NAMESPACE]"
	c := &cobra.Command{
		Use: "dns [NAME]", Short: "Say how a pod finds a name, question by question; without a name, what was asked lately",
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) > 1 {
				return failf(exitUsage, "usage: "+usage, "it takes one name, got %d", len(words))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if len(words) == 0 {
				return a.questions(cmd.Context(), cl, f)
			}
			return a.nameWalk(cmd.Context(), cl, words[0], f)
		},
	}
	c.Flags().StringVar(&f.from, "from", "", "the pod that asks: pod/NAME or pod/NAMESPACE/NAME")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "default", "the pod's namespace")
	outputFlag(c.Flags(), &f.output)
	return c
}

func (a *app) nameWalk(ctx context.Context, cl *client, name string, f whyDNSFlags) error {
	var walk cluster.NameWalk
	q := url.Values{"name": {name}, "from": {f.from}, "namespace": {f.namespace}}
	if err := cl.get(ctx, "/kubarium/v1/dns/why?"+q.Encode(), &walk); err != nil {
		return err
	}
	show := shown{value: walk, names: walk.Addresses, table: func(w *tabwriter.Writer) {
		if len(walk.Steps) > 0 {
			fmt.Fprintln(w, "QUESTION\tTYPE\tCODE\tANSWER\tTOOK\tWHY")
		}
		for _, s := range walk.Steps {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Type, s.Rcode, answers(s), s.Took.Round(time.Microsecond), reason(s))
		}
	}}
	if f.output != "table" && f.output != "wide" {
		return a.show(f.output, show)
	}
	fmt.Fprintf(a.out, "%s, asked by %s\n", walk.Name, walk.From)
	for line := range strings.Lines(walk.ResolvConf) {
		fmt.Fprintf(a.out, "  %s\n", strings.TrimSpace(line))
	}
	if err := a.show(f.output, show); err != nil {
		return err
	}
	if len(walk.Addresses) > 0 {
		fmt.Fprintf(a.out, "%s\n", strings.Join(walk.Addresses, " "))
	}
	fmt.Fprintf(a.out, "%s\n", walk.Explanation)
	return nil
}

// answers is the records' types and data: the owner is in the line, or a name that a CNAME before it leads to.
func answers(s dns.Step) string {
	if len(s.Answers) == 0 {
		return "-"
	}
	var all []string
	for _, record := range s.Answers {
		if words := strings.SplitN(record, " ", 5); len(words) == 5 {
			all = append(all, words[3]+" "+words[4])
		}
	}
	return strings.Join(all, ", ")
}

// reason is the objects that a name comes from, and what else there is to say.
func reason(s dns.Step) string {
	from := strings.Join(s.From, ", ")
	if from != "" && s.Reason != "" {
		from += ": "
	}
	return from + s.Reason
}

func (a *app) questions(ctx context.Context, cl *client, f whyDNSFlags) error {
	var all []dns.Question
	q := url.Values{"from": {f.from}, "namespace": {f.namespace}}
	if err := cl.get(ctx, "/kubarium/v1/dns/questions?"+q.Encode(), &all); err != nil {
		return err
	}
	var names []string
	for _, q := range all {
		names = append(names, q.Name)
	}
	return a.show(f.output, shown{value: all, names: names, table: func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "TIME\tFROM\tQUESTION\tTYPE\tCODE\tTOOK")
		for _, q := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", q.Time.Local().Format("15:04:05.000"), q.From, q.Name, q.Type, q.Rcode, q.Took.Round(time.Microsecond))
		}
	}})
}
