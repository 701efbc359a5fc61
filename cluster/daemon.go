package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// DaemonAttr is how the cluster's process is started: in a session and a mount namespace of its own, and, for an ordinary
// user, in a user namespace in which it is root. It stays in the host's network namespace, whose loopback it publishes on.
func DaemonAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() == 0 {
		return attr
	}
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	return attr
}

// Leftover is one thing that outlived its cluster. A process (PID is not 0) may only be about to end.
type Leftover struct {
	PID  int
	What string
}

func (l Leftover) String() string { return l.What }

// Leftovers looks over the machine for what a cluster that ended should have taken with it: processes that stand in one of its
// network namespaces (by inode), and mounts of its state. A network namespace that no process holds is gone, and with it its
// interfaces, routes and nftables objects.
func Leftovers(namespaces []uint64, stateDir string) ([]Leftover, error) {
	ours := map[string]bool{}
	for _, inode := range namespaces {
		ours["net:["+strconv.FormatUint(inode, 10)+"]"] = true
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var left []Leftover
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(p))
		for _, what := range heldBy(p, ours) {
			left = append(left, Leftover{PID: pid, What: what})
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look for mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+stateDir+"/") {
			left = append(left, Leftover{What: "mount " + strings.Fields(line)[4]})
		}
	}
	return left, nil
}

// Held are the inodes of the network namespaces that a process holds by descriptors: all of a cluster's, for its daemon.
func Held(pid int) []uint64 {
	var inodes []uint64
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // a process that is gone holds none
	for _, l := range links {
		name, err := os.Readlink(l)
		if err != nil {
			continue
		}
		number, isNet := strings.CutPrefix(strings.TrimSuffix(name, "]"), "net:[")
		if inode, err := strconv.ParseUint(number, 10, 64); isNet && err == nil {
			inodes = append(inodes, inode)
		}
	}
	return inodes
}

// heldBy lists what of ours one process (a folder of /proc) holds. A process that may not be looked at is another user's.
func heldBy(proc string, ours map[string]bool) []string {
	pid := filepath.Base(proc)
	if ns, err := os.Readlink(proc + "/ns/net"); err == nil && ours[ns] {
		return []string{"process " + pid + " " + commandOf(proc) + " in " + ns}
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return nil
	}
	for _, fd := range fds {
		ns, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if ours[ns] {
			return []string{"process " + pid + " " + commandOf(proc) + " holds " + ns}
		}
	}
	return nil
}

func commandOf(proc string) string {
	raw, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return "?"
	}
	return string(bytes.ReplaceAll(bytes.TrimRight(raw, "\x00"), []byte{0}, []byte{' '}))
}
