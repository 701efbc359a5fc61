package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kubarium.dev/cluster"
)

// downGrace is how long a daemon may take to end its pods before it is killed: longer than a built-in pod's drain, and a kill
// leaves nothing behind either.
const downGrace = 10 * time.Second

type downFlags struct {
	all      bool
	keepData bool
}

func (a *app) downCommand() *cobra.Command {
	var f downFlags
	c := &cobra.Command{
		Use: "down", Short: "End the cluster and prove that nothing is left", Args: args(0, "kubarium down [--all] [--keep-data]"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.down(cmd.Context(), f) },
	}
	c.Flags().BoolVar(&f.all, "all", false, "every cluster of this user")
	c.Flags().BoolVar(&f.keepData, "keep-data", false, "keep the store: the next up brings the same objects back")
	c.Flags().StringVar(&a.kubeconfigFile, "kubeconfig", "", "the file that up --kubeconfig wrote")
	return c
}

func (a *app) down(ctx context.Context, f downFlags) error {
	if !f.all {
		st, err := newState(a.name)
		if err != nil {
			return err
		}
		if !st.exists() {
			fmt.Fprintf(a.err, "there is no cluster %q\n", st.name)
			return nil
		}
		return a.downOne(ctx, st, f)
	}
	those, err := clusters()
	if err != nil {
		return err
	}
	var all error
	for _, l := range those {
		all = errors.Join(all, a.downOne(ctx, state{name: l.Name, dir: l.State}, f))
	}
	return all
}

func (a *app) downOne(ctx context.Context, st state, f downFlags) error {
	var processes []cluster.Process
	if r, running := st.running(); running {
		namespaces := cluster.Held(r.PID)
		var err error
		if processes, err = cluster.Inside(namespaces); err != nil {
			return err
		}
		if err := endProcess(ctx, r.PID); err != nil {
			return fmt.Errorf("end the daemon, pid %d: %w", r.PID, err)
		}
		fmt.Fprintf(a.err, "ended the daemon (pid %d) and its %d network namespaces\n", r.PID, len(namespaces))
	} else {
		fmt.Fprintf(a.err, "cluster %q was not running\n", st.name)
	}
	if err := a.unmergeKubeconfig(st); err != nil {
		return err
	}
	left, err := leftovers(ctx, processes, st.dir)
	if err != nil {
		return err
	}
	if !f.keepData {
		if err := st.remove(); err != nil {
			return err
		}
		fmt.Fprintf(a.err, "removed %s\n", st.dir)
	}
	if len(left) > 0 {
		for _, l := range left {
			fmt.Fprintf(a.err, "left behind: %s\n", l)
		}
		return silent(exitConflict)
	}
	fmt.Fprintln(a.err, "nothing is left: no process, namespace, interface, route, nftables object or mount")
	return nil
}

// leftovers is what stays for good. A pod's process ends when it finds its daemon gone, which may be a moment after the daemon.
func leftovers(ctx context.Context, processes []cluster.Process, dir string) ([]cluster.Leftover, error) {
	until := time.Now().Add(downGrace)
	for {
		left, err := cluster.Leftovers(processes, dir)
		i := slices.IndexFunc(left, func(l cluster.Leftover) bool { return l.PID != 0 })
		if err != nil || i < 0 {
			return left, err
		}
		ended, err := waitProcess(ctx, left[i].PID, time.Until(until))
		if err != nil || !ended {
			return left, err
		}
	}
}

// waitProcess returns true when a process has ended, false when it has not within d.
func waitProcess(ctx context.Context, pid int, d time.Duration) (bool, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	n, err := poll(ctx, fd, d)
	return n > 0, err
}

// endProcess asks a process to end, waits, and kills it after downGrace.
func endProcess(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		n, err := poll(ctx, fd, downGrace)
		if n > 0 || err != nil {
			return err
		}
	}
	return errors.New("it does not end")
}

// poll waits until a pidfd is readable: its process has ended.
func poll(ctx context.Context, fd int, d time.Duration) (int, error) {
	deadline := time.Now().Add(d)
	for {
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return 0, ctx.Err()
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
