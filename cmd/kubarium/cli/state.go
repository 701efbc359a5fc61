package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// state is the folder of one cluster: $XDG_STATE_HOME/kubarium/NAME.
type state struct {
	name string
	dir  string
}

// record is what a running daemon writes down about itself (daemon.json).
type record struct {
	PID int `json:"pid"`
	// Born is the process's start time in clock ticks since boot: with the pid it names one process for ever.
	Born       uint64   `json:"born"`
	URL        string   `json:"url"`
	Version    string   `json:"version"`
	Namespaces []uint64 `json:"namespaces"` // inodes of the network namespaces it holds
}

func newState(name string) (state, error) {
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		return state{}, failf(exitUsage, "give a short lower-case name, such as --name lab", "cluster name %q: %s", name, msgs[0])
	}
	root, err := stateRoot()
	if err != nil {
		return state{}, err
	}
	return state{name: name, dir: filepath.Join(root, name)}, nil
}

func stateRoot() (string, error) {
	if x := os.Getenv("XDG_STATE_HOME"); x != "" {
		return filepath.Join(x, "kubarium"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", failf(exitMissing, "set HOME or XDG_STATE_HOME", "no folder for the cluster's state: %v", err)
	}
	return filepath.Join(home, ".local", "state", "kubarium"), nil
}

func (s state) file(name string) string { return filepath.Join(s.dir, name) }

func (s state) context() string { return "kubarium-" + s.name }

func (s state) exists() bool {
	_, err := os.Stat(s.dir)
	return err == nil
}

// running returns the daemon's record if that very process lives.
func (s state) running() (record, bool) {
	r, err := s.lastRecord()
	if err != nil {
		return record{}, false
	}
	born, err := bornAt(r.PID)
	return r, err == nil && born == r.Born
}

func (s state) lastRecord() (record, error) {
	var r record
	raw, err := os.ReadFile(s.file("daemon.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(raw, &r)
}

func (s state) write(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := s.file("daemon.json.new")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.file("daemon.json"))
}

// mustRun is running for commands that need the cluster.
func (s state) mustRun() (record, error) {
	r, ok := s.running()
	if ok {
		return r, nil
	}
	if _, err := s.lastRecord(); err == nil {
		return r, failf(exitNotFound, "start it again, from the same state: "+s.command("up"), "cluster %q is not running (its daemon, pid %d, is gone)", s.name, r.PID)
	}
	return r, failf(exitNotFound, "start it: "+s.command("up"), "cluster %q is not running", s.name)
}

// command is a command line for this cluster, as a user would type it.
func (s state) command(words string) string {
	if s.name == defaultName {
		return "kubarium " + words
	}
	return "kubarium --name " + s.name + " " + words
}

// bornAt reads a process's start time (field 22 of /proc/PID/stat, proc(5)). A zombie counts as gone.
func bornAt(pid int) (uint64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The command's name, field 2, may itself hold spaces and parentheses: count from the last parenthesis.
	text := string(raw)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// remove deletes the state.
func (s state) remove() error {
	err := os.RemoveAll(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
