package dns

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// index is the names of the cluster as of one revision. Answers read the table without a lock; events change it one name at a
// time.
type index struct {
	zones  *zones
	pods   PodRecords
	table  *table
	serial atomic.Uint32 // of the SOA records: the store's revision
	paths  *paths        // nil without autopath

	// mu guards what follows, and the parts of names. apply holds it for one batch of events; explanations read under it.
	mu       sync.RWMutex
	services map[string]*service // by namespace/name
	sliceOf  map[string]string   // the Service each slice was last filed under
	wanted   map[string]said     // the records in the table, by source
}

// said is what one source says, in order of the names.
type said []statement

// statement is what one source says about one name. Its records are in order, and shared with the name's part.
type statement struct {
	owner   string
	records []record
}

// about returns the records of a name.
func (s said) about(owner string) ([]record, bool) {
	i, ok := slices.BinarySearchFunc(s, owner, func(st statement, owner string) int { return strings.Compare(st.owner, owner) })
	if !ok {
		return nil, false
	}
	return s[i].records, true
}

// said takes no more room than it needs: it is kept.
func (d desired) said() said {
	if len(d) == 0 {
		return nil
	}
	all := make(said, 0, len(d))
	for owner, records := range d {
		slices.SortStableFunc(records, inOrder)
		records = slices.Compact(records)
		all = append(all, statement{owner, append(make([]record, 0, len(records)), records...)})
	}
	slices.SortFunc(all, func(a, b statement) int { return strings.Compare(a.owner, b.owner) })
	return all
}

// service is a Service and its slices, whichever came first.
type service struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice // in order of their names, so that equal slices give equal records
}

// part is what one source says about a name. Two headless Services may both say whose an address is.
type part struct {
	source  string // "Service dev/ent"
	records []record
}

// zoneSource is the source of the records that need no object.
const zoneSource = "zone"

func newIndex(z *zones, pods PodRecords) *index {
	x := &index{
		zones: z, pods: pods, table: newTable(),
		services: map[string]*service{}, sliceOf: map[string]string{}, wanted: map[string]said{},
	}
	x.set(zoneSource, z.records())
	return x
}

// kinds is what the index is made from.
func (x *index) kinds() []*api.Kind {
	k := []*api.Kind{api.Namespaces, api.Services, api.EndpointSlices}
	if x.pods == PodsVerified || x.paths != nil {
		k = append(k, api.Pods)
	}
	return k
}

// apply takes events up. A Service that several of them touch is computed once.
func (x *index) apply(b store.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	touched := map[string]struct{}{}
	for _, e := range b.Events {
		x.take(e, touched)
	}
	for key := range touched {
		x.renew(key)
	}
	x.serial.Store(uint32(b.Revision))
}

func (x *index) take(e store.Event, touched map[string]struct{}) {
	gone := e.Type == store.Deleted
	switch obj := e.Object.(type) {
	case *corev1.Service:
		s := x.service(api.Name(obj))
		s.svc = obj
		if gone {
			s.svc = nil
		}
		touched[api.Name(obj)] = struct{}{}
	case *discoveryv1.EndpointSlice:
		x.takeSlice(obj, gone, touched)
	case *corev1.Namespace:
		x.setOrDrop("Namespace "+obj.Name, gone, func() desired { return x.zones.planNamespace(obj.Name, x.pods) })
	case *corev1.Pod:
		if x.pods == PodsVerified {
			x.setOrDrop("Pod "+api.Name(obj), gone, func() desired { return x.zones.planPod(obj) })
		}
		if x.paths != nil {
			x.paths.take(obj, gone)
		}
	}
}

func (x *index) setOrDrop(source string, gone bool, plan func() desired) {
	if gone {
		x.set(source, nil)
		return
	}
	x.set(source, plan())
}

