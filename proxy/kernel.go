package proxy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

// kernel is what the proxy needs of the machine. linux is the real one, fake the one for tests; both give the same errors:
// EEXIST for an element that is there with another value, ENOENT for one that is not, or for a table that is not.
type kernel interface {
	// apply makes a batch so, all of it or nothing. ENOBUFS leaves open which.
	apply(b batch) error
	// read returns what the table holds now.
	read() (held, error)
	// connections reads the counters of handles.
	connections(handles []uint32) (map[uint32]uint64, error)
}

// batch is what one netlink batch carries.
type batch struct {
	// Reset deletes the table first. Connections live on in conntrack; counters and remembered choices are lost.
	Reset bool
	// Declare declares the table and all maps, which may be missing. That is a batch of its own, before this one.
	Declare bool
	// Chains are written anew.
	Chains []chain
	// DropChains and DropSets are names of what does not belong into the table.
	DropChains, DropSets []string
	Verbs                []verb
}

// held is a table as read back.
type held struct {
	Elements elements
	Chains   []string
	Sets     []string
	Rules    int
	// Remembered are the kernel's own elements: the choices of clients. They may outlive the id and the endpoint they name,
	// whose numbers must not be given again while they do.
	Remembered elements
}

// newChains lists the chains that the jumps among verbs lead to for the first time.
func newChains(f family, verbs []verb) []chain {
	var out []chain
	for _, v := range verbs {
		if v.Op == opDelete {
			continue
		}
		switch v.Map {
		case mapDraws:
			out = append(out, drawChain(int(unpackMark(v.Key, 0))))
		case mapTimeouts:
			seconds, _ := strconv.Atoi(strings.TrimPrefix(v.Value, rememberPrefix))
			out = append(out, f.remember(uint32(seconds)))
		}
	}
	return out
}

// linux is the kernel of one network namespace, over lasting netlink sockets that were opened inside it.
type linux struct {
	family family
	mu     sync.Mutex     // guards the sockets: an answer must not be taken by another's question
	conn   *nftables.Conn // speaks over socket
	socket *netlink.Conn
	dumps  *netlink.Conn
	others *netlink.Conn // on which the kernel tells what others do
	table  *nftables.Table
	list   []nftables.SetElement // room for the elements of one message, used again for the next
}

// socketBuffer is enough for a batch of batchVerbs elements and its answers. Without privilege over the host the kernel gives less,
// which suffices too.
const socketBuffer = 4 << 20

// openKernel opens the sockets. Close them with Close.
func openKernel(ns *netns.NS, f family) (*linux, error) {
	k := &linux{family: f, table: &nftables.Table{Family: nftables.TableFamily(f.proto()), Name: tableName}}
	err := ns.Do(func() error {
		var err error
		own := make([]uint32, 2)
		if k.socket, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return err
		}
		if own[0], err = portID(k.socket); err != nil {
			return err
		}
		if err = errors.Join(k.socket.SetWriteBuffer(socketBuffer), k.socket.SetReadBuffer(socketBuffer)); err != nil {
			return err
		}
		if k.conn, err = newWire(k.socket); err != nil {
			return err
		}
		if k.dumps, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return err
		}
		if own[1], err = portID(k.dumps); err != nil {
			return err
		}
		k.others, err = listen(own)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in the node's namespace: %w", err), k.Close())
	}
	return k, nil
}

// Close closes the sockets; the table stays.
func (k *linux) Close() error {
	var errs []error
	if k.socket != nil {
		errs = append(errs, k.socket.Close())
	}
	if k.dumps != nil {
		errs = append(errs, k.dumps.Close())
	}
	if k.others != nil {
		errs = append(errs, k.others.Close())
	}
	return errors.Join(errs...)
}

func (k *linux) apply(b batch) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b.Declare || b.Reset {
		if err := declareMaps(k.dumps, k.family, b.Reset); err != nil {
			return fmt.Errorf("declare the maps: %w", err)
		}
	}
	k.addChains(b)
	for _, c := range b.Chains {
		if err := k.writeRules(c); err != nil {
			return err
		}
	}
	if err := k.send(b.Verbs, func(v verb) bool { return v.Op != opAdd }, k.conn.SetDeleteElements); err != nil {
		return err
	}
	for _, name := range b.DropChains {
		k.conn.DelChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for _, name := range b.DropSets {
		k.conn.DelSet(&nftables.Set{Table: k.table, Name: name})
	}
	if err := k.send(b.Verbs, func(v verb) bool { return v.Op != opDelete }, k.conn.SetAddElements); err != nil {
		return err
	}
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("nftables batch of %d verbs: %w", len(b.Verbs), err)
	}
	return nil
}

