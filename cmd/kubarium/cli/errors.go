package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Exit codes: the contract with scripts.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitTimeout  = 4
	exitMissing  = 5
	exitConflict = 6
)

// fault is an error with an exit code and advice.
type fault struct {
	code int
	err  error
	hint string // what to do; one line, may be empty
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// failf makes a fault: code, what to do, what is wrong.
func failf(code int, hint, format string, args ...any) error {
	return &fault{code: code, hint: hint, err: fmt.Errorf(format, args...)}
}

// hintOf is an error's advice, if it has one.
func hintOf(err error) string {
	var f *fault
	if errors.As(err, &f) {
		return f.hint
	}
	return ""
}

// silent carries only an exit code: what is wrong has been printed.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit code %d", int(s)) }

// report prints an error as the contract has it and returns the exit code.
func report(w io.Writer, err error) int {
	var s silent
	if err == nil {
		return exitDone
	}
	if errors.As(err, &s) {
		return int(s)
	}
	fmt.Fprintf(w, "kubarium: %v\n", err)
	var f *fault
	switch {
	case errors.As(err, &f):
		if f.hint != "" {
			fmt.Fprintf(w, "  %s\n", f.hint)
		}
		return f.code
	case apierrors.IsNotFound(err):
		return exitNotFound
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return exitConflict
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	return exitFailed
}
