package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kubarium.dev/cluster"
)

// report lines travel from the daemon to `up`, one JSON value a line, over the daemon's descriptor 3.
type reportLine struct {
	Stage *cluster.Stage `json:"stage,omitempty"`
	Ready bool           `json:"ready,omitempty"`
	Error string         `json:"error,omitempty"`
}

const (
	reportFD = 3
	maxLog   = 8 << 20 // bytes; a log beyond this is begun anew at the next start
)

// daemonFlags is what `up` hands to the daemon it starts.
type daemonFlags struct {
	nodes  int
	config string
}

func (d daemonFlags) words() []string {
	return []string{"--nodes", strconv.Itoa(d.nodes), "--config", d.config}
}

// daemonCommand is the cluster's own process. `up` runs it in a mount namespace and, for an ordinary user, a user namespace of
// its own: one program, one code path.
func (a *app) daemonCommand() *cobra.Command {
	var d daemonFlags
	c := &cobra.Command{
		Use: "daemon", Hidden: true, Args: args(0, "kubarium up"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDaemon(cmd.Context(), d) },
	}
	c.Flags().IntVar(&d.nodes, "nodes", 0, "")
	c.Flags().StringVar(&d.config, "config", "", "")
	return c
}

func (a *app) runDaemon(ctx context.Context, d daemonFlags) error {
	pipe := os.NewFile(reportFD, "report")
	if pipe == nil {
		return failf(exitUsage, "use: kubarium up", "the daemon is started by kubarium up")
	}
	life, end := context.WithCancel(ctx)
	defer end()
	go tidy(life)
	enc := json.NewEncoder(pipe)
	c, err := a.startCluster(ctx, d, func(s cluster.Stage) { enc.Encode(reportLine{Stage: &s}) })
	if err != nil {
		enc.Encode(reportLine{Error: err.Error()})
		return silent(exitFailed)
	}
	enc.Encode(reportLine{Ready: true})
	pipe.Close()
	select {
	case <-ctx.Done():
	case <-c.Done():
	}
	return c.Close()
}

func (a *app) startCluster(ctx context.Context, d daemonFlags, progress func(cluster.Stage)) (*cluster.Cluster, error) {
	// Mounts made from here on must not travel back to the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the mounts private: %w", err)
	}
	if err := raiseFileLimit(); err != nil {
		return nil, err
	}
	st, err := newState(a.name)
	if err != nil {
		return nil, err
	}
	o := cluster.Options{
		Name: a.name, StateDir: st.dir, Nodes: d.nodes, Progress: progress, Version: Version,
		Log: slog.New(slog.NewTextHandler(a.err, nil)),
	}
	if d.config != "" {
		if o.Config, err = cluster.ReadConfig(d.config); err != nil {
			return nil, err
		}
	}
	c, err := cluster.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := a.writeDown(st, c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// writeDown records the running daemon for the other commands.
func (a *app) writeDown(st state, c *cluster.Cluster) error {
	if err := os.WriteFile(st.file("kubeconfig"), c.Kubeconfig(), 0o600); err != nil {
		return err
	}
	self, err := cluster.ProcessOf(os.Getpid())
	if err != nil {
		return err
	}
	return st.write(record{Process: self, URL: c.URL(), Version: Version})
}

// raiseFileLimit lifts RLIMIT_NOFILE to the hard limit: every pod and every published port holds descriptors.
func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// spawn starts the daemon in namespaces of its own, with more environment if need be, and returns its report pipe.
func (a *app) spawn(st state, d daemonFlags, env ...string) (*exec.Cmd, *os.File, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return nil, nil, err
	}
	log, err := openLog(st.file("daemon.log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	cmd := exec.Command(exe, append([]string{"--name", st.name, "daemon"}, d.words()...)...)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = cluster.DaemonAttr()
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, nil, namespaceFault(err)
	}
	return cmd, r, nil
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// namespaceFault explains why a process could not be started in namespaces of its own.
func namespaceFault(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EACCES) {
		return failf(exitMissing, "allow them (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces=10000), or run as root",
			"this machine does not let user %d make user namespaces: %v", os.Getuid(), err)
	}
	return err
}

// absolute makes a path independent of the working folder, which the daemon does not share.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

// since prints a duration in milliseconds, the scale of everything here.
func since(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
