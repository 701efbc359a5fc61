package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/node"
	"kubarium.dev/store"
)

// Published is one row of the table of what the host's loopback leads to.
type Published struct {
	Service  string         `json:"service"`  // namespace/name:port
	Protocol string         `json:"protocol"` // TCP or UDP
	Host     netip.AddrPort `json:"host"`     // where the host reaches it
	Target   netip.AddrPort `json:"target"`   // where `outside` reaches it
	Problem  string         `json:"problem,omitempty"`
}

// publisher keeps one forwarder on the host's loopback for every NodePort of every node. A forwarder dials from the
// `outside` namespace, so that what comes through it enters the cluster as a client from outside does.
type publisher struct {
	reader   store.Reader
	log      *slog.Logger
	nodes    []publishedNode
	always   []Published   // published whatever the Services ask for
	dial     node.DialFunc // from `outside`
	progress store.Progress

	mu   sync.Mutex // guards rows
	rows map[publishKey]*forward
}

// publishedNode pairs a node's address with its loopback address.
type publishedNode struct{ loopback, node netip.Addr }

type publishKey struct {
	protocol string
	host     netip.AddrPort
}

// forward is one published port; with a Problem in its row nothing runs that stop could stop.
type forward struct {
	row  Published
	stop func()
}

func newPublisher(reader store.Reader, log *slog.Logger, nodes []publishedNode, dial node.DialFunc) *publisher {
	return &publisher{reader: reader, log: log, nodes: nodes, dial: dial, rows: map[publishKey]*forward{}}
}

// Run follows the Services until ctx ends, then closes every forwarder and waits for it.
func (p *publisher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer p.stopAll()

	for _, row := range p.always {
		p.start(ctx, publishKey{row.Protocol, row.Host}, row, &running)
	}
	list, err := p.reader.List(ctx, api.Services, store.Query{})
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for _, obj := range list.Items {
		p.change(ctx, nil, obj.(*corev1.Service), &running)
	}
	p.progress.Reach(list.Revision)
	watch, err := p.reader.Watch(ctx, list.Revision, api.Services)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer watch.Close()
	for {
		batch, err := watch.Next(ctx)
		if err != nil {
			return endOf(ctx, fmt.Errorf("publish: %w", err))
		}
		for _, e := range batch.Events {
			old, _ := e.Old.(*corev1.Service)
			now, _ := e.Object.(*corev1.Service)
			if e.Type == store.Deleted {
				old, now = now, nil
			}
			p.change(ctx, old, now, &running)
		}
		p.progress.Reach(batch.Revision)
	}
}

// change closes what a Service no longer publishes and opens what it newly does.
func (p *publisher) change(ctx context.Context, old, now *corev1.Service, running *sync.WaitGroup) {
	before, after := p.wanted(old), p.wanted(now)
	for key := range before {
		if after[key] != before[key] {
			p.stop(key)
		}
	}
	for key, row := range after {
		if after[key] != before[key] {
			p.start(ctx, key, row, running)
		}
	}
}

// wanted is what a Service publishes: each of its NodePorts on each node's loopback address.
func (p *publisher) wanted(svc *corev1.Service) map[publishKey]Published {
	if svc == nil {
		return nil
	}
	rows := map[publishKey]Published{}
	for _, port := range svc.Spec.Ports {
		if port.NodePort == 0 || port.Protocol == corev1.ProtocolSCTP {
			continue
		}
		for _, n := range p.nodes {
			key := publishKey{string(port.Protocol), netip.AddrPortFrom(n.loopback, uint16(port.NodePort))}
			rows[key] = Published{
				Service:  types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}.String() + ":" + portName(port),
				Protocol: key.protocol, Host: key.host,
				Target: netip.AddrPortFrom(n.node, uint16(port.NodePort)),
			}
		}
	}
	return rows
}

func portName(p corev1.ServicePort) string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Port))
}

func (p *publisher) start(ctx context.Context, key publishKey, row Published, running *sync.WaitGroup) {
	f := &forward{row: row}
	ctx, cancel := context.WithCancel(ctx)
	f.stop = cancel
	listener, run, err := listenForward(ctx, key.protocol, row, p.dial)
	if err != nil {
		f.row.Problem = err.Error()
		p.log.Warn("a port is not published on the host", "service", row.Service, "address", row.Host, "error", err)
	} else {
		running.Go(run)
		f.stop = func() {
			listener.Close() // at once: when the barrier is passed, nobody gets in any more
			cancel()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows[key] = f
}

func (p *publisher) stop(key publishKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.rows[key]; f != nil {
		f.stop()
	}
	delete(p.rows, key)
}

func (p *publisher) stopAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.rows {
		f.stop()
	}
}

// Table lists what is published, by address.
func (p *publisher) Table() []Published {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows := make([]Published, 0, len(p.rows))
	for _, f := range p.rows {
		rows = append(rows, f.row)
	}
	slices.SortFunc(rows, func(a, b Published) int { return a.Host.Compare(b.Host) })
	return rows
}
