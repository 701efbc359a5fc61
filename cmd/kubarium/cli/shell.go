package cli

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/kubectl/pkg/util/term"

	"kubarium.dev/api"
)

func (a *app) shellCommand() *cobra.Command {
	var namespace, container string
	c := &cobra.Command{
		Use:   "shell pod/NAME | node/NAME | outside [-- COMMAND...]",
		Short: "A shell, or one command, in a pod, on a node, or outside the cluster",
		Args: func(cmd *cobra.Command, words []string) error {
			if len(words) == 0 {
				return failf(exitUsage, "write pod/NAME, node/NAME or outside", "which place?")
			}
			if len(words) > 1 && cmd.ArgsLenAtDash() != 1 {
				return failf(exitUsage, "usage: kubarium shell PLACE -- COMMAND...", "the command stands behind --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.shell(cmd.Context(), shellTarget{place: words[0], namespace: namespace, container: container}, words[1:])
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "the pod's namespace")
	c.Flags().StringVarP(&container, "container", "c", "", "the pod's container")
	return c
}

type shellTarget struct{ place, namespace, container string }

func (a *app) shell(ctx context.Context, t shellTarget, command []string) error {
	st, err := newState(a.name)
	if err != nil {
		return err
	}
	tty := len(command) == 0 && isTerminal(a.in)
	if len(command) == 0 {
		command = []string{"/bin/sh"}
	}
	if pod, ok := strings.CutPrefix(t.place, "pod/"); ok {
		words := []string{"exec", "-n", t.namespace, "-i", pod}
		if tty {
			words = append(words, "-t")
		}
		if t.container != "" {
			words = append(words, "-c", t.container)
		}
		if err := st.mustExist(ctx, resourcePath(api.Pods, t.namespace)+"/"+pod, &corev1.Pod{}); err != nil {
			return err
		}
		return a.runKubectl(st, append(append(words, "--"), command...))
	}
	if t.place != "outside" && !strings.HasPrefix(t.place, "node/") {
		return failf(exitUsage, "write pod/NAME, node/NAME or outside", "unknown place %q", t.place)
	}
	return a.shellAt(ctx, st, t.place, command, tty)
}

// mustExist looks for the place before its stream is opened: a stream's own errors, and those of kubectl exec, carry no code.
func (s state) mustExist(ctx context.Context, path string, into any) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	return c.get(ctx, path, into)
}

// shellAt runs a command on a node or outside, over the same protocol as kubectl exec.
func (a *app) shellAt(ctx context.Context, st state, place string, command []string, tty bool) error {
	if name, ok := strings.CutPrefix(place, "node/"); ok {
		if err := st.mustExist(ctx, resourcePath(api.Nodes, "")+"/"+name, &corev1.Node{}); err != nil {
			return err
		}
	}
	c, err := st.client()
	if err != nil {
		return err
	}
	q := url.Values{"place": {place}, "command": command, "stdin": {"true"}, "stdout": {"true"}}
	if tty {
		q.Set("tty", "true")
	} else {
		q.Set("stderr", "true")
	}
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", c.config.Host+"/kubarium/v1/shell?"+q.Encode())
	if err != nil {
		return err
	}
	o := remotecommand.StreamOptions{Stdin: a.in, Stdout: a.out, Tty: tty}
	stream := func() error { return executor.StreamWithContext(ctx, o) }
	if tty {
		t := term.TTY{In: a.in, Out: a.out, Raw: true}
		o.TerminalSizeQueue = sizes{t.MonitorSize(t.GetSize())}
		err = t.Safe(stream)
	} else {
		o.Stderr = a.err
		err = stream()
	}
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return silent(exit.Code)
	}
	return err
}

// sizes hands over the terminal's size, now and at each change.
type sizes struct{ of term.TerminalSizeQueue }

func (s sizes) Next() *remotecommand.TerminalSize {
	next := s.of.Next()
	if next == nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: next.Width, Height: next.Height}
}
