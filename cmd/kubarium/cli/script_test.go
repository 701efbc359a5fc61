package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"kubarium.dev/cluster"
	_ "kubarium.dev/node/podinit" // the test binary is the program, and so its pods' first process
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kubarium": func() { os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) },
		"kubectl": func() {
			os.Exit(Main(append([]string{"kubarium", "kubectl"}, os.Args[1:]...), os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// Each script is a user at a terminal; they run side by side, each with a home and clusters of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "script", newHome)
}

// kubectl's verbs, by the kubectl that is linked in. Stock kubectls of older minor versions run the same
// scripts in TestSoakOlderKubectls.
func TestKubectlHasAllItsVerbs(t *testing.T) {
	t.Parallel()
	runScripts(t, filepath.Join("clients", "kubectl"), clientHome)
}

// runScripts runs the scripts of a folder of testdata.
func runScripts(t *testing.T, dir string, setup func(*testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("..", "..", "..", "testdata", dir),
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       exits,
			"kill9":       kill9,
			"nothingleft": nothingLeft,
			"informers":   informersStart,
			"agree":       informersAgree,
			"scaleto":     scaleTo,
		},
		RequireExplicitExec: false,
		RequireUniqueNames:  true,
	})
}

func newHome(env *testscript.Env) error {
	manifests, err := filepath.Abs(filepath.Join("..", "..", "..", "testdata"))
	if err != nil {
		return err
	}
	home := filepath.Join(env.WorkDir, "home")
	env.Setenv("HOME", home)
	env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
	env.Setenv("TESTDATA", manifests)
	env.Setenv("CI", "true")
	env.Setenv("NO_COLOR", "1")
	env.Setenv("KUBARIUM_NAME", "t")
	env.Defer(func() { killAll(env.WorkDir) })
	return os.MkdirAll(home, 0o700)
}

// clientHome is a home in which a stock kubectl finds the cluster.
func clientHome(env *testscript.Env) error {
	env.Setenv("KUBECONFIG", filepath.Join(env.WorkDir, "state", "kubarium", "t", "kubeconfig"))
	return newHome(env)
}

// killAll ends the daemons that a script that failed left running.
func killAll(dir string) {
	records, _ := filepath.Glob(filepath.Join(dir, "state", "kubarium", "*", "daemon.json"))
	for _, path := range records {
		if r, ok := (state{dir: filepath.Dir(path)}).running(); ok {
			unix.Kill(r.PID, unix.SIGKILL)
		}
	}
}

// exits runs a command and checks its exit code: exits CODE COMMAND...
func exits(ts *testscript.TestScript, neg bool, words []string) {
	if neg || len(words) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(words[0])
	ts.Check(err)
	err = ts.Exec(words[1], words[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%s exits with %d, want %d", strings.Join(words[1:], " "), got, want)
	}
}

// kill9 kills the daemon of a cluster, and returns when it is gone: kill9 [NAME]
func kill9(ts *testscript.TestScript, neg bool, words []string) {
	st := scriptState(ts, words)
	r, ok := st.running()
	if !ok {
		ts.Fatalf("cluster %s is not running", st.name)
	}
	inside, err := cluster.Inside(cluster.Held(r.PID))
	ts.Check(err)
	raw, err := json.Marshal(append(inside, r.Process))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("killed.json"), raw, 0o600))
	fd, err := unix.PidfdOpen(r.PID, 0)
	ts.Check(err)
	defer unix.Close(fd)
	ts.Check(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	_, err = poll(context.Background(), fd, downGrace)
	ts.Check(err)
}

// nothingleft looks for what the daemon that was killed left on the machine.
func nothingLeft(ts *testscript.TestScript, neg bool, words []string) {
	var processes []cluster.Process
	raw, err := os.ReadFile(ts.MkAbs("killed.json"))
	ts.Check(err)
	ts.Check(json.Unmarshal(raw, &processes))
	left, err := leftovers(context.Background(), processes, scriptState(ts, words).dir)
	ts.Check(err)
	if len(left) > 0 {
		ts.Fatalf("left behind: %v", left)
	}
}

func scriptState(ts *testscript.TestScript, words []string) state {
	name := ts.Getenv("KUBARIUM_NAME")
	if len(words) > 0 {
		name = words[0]
	}
	return state{name: name, dir: filepath.Join(ts.Getenv("XDG_STATE_HOME"), "kubarium", name)}
}
