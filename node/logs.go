package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// maxLog bounds what one run of a container keeps of its output, in bytes; the oldest lines go first. A thousand pods
	// that never stop talking take a quarter of a gigabyte at most.
	maxLog = 256 << 10
	// maxLine is where a line without an end is cut, as the container runtimes do.
	maxLine = 16 << 10
)

// LogRequest says which part of which log is wanted.
type LogRequest struct {
	Namespace, Pod, Container string     // Container may be "" for the pod's first
	Follow                    bool       // go on as more is written
	Previous                  bool       // of the container's last run before this one
	Timestamps                bool       // an RFC 3339 time before each line
	Tail                      *int64     // the last so many lines; nil for all
	Limit                     *int64     // at most so many bytes; nil for all
	Since                     *time.Time // what was written from then on; nil for all
	Out                       io.Writer
}

// logLine is one line, its end included, and when it was begun.
type logLine struct {
	at   time.Time
	text []byte
}

// runLog is the bounded output of one run of a container. It is written like a file; the zero value with a clock is ready.
type runLog struct {
	now func() time.Time

	mu     sync.Mutex // guards all below
	lines  []logLine
	first  int // number of lines[0] since the beginning
	size   int
	part   []byte // a line that has not ended
	partAt time.Time
	closed bool
	moved  chan struct{} // closed when something is added; nil while nobody follows
}

// Write implements io.Writer. It never fails.
func (l *runLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		if len(l.part) == 0 {
			l.partAt = l.now()
		}
		i := bytes.IndexByte(p, '\n')
		take := i + 1
		if i < 0 {
			take = len(p)
		}
		take = min(take, maxLine-len(l.part))
		l.part = append(l.part, p[:take]...)
		p = p[take:]
		if l.part[len(l.part)-1] == '\n' || len(l.part) >= maxLine {
			l.add()
		}
	}
	l.wake()
	return n, nil
}

// add files the line that has ended, and forgets the oldest ones beyond the bound.
func (l *runLog) add() {
	l.lines = append(l.lines, logLine{l.partAt, bytes.Clone(l.part)})
	l.size += len(l.part)
	l.part = l.part[:0]
	drop := 0
	for l.size > maxLog {
		l.size -= len(l.lines[drop].text)
		l.lines[drop].text = nil
		drop++
	}
	l.lines, l.first = l.lines[drop:], l.first+drop
}

func (l *runLog) wake() {
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// close ends the log: followers read what is left and return.
func (l *runLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.add()
	}
	l.closed = true
	l.wake()
}

// from returns the lines from number n on, the number after the last, whether there will be more, and what to wait for.
func (l *runLog) from(n int) (lines []logLine, next int, more bool, moved <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = max(n, l.first)
	lines = append(lines, l.lines[n-l.first:]...)
	if l.moved == nil && !l.closed {
		l.moved = make(chan struct{})
	}
	return lines, l.first + len(l.lines), !l.closed, l.moved
}

// copyTo writes the log as the request wants it.
func (l *runLog) copyTo(ctx context.Context, r LogRequest) error {
	lines, next, more, moved := l.from(0)
	if r.Since != nil {
		for len(lines) > 0 && lines[0].at.Before(*r.Since) {
			lines = lines[1:]
		}
	}
	if r.Tail != nil && int64(len(lines)) > *r.Tail {
		lines = lines[int64(len(lines))-max(*r.Tail, 0):]
	}
	w := limitedWriter{w: r.Out, left: -1}
	if r.Limit != nil {
		w.left = *r.Limit
	}
	for {
		if err := w.lines(lines, r.Timestamps); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if !r.Follow || !more {
			return nil
		}
		select {
		case <-moved:
			lines, next, more, moved = l.from(next)
		case <-ctx.Done():
			return nil
		}
	}
}

// tail is the end of the log: at most so many lines and bytes.
func (l *runLog) tail(lines int64, limit int) string {
	var b bytes.Buffer
	l.copyTo(context.Background(), LogRequest{Tail: &lines, Out: &b})
	text := b.Bytes()
	return string(text[max(0, len(text)-limit):])
}

// text is the whole log.
func (l *runLog) text() string { return l.tail(maxLog, maxLog) }

// limitedWriter ends with io.EOF after so many bytes; never for -1.
type limitedWriter struct {
	w    io.Writer
	left int64
}

func (w *limitedWriter) lines(lines []logLine, timestamps bool) error {
	var b bytes.Buffer
	for _, line := range lines {
		if timestamps {
			b.WriteString(line.at.UTC().Format(time.RFC3339Nano))
			b.WriteByte(' ')
		}
		b.Write(line.text)
	}
	out := b.Bytes()
	if w.left >= 0 && int64(len(out)) > w.left {
		out = out[:w.left]
	}
	if len(out) > 0 {
		if _, err := w.w.Write(out); err != nil {
			return err
		}
	}
	if w.left >= 0 {
		if w.left -= int64(len(out)); w.left == 0 {
			return io.EOF
		}
	}
	return nil
}

// waitsFor is why the container does not run yet, as its pod's status has it.
func (c *container) waitsFor() string {
	status := c.w.latest.Load().Status
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			if w := list[i].State.Waiting; w != nil && list[i].Name == c.spec.Name {
				return w.Reason
			}
		}
	}
	return waitingCreating
}

// Logs copies a container's log, following it until ctx ends if asked to. Errors: NotFound for a pod that is not here, and
// BadRequest for a container that is not in it or has no such run.
func (n *Node) Logs(ctx context.Context, r LogRequest) error {
	c, err := n.container(r.Namespace, r.Pod, r.Container)
	if err != nil {
		return err
	}
	l := c.log(r.Previous)
	if l == nil && r.Previous {
		return apierrors.NewBadRequest("previous terminated container \"" + c.spec.Name + "\" in pod \"" + r.Pod + "\" not found")
	}
	if l == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", c.spec.Name, r.Pod, c.waitsFor()))
	}
	return l.copyTo(ctx, r)
}
