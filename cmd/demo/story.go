package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// story runs commands, prints them with what they print, and keeps the score of the claims.
type story struct {
	bin, data string
	dir       string // for what the story writes; it goes with the story
	env       []string
	began     time.Time
	out       io.Writer

	held   int
	failed []string
	fatal  bool // the cluster is not there: the rest cannot be told
}

const (
	commandTimeout = 60 * time.Second
	maxShown       = 14 // lines of one command's output that are shown
)

func (s *story) printf(format string, words ...any) { fmt.Fprintf(s.out, format, words...) }
func (s *story) title(text string)                  { s.printf("\n== %s\n", text) }
func (s *story) say(text string)                    { s.printf("   %s\n", text) }

// apart is a story of its own beside this one, in the same cluster; rejoin tells it and adds its claims.
func (s *story) apart() *story {
	return &story{bin: s.bin, data: s.data, dir: s.dir, env: s.env, began: s.began, out: &bytes.Buffer{}}
}

func (s *story) rejoin(part *story) {
	s.printf("%s", part.out)
	s.held += part.held
	s.failed = append(s.failed, part.failed...)
}

// result is what a command did.
type result struct {
	out  string // stdout and stderr as a terminal shows them
	code int
}

// kubarium runs the program and shows command and output.
func (s *story) kubarium(words ...string) result {
	s.printf("$ kubarium %s\n", quote(words))
	r := s.quiet(words...)
	s.show(r.out)
	return r
}

// quiet runs the program and shows nothing.
func (s *story) quiet(words ...string) result { return s.command(s.bin, words...) }

func (s *story) command(name string, words ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, words...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return result{out: err.Error(), code: -1}
	}
	return result{out: string(out), code: cmd.ProcessState.ExitCode()}
}

// value runs a quiet command and returns its trimmed output.
func (s *story) value(words ...string) string { return strings.TrimSpace(s.quiet(words...).out) }

// fields is value, split at white space.
func (s *story) fields(words ...string) []string { return strings.Fields(s.value(words...)) }

// claim says a sentence and keeps whether it held; detail tells what was seen instead.
func (s *story) claim(holds bool, sentence string, detail ...any) {
	if holds {
		s.held++
		s.printf("   ok: %s\n", sentence)
		return
	}
	s.failed = append(s.failed, sentence)
	s.printf("   NOT SO: %s: %s\n", sentence, fmt.Sprint(detail...))
}

// done claims that a command succeeded.
func (s *story) done(r result, sentence string) bool {
	s.claim(r.code == 0, sentence, "exit code ", r.code, ": ", r.out)
	return r.code == 0
}

func (s *story) file(parts ...string) string { return s.data + "/" + strings.Join(parts, "/") }

func (s *story) boot() {
	s.title("A cluster boots")
	if !s.done(s.kubarium("up"), "two nodes, their network, API, DNS and Service proxies are up") {
		s.fatal = true
		return
	}
	s.kubarium("get", "nodes", "-o", "wide")
}

func (s *story) end(before string) {
	s.title("The end")
	s.done(s.kubarium("down"), "the cluster is gone, and says that nothing is left")
	after := hostState()
	s.claim(before == after, "the host's interfaces, addresses, routes, rules and nftables are as before", "before:\n", before, "\nafter:\n", after)
}

func (s *story) verdict() error {
	s.printf("\n%d claims held, %d did not; %.1f s\n", s.held, len(s.failed), time.Since(s.began).Seconds())
	if len(s.failed) > 0 {
		return fmt.Errorf("these claims did not hold:\n  %s", strings.Join(s.failed, "\n  "))
	}
	return nil
}

// hostState is what a cluster must not touch, as the host's own tools print it.
func hostState() string {
	var b strings.Builder
	for _, words := range [][]string{
		{"ip", "-br", "link"}, {"ip", "-br", "address"}, {"ip", "route", "show", "table", "all"}, {"ip", "rule"}, {"ip", "netns"}, {"nft", "list", "ruleset"},
	} {
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		out, err := exec.LookPath(words[0])
		if err != nil {
			out = "/usr/sbin/" + words[0]
		}
		cmd.Path, cmd.Err = out, nil
		printed, _ := cmd.CombinedOutput()
		fmt.Fprintf(&b, "%s: %s\n", strings.Join(words, " "), printed)
	}
	return b.String()
}

// load is a stream of requests that runs beside other commands.
type load struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	err   bytes.Buffer
	first chan struct{} // closed when the first sample has come, or none will
	once  sync.Once
	ended chan struct{} // closed when it has ended
}

// Write takes what the load prints.
func (l *load) Write(p []byte) (int, error) {
	defer l.once.Do(func() { close(l.first) })
	return l.out.Write(p)
}

// begun returns when the load is under way, so that it sees what changes from now on.
func (l *load) begun() { <-l.first }

// share and sample are what `kubarium traffic -o json` prints, the parts the story needs.
type share struct {
	Group    string  `json:"group"`
	Ready    int     `json:"ready"`
	Expected float64 `json:"expected"`
	Observed float64 `json:"observed"`
	Requests int     `json:"requests"`
}

type sample struct {
	Shares  []share  `json:"shares"`
	Sent    int      `json:"sent"`
	Failed  int      `json:"failed"`
	Failure string   `json:"failure"`
	Marks   []string `json:"marks"`
}

// startLoad starts `kubarium traffic` with these words.
func (s *story) startLoad(words ...string) *load {
	return s.start(append([]string{"traffic"}, words...)...)
}

// start starts a command that prints samples as JSON.
func (s *story) start(words ...string) *load {
	s.printf("$ kubarium %s &\n", quote(words))
	l := &load{first: make(chan struct{}), ended: make(chan struct{})}
	l.cmd = exec.Command(s.bin, append(words, "-o", "json")...)
	l.cmd.Env = s.env
	l.cmd.Stdout, l.cmd.Stderr = l, &l.err
	if err := l.cmd.Start(); err != nil {
		s.printf("%v\n", err)
	}
	go func() {
		l.cmd.Wait()
		close(l.ended)
		l.once.Do(func() { close(l.first) })
	}()
	return l
}

// stop ends a load that would go on, and returns its samples.
func (l *load) stop() []sample {
	if l.cmd.Process != nil {
		l.cmd.Process.Signal(os.Interrupt)
	}
	return l.finish()
}

// finish waits for the load and returns its samples.
func (l *load) finish() []sample {
	<-l.ended
	var all []sample
	dec := json.NewDecoder(&l.out)
	for dec.More() {
		var s sample
		if dec.Decode(&s) != nil {
			break
		}
		all = append(all, s)
	}
	return all
}

// lost claims that a load lost nothing.
func (s *story) lost(l *load, sentence string) {
	all := l.stop()
	if len(all) == 0 {
		s.claim(false, sentence, "no sample: ", l.err.String())
		return
	}
	last := all[len(all)-1]
	s.printf("   %d requests, %d failed %s\n", last.Sent, last.Failed, last.Failure)
	s.claim(last.Failed == 0 && last.Sent > 50, sentence, last.Failed, " of ", last.Sent, " failed: ", last.Failure)
}

func (s *story) show(out string) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	for i, l := range lines {
		if i == maxShown && len(lines) > maxShown+1 {
			s.printf("   ... (%d lines more)\n", len(lines)-i)
			return
		}
		if l != "" {
			s.printf("   %s\n", l)
		}
	}
}

// quote prints words so that a shell would read them back.
func quote(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if strings.ContainsAny(w, " {}[]*?$'\"\\;|&<>()") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		b.WriteString(w)
	}
	return b.String()
}
