package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/podinit"
)

// program is what a container runs (N-13).
type program struct {
	words   string   // how it was found, for people (N-15)
	builtIn bool     // the application of package app
	args    []string // what is run, before the container's own command and args are put in
}

// imageError is an image that stands for nothing here; it is waited for, as configError.
type imageError struct{ reason, message string }

func (e *imageError) Error() string { return e.message }

// reasonNeverPull is kubelet's word for an image that must be there and is not.
const reasonNeverPull = "ErrImageNeverPull"

// resolve finds what a container's image and command stand for. Errors: *imageError.
func (n *Node) resolve(c *corev1.Container) (program, error) {
	switch {
	case len(c.Command) > 0:
		return program{words: "command on the host's files"}, nil
	case c.ImagePullPolicy == corev1.PullNever:
		return program{}, &imageError{reasonNeverPull,
			fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)}
	}
	return program{words: "built-in application", builtIn: true}, nil
}

// command fills in what every command of a run has in common.
func (r *run) command(c podinit.Command) podinit.Command {
	c.Env, c.Dir = append(c.Env, r.env...), r.dir
	return c
}
