package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kubarium.dev/cluster"
)

// finding is one thing that the doctor looked at.
type finding struct {
	Check string `json:"check"`
	Found string `json:"found"`
	OK    bool   `json:"ok"`
	Do    string `json:"do,omitempty"` // what to do; for a finding that is OK, what would be better still
}

// fewFiles is a limit of open files that a cluster of a hundred pods just fits in.
const fewFiles = 4096

// trialTime bounds the trial cluster: one node starts in a fraction of a second.
const trialTime = 30 * time.Second

func (a *app) doctorCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "doctor", Short: "Look whether this machine has what a cluster needs, and start one on trial",
		Args: args(0, "kubarium doctor [-o table|json|yaml|name]"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := []finding{kernelFinding(), userFinding(), filesFinding(), portsFinding()}
			all = append(all, a.trial(cmd.Context()))
			s := shown{value: all, table: func(w *tabwriter.Writer) { findingsTable(w, all) }}
			failed := false
			for _, f := range all {
				s.names = append(s.names, f.Check)
				failed = failed || !f.OK
			}
			if err := a.show(output, s); err != nil {
				return err
			}
			if failed {
				return silent(exitMissing)
			}
			return nil
		},
	}
	outputFlag(c.Flags(), &output)
	return c
}

func findingsTable(w *tabwriter.Writer, all []finding) {
	fmt.Fprintln(w, "CHECK\tOK\tFOUND")
	for _, f := range all {
		ok := "yes"
		if !f.OK {
			ok = "NO"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Check, ok, f.Found)
	}
	for _, f := range all {
		if f.Do != "" {
			fmt.Fprintf(w, "%s: %s\n", f.Check, f.Do)
		}
	}
}

func kernelFinding() finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return finding{Check: "kernel", Found: err.Error()}
	}
	return finding{Check: "kernel", OK: true, Found: unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])}
}

// userFinding: root makes namespaces; others need user namespaces, which some systems forbid in their own ways.
func userFinding() finding {
	uid := os.Getuid()
	if uid == 0 {
		return finding{Check: "user", OK: true, Found: "root"}
	}
	f := finding{Check: "user", OK: true, Found: fmt.Sprintf("user %d, by user namespaces", uid)}
	for _, s := range []struct{ name, forbids string }{
		{"kernel/unprivileged_userns_clone", "0"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1"},
		{"user/max_user_namespaces", "0"},
	} {
		raw, err := os.ReadFile("/proc/sys/" + s.name)
		if err == nil && strings.TrimSpace(string(raw)) == s.forbids {
			name := strings.ReplaceAll(s.name, "/", ".")
			f.OK, f.Found = false, fmt.Sprintf("user %d, and %s is %s: no user namespaces", uid, name, s.forbids)
			f.Do = "as root: sysctl -w " + name + "=" + map[string]string{"0": "1", "1": "0"}[s.forbids]
			if s.name == "user/max_user_namespaces" {
				f.Do = "as root: sysctl -w " + name + "=10000"
			}
			return f
		}
	}
	return f
}

func filesFinding() finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return finding{Check: "open files", Found: err.Error()}
	}
	f := finding{Check: "open files", OK: l.Max >= fewFiles, Found: "at most " + strconv.FormatUint(l.Max, 10)}
	if !f.OK {
		f.Do = fmt.Sprintf("a pod needs some: raise the hard limit (ulimit -Hn) to %d or more", fewFiles)
	}
	return f
}

func portsFinding() finding {
	first := cluster.UnprivilegedFrom()
	f := finding{Check: "ports of the host", OK: true, Found: "all may be published"}
	if first > 0 {
		f.Found = fmt.Sprintf("below %d they are published at port + 8000 (80 at 8080)", first)
		f.Do = "to have them at their own numbers, as root: sysctl -w net.ipv4.ip_unprivileged_port_start=80"
	}
	return f
}

// trial starts a cluster with one node, as `up` does, and ends it.
func (a *app) trial(ctx context.Context) finding {
	f := finding{Check: "a cluster on trial"}
	root, err := stateRoot()
	if err == nil {
		err = os.MkdirAll(root, 0o700)
	}
	var dir string
	if err == nil {
		dir, err = os.MkdirTemp(root, ".doctor-")
	}
	if err != nil {
		f.Found, f.Do = err.Error(), "the cluster's state needs a folder that can be written: set XDG_STATE_HOME"
		return f
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	cmd, pipe, err := a.spawn(state{name: "doctor", dir: filepath.Join(dir, "kubarium", "doctor")}, daemonFlags{nodes: 1}, "XDG_STATE_HOME="+dir)
	if err != nil {
		f.Found, f.Do = err.Error(), hintOf(err)
		return f
	}
	defer pipe.Close()
	defer endDaemon(cmd)
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { pipe.SetReadDeadline(time.Now()) })()
	last, err := followQuietly(pipe)
	if err != nil {
		f.Found = fmt.Sprintf("after the stage %q: %v", last, err)
		f.Do = "what the kernel lacks stands in the message; kubarium needs network namespaces, veth, a bridge, nf_tables and conntrack"
		return f
	}
	f.OK, f.Found = true, fmt.Sprintf("up in %s: namespaces, veth, nftables, conntrack, DNS and a Service work", since(time.Since(began)))
	return f
}
