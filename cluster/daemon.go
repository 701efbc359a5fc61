package cluster

import (
	"bytes"
	"fmt"
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

// Process is one process for ever: its pid may be another's later.
type Process struct {
	PID  int    `json:"pid"`
	Born uint64 `json:"born"` // in clock ticks since the machine's boot
}

// ProcessOf is the process that has a pid now. It fails when there is none, or only a zombie.
func ProcessOf(pid int) (Process, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, err
	}
	// The command's name, field 2, may itself hold spaces and parentheses: count from the last parenthesis (proc(5)).
	text := string(raw)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" {
		return Process{}, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	born, err := strconv.ParseUint(fields[19], 10, 64)
	return Process{PID: pid, Born: born}, err
}

// Alive tells whether this very process has not ended.
func (p Process) Alive() bool {
	now, err := ProcessOf(p.PID)
	return err == nil && now == p
}

// Inside lists the processes that stand in one of the network namespaces now: those of a living cluster's pods. Afterwards the
// inodes say nothing any more: the kernel gives them to new namespaces.
func Inside(namespaces []uint64) ([]Process, error) {
	ours := map[string]bool{}
	for _, inode := range namespaces {
		ours["net:["+strconv.FormatUint(inode, 10)+"]"] = true
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var inside []Process
	for _, l := range links {
		ns, err := os.Readlink(l)
		if err != nil || !ours[ns] {
			continue // another's: a process that may not be looked at is another user's
		}
		pid, err := strconv.Atoi(strings.Split(l, "/")[2])
		if err != nil {
			return nil, err
		}
		if p, err := ProcessOf(pid); err == nil {
			inside = append(inside, p)
		}
	}
	return inside, nil
}

// Leftover is one thing that outlived its cluster. A process (PID is not 0) may only be about to end.
type Leftover struct {
	PID  int
	What string
}

func (l Leftover) String() string { return l.What }

// Leftovers looks for what a cluster that ended should have taken with it: its processes, and mounts of its state. A network
// namespace that no process holds is gone, and with it its interfaces, routes and nftables objects.
func Leftovers(processes []Process, stateDir string) ([]Leftover, error) {
	var left []Leftover
	for _, p := range processes {
		if p.Alive() {
			left = append(left, Leftover{PID: p.PID, What: fmt.Sprintf("process %d %s", p.PID, commandOf(fmt.Sprintf("/proc/%d", p.PID)))})
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

func commandOf(proc string) string {
	raw, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return "?"
	}
	return string(bytes.ReplaceAll(bytes.TrimRight(raw, "\x00"), []byte{0}, []byte{' '}))
}
