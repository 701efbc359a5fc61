package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kubarium.dev/api"
)

const defaultName = "kubarium"

// Version is the program's version, set by the linker.
var Version = "dev"

// app is what every command shares.
type app struct {
	name           string
	in             io.Reader
	out, err       io.Writer
	kubeconfigFile string // --kubeconfig of up, down
}

// Main runs the command line and returns the exit code.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: in, out: out, err: errw}
	root := newRoot(a)
	words, name := splitName(args[1:])
	a.name = name
	// kubectl reads its own flags, help included: cobra must not look at them first.
	if verb, rest, ok := kubectlWords(words); ok {
		return report(errw, a.kubectl(ctx, verb, rest))
	}
	root.SetArgs(words)
	err := root.ExecuteContext(ctx)
	var told *fault
	if err != nil && !errors.As(err, &told) && strings.HasPrefix(err.Error(), "unknown command") { // cobra has no type for it
		err = unknownCommand(root, words[0], "see: kubarium --help")
	}
	return report(errw, err)
}

// splitName takes --name out of the words; default: KUBARIUM_NAME, then "kubarium". After one of kubectl's verbs the flag is
// kubectl's (kubectl expose --name).
func splitName(words []string) (rest []string, name string) {
	name = os.Getenv("KUBARIUM_NAME")
	if name == "" {
		name = defaultName
	}
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "--" || slices.Contains(kubectlVerbs, w):
			return append(rest, words[i:]...), name
		case w == "--name" && i+1 < len(words):
			name = words[i+1]
			i++
		case strings.HasPrefix(w, "--name="):
			name = strings.TrimPrefix(w, "--name=")
		default:
			rest = append(rest, w)
		}
	}
	return rest, name
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubarium",
		Short: "A Kubernetes network in one binary: real API, real DNS, real packets, no containers",
		Long: `kubarium boots a small Kubernetes cluster in well under a second: an API that kubectl speaks to, DNS, an nftables
Service proxy, and nodes and pods that are real network namespaces. The host's network is not touched.

Begin with:  kubarium up
Then:        kubarium apply -f FILE, kubarium get pods, kubarium traffic svc/NAME, kubarium why svc/NAME
The end:     kubarium down

Kubernetes verbs (get, describe, logs, exec, scale, rollout, ...) are kubectl's own; so is all of "kubarium kubectl ...".`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&a.name, "name", defaultName, "the cluster (KUBARIUM_NAME)")
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if number := (*strconv.NumError)(nil); errors.As(err, &number) { // without the name of Go's function
			err = errors.New(strings.Replace(err.Error(), number.Error(), "it is not a number that fits", 1))
		}
		return failf(exitUsage, "see: "+cmd.CommandPath()+" --help", "%v", err)
	})
	root.AddCommand(a.upCommand(), a.downCommand(), a.daemonCommand(), a.statusCommand(), a.kubeconfigCommand(),
		a.trafficCommand(), a.whyCommand(), a.shellCommand(), a.nodeCommand(), a.imageCommand(), a.listCommand(), a.configCommand(), a.benchCommand(), a.doctorCommand(), a.versionCommand())
	for _, verb := range kubectlVerbs {
		root.AddCommand(&cobra.Command{
			Use: verb, Short: "Any verb of the real kubectl, for this cluster", Hidden: verb != "kubectl", DisableFlagParsing: true,
			Run: func(*cobra.Command, []string) {}, // answered before cobra; here for the help
		})
	}
	return root
}

// args checks the number of arguments, in the contract's words.
func args(n int, usage string) cobra.PositionalArgs { return argsBetween(n, n, usage) }

func argsBetween(least, most int, usage string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, words []string) error {
		if len(words) >= least && len(words) <= most {
			return nil
		}
		want := strconv.Itoa(least)
		if most > least {
			want += " to " + strconv.Itoa(most)
		}
		return failf(exitUsage, "usage: "+usage, "%s takes %s argument(s), got %d", cmd.CommandPath(), want, len(words))
	}
}

// unknownCommand tells of a word that is no command below cmd, and which one it is like.
func unknownCommand(cmd *cobra.Command, word, hint string) error {
	wrong := fmt.Sprintf("unknown command %q for %q", word, cmd.CommandPath())
	var known []string
	for _, c := range cmd.Commands() {
		known = append(known, c.Name())
	}
	if near := api.Nearest(word, known); near != "" {
		wrong += "; did you mean " + near
	}
	return failf(exitUsage, hint, "%s", wrong)
}

// group is a command that does nothing without one of those below it.
func group(use, short, usage string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) == 0 {
				return failf(exitUsage, "usage: "+usage, "%s needs to know what to do", cmd.CommandPath())
			}
			return unknownCommand(cmd, words[0], "usage: "+usage)
		},
	}
	c.AddCommand(below...)
	return c
}
