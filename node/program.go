package node

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"kubarium.dev/node/image"
	"kubarium.dev/node/podinit"
)

// program is what a container runs (N-13).
type program struct {
	words   string   // how it was found, for people (N-15)
	builtIn bool     // the application of package app
	command []string // the entrypoint that stands where the container has no command
	args    []string // what stands where the container has neither
	env     []string // of its image
	dir     string
	signal  string    // that ends it; "" for SIGTERM
	root    string    // the folder of its image's files; "" for the host's
	user    *identity // of its image; nil for root
}

// imageError is an image that stands for nothing here; it is waited for, as configError.
type imageError struct{ reason, message string }

// Error says it in kubelet's words.
func (e *imageError) Error() string { return e.message }

// reasonNeverPull is kubelet's word for an image that must be there and is not.
const reasonNeverPull = "ErrImageNeverPull"

// resolve finds what a container's image and command stand for. Errors: *imageError.
func (n *Node) resolve(c *corev1.Container) (program, error) {
	if n.cfg.Images != nil {
		if p, ok, err := fromSet(n.cfg.Images, c); ok || err != nil {
			return p, err
		}
	}
	switch {
	case len(c.Command) > 0:
		return program{words: "command on the host's files"}, nil
	case c.ImagePullPolicy == corev1.PullNever:
		return program{}, &imageError{reasonNeverPull,
			fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)}
	}
	if p, ok := fromArgs(c); ok {
		return p, nil
	}
	return program{words: "built-in application", builtIn: true}, nil
}

// fromSet finds what was loaded, or mapped by a rule.
func fromSet(set *image.Set, c *corev1.Container) (program, bool, error) {
	if img, ok := set.Find(c.Image); ok {
		p := program{
			words: "loaded image " + img.ID[:min(len(img.ID), len("sha256:")+idDigits)], command: img.Entrypoint, args: img.Command,
			env: img.Env, dir: img.Dir, root: img.Root, signal: img.StopSignal,
		}
		if img.UID != 0 || img.GID != 0 {
			p.user = &identity{user: img.UID, group: img.GID, folder: img.Home}
		}
		if len(c.Command)+len(c.Args)+len(p.command)+len(p.args) == 0 {
			return p, false, errNoCommand
		}
		return p, true, nil
	}
	rule, ok := set.Match(c.Image)
	switch {
	case !ok:
		return program{}, false, nil
	case len(rule.Command) > 0:
		return program{words: "host program " + rule.Command[0] + " by the rule " + rule.Image, command: rule.Command}, true, nil
	case len(c.Command) > 0:
		return program{}, false, nil
	}
	return program{words: "built-in application by the rule " + rule.Image, builtIn: true}, true, nil
}

// idDigits are as many of an image's ID as docker shows.
const idDigits = 12

var errNoCommand = errors.New("the image names no command, and neither does the container")

// argv is the words to run: the container's command and args in place of the program's, as Kubernetes mixes them.
func (p program) argv(c *corev1.Container, env *environment) []string {
	command, args := p.command, p.args
	if len(c.Command) > 0 {
		command, args = expandAll(c.Command, env.get), nil
	}
	if len(c.Args) > 0 {
		args = expandAll(c.Args, env.get)
	}
	return append(slices.Clone(command), args...)
}

// stopSignal is what asks the container to end.
func (p program) stopSignal(c *corev1.Container) syscall.Signal {
	name := p.signal
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		name = string(*c.Lifecycle.StopSignal)
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 {
		return syscall.Signal(n)
	}
	if s := unix.SignalNum(name); s != 0 {
		return s
	}
	return syscall.SIGTERM
}

// command fills in what every command of a run has in common.
func (r *run) command(c podinit.Command) podinit.Command {
	c.Env, c.Dir = append(c.Env, r.env.list()...), r.dir
	return r.user.of(c)
}
