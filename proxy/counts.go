package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// ErrNotRunning is returned while Run has not programmed the node.
var ErrNotRunning = errors.New("the proxy has not programmed this node yet")

// Count is how many connections the kernel has led from one service-port to one endpoint on this node, since the endpoint
// joined. Requests on a connection that is kept alive are not connections.
type Count struct {
	Port        string // the service-port: its name, or "80/TCP" when it has none
	Endpoint    netip.AddrPort
	Pod         string // "namespace/name", "" when the slice names none
	Connections uint64
}

// Counts reads the counters of a Service's endpoints, in order of port and endpoint. A Service without endpoints has none. It
// fails with ErrNotRunning, or when the kernel cannot be read.
func (p *Proxy) Counts(_ context.Context, service types.NamespacedName) ([]Count, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Count
	for _, s := range p.sides {
		if s.kernel == nil || s.planner == nil {
			return nil, ErrNotRunning
		}
		counts, err := s.counts(service)
		if err != nil {
			return nil, fmt.Errorf("count connections to %s: %w", service, err)
		}
		out = append(out, counts...)
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), a.Endpoint.Compare(b.Endpoint))
	})
	return out, nil
}

func (s *side) counts(service types.NamespacedName) ([]Count, error) {
	planned := s.planner.services[service]
	if planned == nil {
		return nil, nil
	}
	var out []Count
	for i := range planned.ports {
		port := &planned.ports[i]
		var handles []uint32
		for _, slot := range port.all() {
			handles = append(handles, slot.handle)
		}
		counted, err := s.kernel.connections(handles)
		if err != nil {
			return nil, err
		}
		at := map[endpoint]int{} // with affinity an endpoint has a handle for each policy
		for _, slot := range port.all() {
			i, seen := at[slot.endpoint]
			if !seen {
				i = len(out)
				at[slot.endpoint] = i
				out = append(out, Count{Port: port.label(), Endpoint: slot.Address, Pod: slot.Pod})
			}
			out[i].Connections += counted[slot.handle]
		}
	}
	return out, nil
}

// label names a service-port for people.
func (p *desiredPort) label() string {
	return cmp.Or(p.Name, fmt.Sprintf("%d/%s", p.Port, protocolName(p.Protocol)))
}
