package cli

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation"

	"kubarium.dev/cluster"
)

// state is the folder of one cluster: $XDG_STATE_HOME/kubarium/NAME.
type state struct {
	name string
	dir  string
}

// record is what a running daemon writes down about itself (daemon.json).
type record struct {
	cluster.Process
	URL     string `json:"url"`
	Version string `json:"version"`
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
	return r, r.Alive()
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

// remove deletes the state.
func (s state) remove() error {
	err := os.RemoveAll(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
