package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// kubectlVerbs are the words that kubectl itself answers; "kubectl" is followed by any of its verbs.
var kubectlVerbs = []string{
	"kubectl", "apply", "get", "describe", "delete", "edit", "label", "annotate", "patch", "scale", "rollout", "set", "expose",
	"run", "create", "replace", "logs", "exec", "cp", "port-forward", "wait", "events", "explain", "api-resources", "api-versions",
	"diff", "top", "auth", "cordon", "uncordon", "drain", "taint", "attach", "debug", "proxy",
}

// kubectlWords tells whether the words are kubectl's: the verb and what follows it.
func kubectlWords(words []string) (verb string, rest []string, ok bool) {
	if len(words) == 0 || !slices.Contains(kubectlVerbs, words[0]) {
		return "", nil, false
	}
	return words[0], words[1:], true
}

// kubectl runs one of kubectl's verbs against this cluster. apply and wait first look at what is kubarium's own in them.
func (a *app) kubectl(ctx context.Context, verb string, rest []string) error {
	signal.Reset(os.Interrupt, syscall.SIGTERM) // port-forward, proxy and logs -f know no other end
	st, err := newState(a.name)
	if err != nil {
		return err
	}
	if !slices.Contains(rest, "--help") && !slices.Contains(rest, "-h") {
		if _, err := st.mustRun(); err != nil {
			return err
		}
	}
	switch verb {
	case "apply":
		return a.apply(ctx, st, rest)
	case "wait":
		if done, err := a.waitProgrammed(ctx, st, rest); done {
			return err
		}
	case "kubectl":
		return a.runKubectl(st, rest)
	}
	return a.runKubectl(st, append([]string{verb}, rest...))
}

// runKubectl is the real kubectl, with this cluster's kubeconfig unless the user named another. A failed command ends in
// kubectl's fatal handler, which must not return: it is left by a panic that is caught here.
func (a *app) runKubectl(st state, words []string) (err error) {
	cmdutil.BehaviorOnFatal(func(msg string, code int) {
		if msg != "" {
			fmt.Fprintln(a.err, strings.TrimSuffix(msg, "\n"))
		}
		panic(silent(code))
	})
	defer cmdutil.DefaultBehaviorOnFatal()
	defer func() {
		r := recover()
		if s, ok := r.(silent); ok {
			err = s
		} else if r != nil {
			panic(r)
		}
	}()
	return a.kubectlCommand(st, words).Execute()
}

func (a *app) kubectlCommand(st state, words []string) *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	file := st.file("kubeconfig")
	flags.KubeConfig = &file
	c := cmd.NewKubectlCommand(cmd.KubectlOptions{
		Arguments:   append([]string{"kubectl"}, words...),
		ConfigFlags: flags,
		IOStreams:   genericiooptions.IOStreams{In: a.in, Out: a.out, ErrOut: a.err},
	})
	logs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logs)
	for _, name := range []string{"v", "vmodule"} { // kubectl's main adds them: -v=6 shows the requests
		c.PersistentFlags().AddGoFlag(logs.Lookup(name))
	}
	c.SetArgs(words)
	c.SilenceErrors = true
	c.SilenceUsage = true
	return c
}

// isTerminal tells whether a stream is a character device.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