// addChains adds the chains, all emptied of rules first: what is dropped later must not be referred to.
func (k *linux) addChains(b batch) {
	for _, c := range b.Chains {
		k.conn.AddChain(k.kernelChain(c))
		k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: c.name})
	}
	for _, name := range b.DropChains {
		k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
	}
}

func (k *linux) kernelChain(c chain) *nftables.Chain {
	out := &nftables.Chain{Table: k.table, Name: c.name}
	if c.hook != nil {
		out.Type, out.Hooknum, out.Priority = c.hook.kind, c.hook.num, nftables.ChainPriorityRef(nftables.ChainPriority(c.hook.priority))
	}
	return out
}

func (k *linux) writeRules(c chain) error {
	for _, r := range c.rules {
		exprs := r.exprs
		if r.anonymous != nil {
			var err error
			if exprs, err = k.withSet(r); err != nil {
				return err
			}
		}
		k.conn.AddRule(&nftables.Rule{Table: k.table, Chain: &nftables.Chain{Table: k.table, Name: c.name}, Exprs: exprs})
	}
	return nil
}

// withSet adds a rule's anonymous set, and names it in the look-up that waits for it.
func (k *linux) withSet(r rule) ([]expr.Any, error) {
	set := &nftables.Set{Table: k.table, Anonymous: true, Constant: true, KeyType: nftables.TypeInetProto}
	if err := k.conn.AddSet(set, r.anonymous); err != nil {
		return nil, err
	}
	out := make([]expr.Any, len(r.exprs))
	for i, e := range r.exprs {
		if l, ok := e.(*expr.Lookup); ok && l.SetName == "" {
			e = &expr.Lookup{SourceRegister: l.SourceRegister, SetName: set.Name, SetID: set.ID}
		}
		out[i] = e
	}
	return out, nil
}

// send puts the verbs that match into one message for each map. verbs are in order of map.
func (k *linux) send(verbs []verb, match func(verb) bool, put func(*nftables.Set, []nftables.SetElement) error) error {
	for i := 0; i < len(verbs); {
		name := verbs[i].Map
		list := k.list[:0]
		for ; i < len(verbs) && verbs[i].Map == name; i++ {
			if match(verbs[i]) {
				list = append(list, kernelElement(verbs[i].element))
			}
		}
		k.list = list
		if len(list) == 0 {
			continue
		}
		if err := put(k.set(name), list); err != nil {
			return fmt.Errorf("elements of %s: %w", name, err)
		}
	}
	return nil
}

// set names a map that is there.
func (k *linux) set(name string) *nftables.Set { return &nftables.Set{Table: k.table, Name: name} }

func kernelElement(e element) nftables.SetElement {
	out := nftables.SetElement{Key: []byte(e.Key), Comment: e.Comment}
	switch {
	case mapDefByName[e.Map].verdicts:
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.Value}
	case e.Value != "":
		out.Val = []byte(e.Value)
	}
	return out
}

func (k *linux) read() (held, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var h held
	tables, err := k.conn.ListTablesOfFamily(k.table.Family)
	if err != nil {
		return h, fmt.Errorf("list tables: %w", err)
	}
	found := false
	for _, t := range tables {
		found = found || t.Name == tableName
	}
	if !found {
		return h, nil
	}
	sets, err := k.conn.GetSets(k.table)
	if err != nil {
		return h, fmt.Errorf("list maps: %w", err)
	}
	h.Elements, h.Remembered = elements{}, elements{}
	for _, s := range sets {
		d, known := mapDefByName[s.Name]
		if !s.Anonymous {
			h.Sets = append(h.Sets, s.Name)
		}
		if !known {
			continue
		}
		into := h.Elements
		if d.remembers {
			into = h.Remembered
		}
		if err := dumpElements(k.dumps, k.family, d, into); err != nil {
			return h, fmt.Errorf("read %s: %w", s.Name, err)
		}
	}
	return h, k.readChains(&h)
}

func (k *linux) readChains(h *held) error {
	chains, err := k.conn.ListChainsOfTableFamily(k.table.Family)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != tableName {
			continue
		}
		h.Chains = append(h.Chains, c.Name)
		rules, err := k.conn.GetRules(k.table, c)
		if err != nil {
			return fmt.Errorf("list rules of %s: %w", c.Name, err)
		}
		h.Rules += len(rules)
	}
	return nil
}

func (k *linux) connections(handles []uint32) (map[uint32]uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[uint32]uint64, len(handles))
	set := k.set(mapEndpoints)
	for _, h := range handles {
		found, err := k.conn.FindSetElements(set, []nftables.SetElement{{Key: []byte(packMark(h))}})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("read the counter of an endpoint: %w", err)
		}
		for _, e := range found {
			if e.Counter != nil {
				out[h] = e.Counter.Packets
			}
		}
	}
	return out, nil
}
