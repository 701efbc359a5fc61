package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// marks collects what changed in a Service's selector, and in its namespace's pods' labels, for the traffic view.
type marks struct {
	service types.NamespacedName
	watch   store.Watcher
	done    sync.WaitGroup

	mu    sync.Mutex // guards lines
	lines []string
}

func (c *Cluster) newMarks(ctx context.Context, service types.NamespacedName) (*marks, error) {
	w, err := c.store.Watch(ctx, c.store.Revision(), api.Services, api.Pods)
	return &marks{service: service, watch: w}, err
}

func (m *marks) start(ctx context.Context) {
	m.done.Go(func() {
		defer m.watch.Close()
		for {
			batch, err := m.watch.Next(ctx)
			if err != nil {
				return
			}
			for _, e := range batch.Events {
				m.see(e)
			}
		}
	})
}

func (m *marks) wait() { m.done.Wait() }

func (m *marks) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := m.lines
	m.lines = nil
	return lines
}

func (m *marks) see(e store.Event) {
	if e.Type != store.Modified || e.Object.GetNamespace() != m.service.Namespace {
		return
	}
	line := ""
	switch now := e.Object.(type) {
	case *corev1.Service:
		old := e.Old.(*corev1.Service)
		if now.Name == m.service.Name && !maps.Equal(now.Spec.Selector, old.Spec.Selector) {
			line = fmt.Sprintf("selector: %s -> %s", selectorText(old), selectorText(now))
		}
	case *corev1.Pod:
		if diff := labelChange(e.Old.GetLabels(), now.Labels); diff != "" {
			line = fmt.Sprintf("pod %s: %s", now.Name, diff)
		}
	}
	if line == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, fmt.Sprintf("%s (revision %d)", line, e.Revision))
}

// labelChange says what changed, in kubectl's own notation: key=value set, key- removed.
func labelChange(old, now map[string]string) string {
	set := labels.Set{}
	var gone []string
	for k, v := range now {
		if o, ok := old[k]; !ok || o != v {
			set[k] = v
		}
	}
	for k := range old {
		if _, ok := now[k]; !ok {
			gone = append(gone, k+"-")
		}
	}
	slices.Sort(gone)
	text := ""
	if len(set) > 0 {
		text = set.String()
	}
	for _, g := range gone {
		if text != "" {
			text += " "
		}
		text += g
	}
	return text
}
