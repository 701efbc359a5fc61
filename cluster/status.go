package cluster

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Status is what `kubarium status` shows.
type Status struct {
	Name       string       `json:"name"`
	Version    string       `json:"version"`
	PID        int          `json:"pid"`
	Uptime     string       `json:"uptime"`
	API        string       `json:"api"`
	Revision   uint64       `json:"revision"`
	MemoryKiB  int          `json:"memoryKiB"`  // of the daemon and its pods' processes, PSS
	Namespaces int          `json:"namespaces"` // network namespaces held
	Domain     string       `json:"domain"`
	Networks   Networks     `json:"networks"`
	Nodes      []NodeStatus `json:"nodes"`
	Published  []Published  `json:"published"`
	Problems   []string     `json:"problems"`
}

// NodeStatus is one node of a Status.
type NodeStatus struct {
	Name     string       `json:"name"`
	Ready    bool         `json:"ready"`
	State    string       `json:"state"` // on, off, or cut off
	Address  netip.Addr   `json:"address"`
	Loopback netip.Addr   `json:"loopback"`
	PodRange netip.Prefix `json:"podRange"`
	Pods     int          `json:"pods"`
}

// Status looks over the running cluster.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	s := Status{
		Name: c.o.Name, Version: c.o.Version, PID: os.Getpid(), Uptime: c.o.Now().Sub(c.started).Round(time.Second).String(),
		API: c.URL(), Revision: c.store.Revision(), MemoryKiB: memory(), Namespaces: len(c.Namespaces()),
		Domain: c.o.Config.ClusterDomain, Networks: c.o.Config.Networks, Published: c.publish.Table(), Problems: []string{},
	}
	for _, m := range c.machines() {
		n, err := c.nodeStatus(ctx, m)
		if err != nil {
			return s, err
		}
		s.Nodes = append(s.Nodes, n)
		if !n.Ready {
			s.Problems = append(s.Problems, fmt.Sprintf("node %s is not Ready", n.Name))
		}
	}
	for _, p := range s.Published {
		if p.Problem != "" {
			s.Problems = append(s.Problems, fmt.Sprintf("%s is not published on %v: %s", p.Service, p.Host, p.Problem))
		}
	}
	return s, nil
}

func (c *Cluster) nodeStatus(ctx context.Context, m *machine) (NodeStatus, error) {
	n := NodeStatus{Name: m.Name, Address: m.address, Loopback: m.loopback, PodRange: m.pods, State: c.stateOf(m)}
	pods, err := c.store.List(ctx, api.Pods, store.Query{Index: api.IndexNode, Value: m.Name})
	if err != nil {
		return n, err
	}
	n.Pods = len(pods.Items)
	obj, err := c.store.Get(api.Nodes, "", m.Name)
	if err != nil {
		return n, err
	}
	for _, cond := range obj.(*corev1.Node).Status.Conditions {
		if cond.Type == corev1.NodeReady {
			n.Ready = cond.Status == corev1.ConditionTrue
		}
	}
	return n, nil
}

func (c *Cluster) stateOf(m *machine) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case m.life == nil:
		return "off"
	case m.hearing == nil:
		return "cut off"
	}
	return "on"
}

// memory is the proportional set size, in KiB, of this process and its descendants; 0 where /proc does not tell.
func memory() int {
	return tree(os.Getpid(), pss)
}

// tree sums f over a process and its descendants.
func tree(pid int, f func(int) int) int {
	sum := f(pid)
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, child := range strings.Fields(string(raw)) {
			if n, err := strconv.Atoi(child); err == nil {
				sum += tree(n, f)
			}
		}
	}
	return sum
}

func pss(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return 0
}
