package proxy

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/node/netns"
)

// side is one address family of a node: its table, and what is planned for it. The Proxy's mutex guards it.
type side struct {
	network network
	planner *planner // nil until the first reconcile
	kernel  kernel   // nil while Run does not run
	flows   flows
	metrics metrics
}

// open opens the side's sockets inside the node's namespace; call closing in the end.
func (s *side) open(ns *netns.NS, mu *sync.Mutex) (closing func() error, err error) {
	k, err := openKernel(ns, s.network.family)
	if err != nil {
		return nil, err
	}
	f, err := openConntrack(ns, s.network.family)
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	mu.Lock()
	defer mu.Unlock()
	s.kernel, s.flows = k, f
	return func() error {
		f.Close()
		return k.Close()
	}, nil
}

// take programs what changed: most of the time in one batch, very much of it Service by Service in many, so that no more than one
// batch is ever held. Each batch carries whole Services. stats counts.
func (s *side) take(m *model, dirty []types.NamespacedName, stats *Stats) error {
	s.planner.setPolicies(m.policies.of(s.network.family).drain())
	for _, name := range dirty {
		s.planner.set(name, m.desired(name, s.network.family))
		if len(s.planner.changes) < enoughVerbs {
			continue
		}
		if err := s.send(stats); err != nil {
			return err
		}
	}
	return s.send(stats)
}

// send programs what has been planned since it was called last.
func (s *side) send(stats *Stats) error {
	todo := s.planner.finish()
	if len(todo.Verbs) == 0 {
		return nil
	}
	chains := newChains(s.network.family, todo.Verbs)
	if todo.Prefixes {
		chains = append(chains, prefixChains(s.network.family, s.planner.shapes)...)
	}
	if err := s.apply(batch{Chains: chains, Verbs: todo.Verbs}, stats); err != nil {
		return err
	}
	return s.clean(todo)
}

// apply sends a batch, a very large one in parts.
func (s *side) apply(whole batch, stats *Stats) error {
	for _, b := range split(whole, batchVerbs) {
		if err := s.kernel.apply(b); err != nil {
			return fmt.Errorf("table %s %s: %w", s.network.family, tableName, err)
		}
		stats.Batches++
		stats.Verbs += uint64(len(b.Verbs))
	}
	return nil
}

// errForget is the failure of a conntrack clean-up, which needs no other answer than to be told of: the entries end by
// themselves, after the kernel's timeout.
type errForget struct{ error }

// clean deletes what UDP connections remember of endpoints that left.
func (s *side) clean(todo plan) error {
	if len(todo.Left) == 0 && len(todo.Joined) == 0 {
		return nil
	}
	if err := s.flows.forget(todo.Left, todo.Joined); err != nil {
		return errForget{err}
	}
	return nil
}

// reconcile reads the table, plans everything anew with the numbers it finds there, and sends the difference.
func (s *side) reconcile(m *model, constant []element, reset bool, stats *Stats) error {
	was, err := s.kernel.read()
	if err != nil {
		return fmt.Errorf("read the table %s %s: %w", s.network.family, tableName, err)
	}
	next := newPlanner(indexesAhead, constant)
	if s.planner != nil {
		next.nextID, next.nextHandle = s.planner.nextID, s.planner.nextHandle
	}
	next.takePolicies(m.policies.of(s.network.family))
	if len(was.Sets) == 0 && len(was.Chains) == 0 {
		return s.begin(next, m, stats)
	}
	todo := next.full(was, m.all(s.network.family))
	b := batch{Declare: true, Reset: reset, Chains: ruleset(s.network, next.shapes), Verbs: todo.Verbs}
	if reset {
		b.Verbs = diff(nil, next.all())
	} else {
		b.DropChains, b.DropSets = stale(was, b.Chains)
	}
	if err := s.apply(b, stats); err != nil {
		return err
	}
	s.planner = next
	return s.clean(todo)
}

// begin fills a table that is not there: there is nothing to compare, and nothing to be held for it.
func (s *side) begin(next *planner, m *model, stats *Stats) error {
	b := batch{Declare: true, Chains: ruleset(s.network, next.shapes), Verbs: diff(nil, next.all())}
	next.rewrite = false // the chains are just written
	if err := s.apply(b, stats); err != nil {
		return err
	}
	s.planner = next
	return s.take(m, m.names(), stats)
}

// refresh programs the difference to a model that was listed anew, while the table is known to be as planned: the kernel need not be
// asked for what it holds.
func (s *side) refresh(m *model, stats *Stats) error {
	m.policies.of(s.network.family).forget(s.planner.policies)
	dirty := map[types.NamespacedName]struct{}{}
	for name := range s.planner.services {
		dirty[name] = struct{}{}
	}
	for _, name := range m.names() {
		dirty[name] = struct{}{}
	}
	return s.take(m, sorted(dirty), stats)
}

// stale names the chains and maps of a table that do not belong there.
func stale(h held, want []chain) (chains, sets []string) {
	for _, name := range h.Chains {
		if !slices.ContainsFunc(want, func(c chain) bool { return c.name == name }) {
			chains = append(chains, name)
		}
	}
	for _, name := range h.Sets {
		if _, known := mapDefByName[name]; !known {
			sets = append(sets, name)
		}
	}
	return chains, sets
}
