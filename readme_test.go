package kubarium_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// step is one command of a document, with what it prints there.
type step struct {
	line    int
	command string
	want    []string
}

// steps reads the console blocks of a document.
func steps(t *testing.T, path string) []step {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []step
	inside := false
	for i, line := range strings.Split(string(raw), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			all = append(all, step{line: i + 1, command: strings.TrimPrefix(line, "$ ")})
		case inside && len(all) > 0:
			all[len(all)-1].want = append(all[len(all)-1].want, line)
		}
	}
	return all
}

// ciRuns are the commands that .ci/run gives to a newcomer's machine; one of them runs this test. Here make only has to know them.
var ciRuns = []string{"make demo", "make test"}

// Every command of the README and of docs/ is run, and prints what stands there.
func TestTheDocumentsAreTrue(t *testing.T) {
	t.Parallel()
	docs, err := filepath.Glob("docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatalf("no documents (%v)", err)
	}
	bin := build(t)
	for _, path := range append(docs, "README.md") {
		all := steps(t, path)
		if len(all) == 0 {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			out := session(t, bin, all)
			for i, s := range all {
				if diff := mismatch(s.want, out[i]); diff != "" {
					t.Errorf("%s:%d: $ %s\n%s", path, s.line, s.command, diff)
				}
			}
		})
	}
}

// build makes the program as the README does.
func build(t *testing.T) string {
	t.Helper()
	if out, err := exec.Command("make", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	bin, err := filepath.Abs("bin")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

const mark = "--- step "

// session runs all steps in one shell, in a home of its own, and returns what each printed, with its exit code if that is not 0.
func session(t *testing.T, bin string, all []step) [][]string {
	t.Helper()
	home := t.TempDir()
	var script strings.Builder
	for i, s := range all {
		command := s.command
		for _, c := range ciRuns {
			if command == c {
				command = "make -n" + strings.TrimPrefix(c, "make") + " >/dev/null"
			}
		}
		fmt.Fprintf(&script, "echo '%s%d'\n%s\ncode=$?; [ $code = 0 ] || echo \"exit code $code\"\n", mark, i, command)
	}
	script.WriteString("kubarium down --all >/dev/null 2>&1\n")
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Env = append(goFolders(t), "HOME="+home, "XDG_STATE_HOME="+filepath.Join(home, "state"), "PATH="+bin+":"+os.Getenv("PATH"),
		"NO_COLOR=1", "KUBECONFIG=", "CI=", "MAKEFLAGS=", "MAKELEVEL=", "MFLAGS=")
	cmd.WaitDelay = time.Minute
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, printed.String())
	}
	out := make([][]string, len(all))
	i := -1
	for _, line := range strings.Split(strings.TrimSuffix(printed.String(), "\n"), "\n") {
		if strings.HasPrefix(line, mark) {
			i++
			continue
		}
		out[i] = append(out[i], line)
	}
	return out
}

// goFolders is the environment with Go's caches where they are: they would follow HOME.
func goFolders(t *testing.T) []string {
	t.Helper()
	env := os.Environ()
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatalf("go env %s: %v", name, err)
		}
		env = append(env, name+"="+strings.TrimSpace(string(out)))
	}
	return env
}

// changing is what differs from run to run, and what stands for it in a comparison.
var changing = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`-[a-z0-9]{6,10}-[a-z0-9]{5}\b`), "-POD"},
	{regexp.MustCompile(`\b10\.(96|244)\.\d+\.\d+\b`), "IP"},
	{regexp.MustCompile(`\b127\.\d+\.(\d+)\.(\d+)\b`), "LOOP.$1.$2"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ?(ms|s)\b`), "TIME"},
	{regexp.MustCompile(`\b(pid|revision|memory|namespaces|its) \d+`), "$1 N"},
	{regexp.MustCompile(`\b\d+ requests`), "N requests"},
	{regexp.MustCompile(`\d+\.\d %( +)\d+( +)\d+( +)#*`), "SHARE"},
	{regexp.MustCompile(`(kubeconfig|removed) /\S+`), "$1 FILE"},
	{regexp.MustCompile(`kubarium \S+, pid`), "kubarium VERSION, pid"},
	{regexp.MustCompile(`(true +172\S+ +\S+ +)\d+`), "$1 PODS"},
	{regexp.MustCompile(`@if\d+|\bpod\d+\b`), "IF"},
	{regexp.MustCompile(`\b0x[0-9a-f]{8}\b`), "NUMBER"},
	{regexp.MustCompile(`\s+`), " "},
}

func still(line string) string {
	for _, c := range changing {
		line = c.what.ReplaceAllString(line, c.with)
	}
	return strings.TrimSpace(line)
}

// mismatch compares, line by line, what should be printed with what was; "..." stands for any lines.
func mismatch(want, got []string) string {
	if matches(trimEmpty(want), trimEmpty(got)) {
		return ""
	}
	return "should print\n\t" + strings.Join(want, "\n\t") + "\nand printed\n\t" + strings.Join(got, "\n\t")
}

func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "..." {
		for i := range len(got) + 1 {
			if matches(want[1:], got[i:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && still(want[0]) == still(got[0]) && matches(want[1:], got[1:])
}

// trimEmpty leaves out empty lines: a block of a document ends where it ends.
func trimEmpty(lines []string) []string {
	var out []string
	for _, l := range lines {
		if strings.TrimSpace(l) != "" {
			out = append(out, l)
		}
	}
	return out
}

// A comparison that finds nothing wrong would prove nothing.
func TestAMismatchIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		want, got string
		equal     bool
	}{
		{"a\n...\nz", "a\nb\nc\nz", true},
		{"a\n...\nz", "a\nb", false},
		{"pod: web-6c7f9d5b8d-abcde", "pod: web-7b5d494885-lllsr", true},
		{"pod: web-6c7f9d5b8d-abcde", "pod: shop-7b5d494885-lllsr", false},
		{"service/a created", "", false},
		{"", "exit code 1", false},
		{"up in 80.1 ms", "up in 912.0 ms", true},
	} {
		if got := mismatch(strings.Split(tt.want, "\n"), strings.Split(tt.got, "\n")) == ""; got != tt.equal {
			t.Errorf("%q and %q: equal is %t", tt.want, tt.got, got)
		}
	}
}
