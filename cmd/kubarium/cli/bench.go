package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/bench"
)

// benchGrace is how long the measuring process may take to clean up after Ctrl-C: the kernel ends a transaction first.
const benchGrace = 30 * time.Second

const benchUsage = "kubarium bench services [--services N,...] [--short] [--plot FILE.svg]"

type benchFlags struct {
	services  []int
	endpoints int
	short     bool
	limit     time.Duration
	plot      string
	output    string
	inside    bool // this is the process in namespaces of its own
}

func (f benchFlags) words() []string {
	words := []string{
		"bench", "services", "--inside", "--endpoints", strconv.Itoa(f.endpoints), "--limit", f.limit.String(), "--plot", f.plot,
		"--output", f.output, "--short=" + strconv.FormatBool(f.short),
	}
	for _, n := range f.services {
		words = append(words, "--services", strconv.Itoa(n))
	}
	return words
}

func (a *app) benchCommand() *cobra.Command {
	return group("bench", "Measure the scale claims on this machine, side by side with other ways", benchUsage, a.benchServicesCommand())
}

func (a *app) benchServicesCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use: "services", Short: "The same Services as iptables rules, as nftables chains, and as kubarium has them",
		Long: `Loads the same Services with the same endpoints into the kernel in several layouts, each in network namespaces of its own:
kube-proxy's iptables rules, kube-proxy's nftables chains, and kubarium's own. It measures the time to load all, to add one
more, and to connect through the last. No cluster is needed, and the host's network is not touched. Layouts whose tools the
machine lacks are left out.`,
		Args: args(0, benchUsage),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.inside {
				return a.benchServices(cmd.Context(), f)
			}
			if err := f.check(); err != nil {
				return err
			}
			return a.inNamespaces(cmd.Context(), f.words())
		},
	}
	fl := c.Flags()
	fl.IntSliceVar(&f.services, "services", nil, "how many Services are held (default 1000,5000,20000)")
	fl.IntVar(&f.endpoints, "endpoints", 5, "endpoints of each Service")
	fl.BoolVar(&f.short, "short", false, "a few seconds instead of minutes: 100 and 1000 Services, fewer repetitions")
	fl.DurationVar(&f.limit, "limit", 2*time.Minute, "leave a layout out where one step takes longer")
	fl.StringVar(&f.plot, "plot", "", "draw the figures into this file (.svg)")
	fl.BoolVar(&f.inside, "inside", false, "")
	fl.Lookup("inside").Hidden = true
	outputFlag(fl, &f.output)
	return c
}

// check looks at what would otherwise fail only when all is measured.
func (f benchFlags) check() error {
	if f.plot != "" && filepath.Ext(f.plot) != ".svg" {
		return failf(exitUsage, "name it FILE.svg; browsers show it, and convert it", "the plot is an SVG picture, and %q is not named so", f.plot)
	}
	if info, err := os.Stat(filepath.Dir(f.plot)); f.plot != "" && (err != nil || !info.IsDir()) {
		return failf(exitNotFound, "make the folder first", "--plot %s: there is no folder %s", f.plot, filepath.Dir(f.plot))
	}
	for _, n := range f.services {
		if n < 1 || n > bench.MaxServices {
			return failf(exitUsage, "usage: "+benchUsage, "--services %d: it must be between 1 and %d", n, bench.MaxServices)
		}
	}
	if f.endpoints < 1 || f.endpoints > bench.MaxEndpoints {
		return failf(exitUsage, "usage: "+benchUsage, "--endpoints %d: it must be between 1 and %d", f.endpoints, bench.MaxEndpoints)
	}
	return (&app{out: io.Discard}).show(f.output, shown{table: func(*tabwriter.Writer) {}})
}

// inNamespaces runs this program again where it may make namespaces, as `up` runs the daemon, and stays with it. It ends with
// this process, however this one ends: by then its standard input has ended.
func (a *app) inNamespaces(ctx context.Context, words []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, exe, words...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = benchGrace
	cmd.Stdout, cmd.Stderr = a.out, a.err
	cmd.SysProcAttr = cluster.DaemonAttr()
	cmd.SysProcAttr.Setsid = false
	hold, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer hold.Close()
	if err := cmd.Start(); err != nil {
		return namespaceFault(err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return failf(exitFailed, "", "interrupted; nothing is left behind")
	case errors.As(err, &exit):
		return silent(exit.ExitCode())
	}
	return err
}

// benchServices is the measuring process.
func (a *app) benchServices(ctx context.Context, f benchFlags) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		io.Copy(io.Discard, a.in)
	}()
	o := bench.Options{
		Services: f.services, Endpoints: f.endpoints, Limit: f.limit,
		Progress: func(what string) { fmt.Fprintf(a.err, "  %s\n", what) },
	}
	if f.short {
		o.Adds, o.Connects = 3, 200
		if len(o.Services) == 0 {
			o.Services = []int{100, 1000}
		}
	}
	res, err := bench.Services(ctx, o)
	if ctx.Err() != nil {
		return silent(exitFailed)
	}
	if err != nil {
		return err
	}
	if f.plot != "" {
		if err := writePlot(f.plot, res); err != nil {
			return err
		}
	}
	s := shown{value: res, table: func(w *tabwriter.Writer) { benchTable(w, res) }}
	for _, row := range res.Rows {
		s.names = append(s.names, row.Layout)
	}
	if err := a.show(f.output, s); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "measured in %s on %s\n", res.Took, res.Machine)
	return nil
}

func writePlot(path string, res bench.Result) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(res.SVG(f), f.Close())
}

func benchTable(w *tabwriter.Writer, res bench.Result) {
	fmt.Fprintln(w, "SERVICES\tLAYOUT\tCHAINS\tRULES\tLOAD ALL\tADD ONE\tIPTABLES -A\tCONNECT\tDIRECT")
	for _, r := range res.Rows {
		rule := "-"
		if r.AddRule > 0 {
			rule = r.AddRule.String()
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", r.Services, r.Layout, r.Chains, r.Rules, r.Load, r.Add, rule, r.Connect, r.Direct)
	}
	fmt.Fprintln(w)
	for _, l := range res.Layouts() {
		fmt.Fprintf(w, "%s: %s\n", l, bench.Explain(l))
	}
	for _, s := range res.LeftOut {
		fmt.Fprintf(w, "left out: %s from %d Services on: %s\n", s.Layout, s.Services, s.Why)
	}
}