func (x *index) takeSlice(slice *discoveryv1.EndpointSlice, gone bool, touched map[string]struct{}) {
	name := api.Name(slice)
	key := ""
	if svc := slice.Labels[discoveryv1.LabelServiceName]; svc != "" && !gone {
		key = slice.Namespace + "/" + svc
	}
	if old := x.sliceOf[name]; old != "" && old != key {
		x.service(old).drop(slice.Name)
		delete(x.sliceOf, name)
		touched[old] = struct{}{}
	}
	if key != "" {
		x.sliceOf[name] = key
		x.service(key).put(slice)
		touched[key] = struct{}{}
	}
}

func (x *index) service(key string) *service {
	s := x.services[key]
	if s == nil {
		s = &service{}
		x.services[key] = s
	}
	return s
}

// renew computes the records of one Service and puts the differences into the table.
func (x *index) renew(key string) {
	s := x.services[key]
	if s.svc == nil {
		x.set("Service "+key, nil)
		if len(s.slices) == 0 {
			delete(x.services, key)
		}
		return
	}
	x.set("Service "+key, x.zones.planService(s.svc, s.slices))
}

// find is where a slice stands or would stand.
func (s *service) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.slices, name, func(e *discoveryv1.EndpointSlice, name string) int { return strings.Compare(e.Name, name) })
}

func (s *service) put(slice *discoveryv1.EndpointSlice) {
	i, held := s.find(slice.Name)
	if held {
		s.slices[i] = slice
		return
	}
	s.slices = slices.Insert(s.slices, i, slice)
}

func (s *service) drop(name string) {
	if i, held := s.find(name); held {
		s.slices = slices.Delete(s.slices, i, i+1)
	}
}

// set makes want the records of a source. Names that keep their records are not touched. A name that comes is made before
// one that goes, so that no empty non-terminal above both vanishes for a moment.
func (x *index) set(source string, want desired) {
	had, now := x.wanted[source], want.said()
	for i, st := range now {
		if old, ok := had.about(st.owner); ok && slices.Equal(old, st.records) {
			now[i].records = old
			continue
		}
		x.say(st.owner, source, st.records)
	}
	for _, st := range had {
		if _, ok := want[st.owner]; !ok {
			x.unsay(st.owner, source)
		}
	}
	if len(now) == 0 {
		delete(x.wanted, source)
		return
	}
	x.wanted[source] = now
}

func (x *index) say(owner, source string, records []record) {
	n := x.name(owner)
	i := slices.IndexFunc(n.parts, func(p part) bool { return p.source == source })
	if i < 0 {
		n.parts = append(n.parts, part{source: source, records: records})
	} else {
		n.parts[i].records = records
	}
	x.show(n)
}

func (x *index) unsay(owner, source string) {
	n := x.table.get(owner).owner
	n.parts = slices.DeleteFunc(n.parts, func(p part) bool { return p.source == source })
	x.show(n)
	x.prune(n)
}

// show makes readers see what the parts of a name say.
func (x *index) show(n *name) {
	made := compile(n.key, n.parts)
	made.owner = n
	x.table.put(made)
}

// name finds or makes a name, and the names above it up to its zone's apex.
func (x *index) name(owner string) *name {
	if n := x.table.get(owner); n != nil {
		return n.owner
	}
	if above := x.above(owner); above != "" {
		x.name(above).children++
	}
	n := &name{key: owner}
	x.show(n)
	return n
}

// prune drops a name that holds nothing, and then the names above it that held only this one.
func (x *index) prune(n *name) {
	for n != nil && len(n.parts) == 0 && n.children == 0 {
		x.table.remove(n.key)
		above := x.above(n.key)
		if above == "" {
			return
		}
		n = x.table.get(above).owner
		n.children--
	}
}

// above is the name one label up, or "" at an apex and outside the zones: there, nothing needs to exist between.
func (x *index) above(owner string) string {
	if _, apex := x.zones.apexes[owner]; apex || x.zones.of(owner) == "" {
		return ""
	}
	off, _ := dns.NextLabel(owner, 0)
	return owner[off:]
}
