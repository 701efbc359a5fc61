package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
)

type upFlags struct {
	nodes      int
	config     string
	files      []string
	wait       time.Duration
	foreground bool
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	c := &cobra.Command{
		Use: "up", Short: "Boot the cluster and return when it is usable", Args: args(0, "kubarium up [--nodes N] [-f MANIFEST...]"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), f) },
	}
	fl := c.Flags()
	fl.IntVar(&f.nodes, "nodes", 0, "number of nodes; by default those that were there, 2 in a new cluster")
	fl.StringVar(&f.config, "config", "", "cluster configuration (kind: Cluster)")
	fl.StringSliceVarP(&f.files, "filename", "f", nil, "manifests to apply; up returns when they are programmed")
	fl.DurationVar(&f.wait, "wait", time.Minute, "how long to wait for a usable cluster")
	fl.BoolVar(&f.foreground, "foreground", false, "stay until interrupted, then take the cluster down")
	fl.StringVar(&a.kubeconfigFile, "kubeconfig", "", "write the kubeconfig to this file alone")
	return c
}

func (a *app) up(ctx context.Context, f upFlags) error {
	st, err := newState(a.name)
	if err != nil {
		return err
	}
	if r, ok := st.running(); ok {
		fmt.Fprintf(a.err, "cluster %q is already up at %s (pid %d)\n", st.name, r.URL, r.PID)
		if f.nodes != 0 || f.config != "" {
			fmt.Fprintf(a.err, "  --nodes and --config are for a start and change nothing now: see %s, or %s first\n", st.command("node --help"), st.command("down"))
		}
	} else if err := a.boot(ctx, st, f); err != nil {
		return err
	}
	if len(f.files) > 0 {
		words := []string{"--programmed"}
		for _, file := range f.files {
			words = append(words, "-f", file)
		}
		if err := a.apply(ctx, st, words); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.err, "next: %s\n", st.command("get pods -A"))
	if !f.foreground {
		return nil
	}
	<-ctx.Done()
	return a.down(context.WithoutCancel(ctx), downFlags{keepData: true})
}

// boot starts the daemon and tells each stage as it ends.
func (a *app) boot(ctx context.Context, st state, f upFlags) error {
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	config, err := absolute(f.config)
	if err != nil {
		return err
	}
	began := time.Now()
	cmd, pipe, err := a.spawn(st, daemonFlags{nodes: f.nodes, config: config})
	if err != nil {
		return err
	}
	defer pipe.Close()
	defer context.AfterFunc(ctx, func() { pipe.SetReadDeadline(time.Now()) })()
	err = a.follow(pipe)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		endDaemon(cmd)
		return failf(exitTimeout, "read "+st.file("daemon.log"), "the cluster was not usable within %v; its daemon was stopped", f.wait)
	case err != nil:
		endDaemon(cmd)
		return a.bootFault(st, err)
	}
	where, err := a.mergeKubeconfig(st)
	if err != nil {
		return err
	}
	r, _ := st.running()
	fmt.Fprintf(a.err, "cluster %q is up in %s: %s, kubeconfig %s\n", st.name, since(time.Since(began)), r.URL, where)
	return nil
}

// follow prints the daemon's stages until it is ready.
func (a *app) follow(pipe io.Reader) error {
	return followStages(pipe, func(s cluster.Stage) { fmt.Fprintf(a.err, "  %-28s %s\n", s.Name, since(s.Took)) })
}

// followQuietly returns when the daemon is ready, or with its error and the last stage that ended well.
func followQuietly(pipe io.Reader) (last string, err error) {
	err = followStages(pipe, func(s cluster.Stage) { last = s.Name })
	return last, err
}

func followStages(pipe io.Reader, stage func(cluster.Stage)) error {
	dec := json.NewDecoder(pipe)
	for {
		var l reportLine
		if err := dec.Decode(&l); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			return errors.New("the daemon ended before it was ready")
		}
		switch {
		case l.Error != "":
			return errors.New(l.Error)
		case l.Ready:
			return nil
		case l.Stage != nil:
			stage(*l.Stage)
		}
	}
}

func (a *app) bootFault(st state, err error) error {
	if strings.Contains(err.Error(), "operation not permitted") {
		return failf(exitMissing, "this needs Linux namespaces: as root it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, as a user it needs user namespaces", "the cluster did not start: %v", err)
	}
	return failf(exitFailed, "the daemon's log is "+st.file("daemon.log"), "the cluster did not start: %v", err)
}

// endDaemon ends a daemon that did not become ready, and waits for it.
func endDaemon(cmd *exec.Cmd) {
	cmd.Process.Signal(os.Interrupt)
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(downGrace):
		cmd.Process.Kill()
		<-ended
	}
}
