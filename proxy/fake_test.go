package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// fake is a kernel in memory that gives the errors of the real one.
type fake struct {
	mu       sync.Mutex
	table    *held // nil: there is no table
	batches  []batch
	messages int // netlink messages in all batches, as linux would send them
	// fail is asked before (false) and after (true) a batch has taken effect.
	fail func(applied bool) error
}

func (f *fake) apply(b batch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(false); err != nil {
			return err
		}
	}
	var was held
	switch {
	case f.table == nil && !b.Declare && !b.Reset:
		return unix.ENOENT
	case f.table != nil && !b.Reset:
		was = *f.table
	}
	if was.Elements == nil {
		was.Elements = elements{}
	}
	if err := check(was.Elements, b.Verbs); err != nil {
		return err
	}
	for _, v := range b.Verbs {
		if v.Op == opDelete {
			delete(was.Elements, v.elemKey)
			continue
		}
		was.Elements[v.elemKey] = v.elemValue
	}
	for _, c := range b.Chains {
		if !slices.Contains(was.Chains, c.name) {
			was.Chains = append(was.Chains, c.name)
		}
	}
	was.Chains = slices.DeleteFunc(was.Chains, func(n string) bool { return slices.Contains(b.DropChains, n) })
	f.table, f.batches, f.messages = &was, append(f.batches, b), f.messages+messagesOf(b)
	if f.fail != nil {
		return f.fail(true)
	}
	return nil
}

// check finds what the kernel would refuse: deletions come first, then additions.
func check(table elements, verbs []verb) error {
	gone := map[elemKey]bool{}
	for _, v := range verbs {
		if v.Op == opAdd {
			continue
		}
		if _, ok := table[v.elemKey]; !ok || gone[v.elemKey] {
			return fmt.Errorf("%s: %w", v, unix.ENOENT)
		}
		gone[v.elemKey] = true
	}
	for _, v := range verbs {
		if v.Op == opDelete {
			continue
		}
		if old, ok := table[v.elemKey]; ok && !gone[v.elemKey] && old.Value != v.Value {
			return fmt.Errorf("%s: %w", v, unix.EEXIST)
		}
	}
	return nil
}

// messagesOf counts the messages of one batch: a chain is three and one a rule, elements are one for each map and direction.
func messagesOf(b batch) int {
	n := 2
	for _, c := range b.Chains {
		n += 2 + len(c.rules)
	}
	type message struct {
		name string
		add  bool
	}
	seen := map[message]bool{}
	for _, v := range b.Verbs {
		if v.Op != opDelete {
			seen[message{v.Map, true}] = true
		}
		if v.Op != opAdd {
			seen[message{v.Map, false}] = true
		}
	}
	return n + len(seen)
}

func (f *fake) read() (held, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.table == nil {
		return held{}, nil
	}
	out := *f.table
	out.Elements = maps.Clone(out.Elements)
	return out, nil
}

func (f *fake) connections([]uint32) (map[uint32]uint64, error) { return nil, nil }

// noFlows remembers what it was asked to forget.
type noFlows struct{ left []leftEndpoint }

func (f *noFlows) forget(left []leftEndpoint, _ []netip.AddrPort) error {
	f.left = append(f.left, left...)
	return nil
}
