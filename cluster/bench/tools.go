package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// toolGrace is how long a tool whose context ended may take to die: the kernel finishes the transaction first.
const toolGrace = 30 * time.Second

// tool finds a program also where ordinary users' PATH does not lead.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w %s", ErrMissing, name)
}

// run runs a tool in the node, as kube-proxy does: a process, its work on its standard input.
func (r *rig) run(ctx context.Context, input []byte, words ...string) error {
	return r.runInto(ctx, nil, input, words...)
}

// runInto is run with the tool's output kept; nil: it is part of what went wrong.
func (r *rig) runInto(ctx context.Context, out io.Writer, input []byte, words ...string) error {
	path, err := tool(words[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, words[1:]...)
	cmd.WaitDelay = toolGrace
	cmd.Stdin = bytes.NewReader(input)
	// Old iptables takes a lock on a file of the host's, which an ordinary user may not open, and no other namespace needs.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+os.DevNull)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	if out == nil {
		cmd.Stdout = &said
	}
	if err := r.node.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("%s: %w: %s", words[0], err, firstLine(said.String())))
	}
	return nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// hash is the part of a chain's name that kube-proxy makes of what the chain is for.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

func serviceName(i int) string { return fmt.Sprintf("s-%d", i) }
