package cli

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
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
		if _, err := st.mustRun(); err != nil {
			return err
		}
		return a.runKubectl(st, append(append(words, "--"), command...))
	}
	if t.place != "outside" && !strings.HasPrefix(t.place, "node/") {
		return failf(exitUsage, "write pod/NAME, node/NAME or outside", "unknown place %q", t.place)
	}
	return a.shellAt(ctx, st, t.place, command, tty)
}

// shellAt runs a command on a node or outside, over the same protocol as kubectl exec.
func (a *app) shellAt(ctx context.Context, st state, place string, command []string, tty bool) error {
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
	if tty {
		restore, sizes, err := rawTerminal(a.in.(*os.File))
		if err != nil {
			return err
		}
		defer restore()
		o.TerminalSizeQueue = sizes
	} else {
		o.Stderr = a.err
	}
	err = executor.StreamWithContext(ctx, o)
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return silent(exit.Code)
	}
	return err
}

// oneSize hands over the terminal's size at the start; a nil ends the queue.
type oneSize struct{ size *remotecommand.TerminalSize }

func (q *oneSize) Next() *remotecommand.TerminalSize {
	s := q.size
	q.size = nil
	return s
}

func rawTerminal(f *os.File) (restore func(), sizes remotecommand.TerminalSizeQueue, err error) {
	fd := int(f.Fd())
	w, h, err := term.GetSize(fd)
	if err != nil {
		return nil, nil, err
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, err
	}
	return func() { term.Restore(fd, old) }, &oneSize{&remotecommand.TerminalSize{Width: uint16(w), Height: uint16(h)}}, nil
}
