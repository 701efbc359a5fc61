package ingress

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// The old way to name an Ingress's class, and the mark of the default class.
const (
	classAnnotation   = "kubernetes.io/ingress.class"
	defaultAnnotation = "ingressclass.kubernetes.io/is-default-class"
)

// model is what Run knows of the cluster. It belongs to Run's goroutine.
type model struct {
	c         *Controller
	ingresses map[string]*networkingv1.Ingress
	classes   map[string]*networkingv1.IngressClass
	services  map[string]*corev1.Service
	slices    map[string]map[string]*discoveryv1.EndpointSlice // by Service, then by name
	sliceOf   map[string]string                                // a slice's Service
	secrets   map[string]*corev1.Secret
	configs   map[string]*corev1.ConfigMap

	compiled map[string]*compiled // by Ingress; what the objects they use have not changed since
	keys     keyPairs
	live     map[Backend]*service // by all that tells backends apart
	byName   map[string][]liveOne // by Service
	uses     map[string]bool      // "Secret/dev/auth": what the routes are made from beside Ingresses
	problems map[string][]Problem // by Ingress: what compiling found
	dirty    bool                 // the routes must be built anew
	moved    map[string]bool      // Services whose places must be found anew
	told     map[string]string    // by Ingress: what its last report said
}

type liveOne struct {
	key Backend
	at  *service
}

func newModel(c *Controller) *model {
	return &model{
		c: c, ingresses: map[string]*networkingv1.Ingress{}, classes: map[string]*networkingv1.IngressClass{}, services: map[string]*corev1.Service{},
		slices: map[string]map[string]*discoveryv1.EndpointSlice{}, secrets: map[string]*corev1.Secret{}, configs: map[string]*corev1.ConfigMap{},
		sliceOf: map[string]string{}, compiled: map[string]*compiled{}, live: map[Backend]*service{}, moved: map[string]bool{}, told: map[string]string{},
	}
}

func watched() []*api.Kind {
	return []*api.Kind{api.Ingresses, api.IngressClasses, api.Services, api.EndpointSlices, api.Secrets, api.ConfigMaps}
}

// fill lists every kind, and returns the oldest of the lists' revisions. What a list holds already comes again with the watch,
// in order, and ends in the same state.
func (m *model) fill(ctx context.Context, from store.Reader) (uint64, error) {
	var oldest uint64
	for i, kind := range watched() {
		l, err := from.List(ctx, kind, store.Query{})
		if err != nil {
			return 0, err
		}
		for _, obj := range l.Items {
			m.take(store.Event{Type: store.Added, Kind: kind, Object: obj})
		}
		if i == 0 || l.Revision < oldest {
			oldest = l.Revision
		}
	}
	return oldest, nil
}

// take notes one event, and what has to be done for it.
func (m *model) take(e store.Event) {
	name, gone := api.Name(e.Object), e.Type == store.Deleted
	switch obj := e.Object.(type) {
	case *networkingv1.Ingress:
		old := m.ingresses[name]
		set(m.ingresses, name, obj, gone)
		if gone || old == nil || old.Generation != obj.Generation || old.UID != obj.UID || !sameMeta(old, obj) {
			m.dirty = true
			delete(m.compiled, name)
		}
	case *networkingv1.IngressClass:
		set(m.classes, name, obj, gone)
		m.dirty = true
	case *corev1.Service:
		set(m.services, name, obj, gone)
		m.moved[name] = true
		if name == m.c.cfg.Service {
			m.dirty = true // statuses show its addresses
		}
	case *discoveryv1.EndpointSlice:
		m.takeSlice(name, obj, gone)
	case *corev1.Secret:
		set(m.secrets, name, obj, gone)
		m.used("Secret/" + name)
	case *corev1.ConfigMap:
		set(m.configs, name, obj, gone)
		m.used("ConfigMap/" + name)
	}
}

func set[T any](in map[string]T, name string, obj T, gone bool) {
	if gone {
		delete(in, name)
		return
	}
	in[name] = obj
}

// sameMeta spares work for writes of the status alone.
func sameMeta(a, b *networkingv1.Ingress) bool {
	if len(a.Annotations) != len(b.Annotations) || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || b.Generation == 0 {
		return false
	}
	for k, v := range a.Annotations {
		if b.Annotations[k] != v {
			return false
		}
	}
	return true
}

func (m *model) takeSlice(name string, obj *discoveryv1.EndpointSlice, gone bool) {
	service := obj.Namespace + "/" + obj.Labels[discoveryv1.LabelServiceName]
	if before, ok := m.sliceOf[name]; ok && before != service {
		delete(m.slices[before], name)
		m.moved[before] = true
	}
	set(m.sliceOf, name, service, gone)
	if m.slices[service] == nil {
		m.slices[service] = map[string]*discoveryv1.EndpointSlice{}
	}
	set(m.slices[service], name, obj, gone)
	if len(m.slices[service]) == 0 {
		delete(m.slices, service)
	}
	m.moved[service] = true
}

// used notes a change of an object that annotations or TLS entries name.
func (m *model) used(name string) {
	if m.uses[name] {
		m.dirty = true
		for ing, c := range m.compiled {
			if c.uses[name] {
				delete(m.compiled, ing)
			}
		}
	}
}

// settle puts into effect what has been taken.
func (m *model) settle() {
	if m.dirty {
		m.build()
		return
	}
	for name := range m.moved {
		for _, one := range m.byName[name] {
			m.place(one)
		}
	}
	if len(m.moved) > 0 {
		clear(m.moved)
	}
}

// build makes the routes and certificates anew, and puts them in the place of the old ones.
func (m *model) build() {
	served := m.served()
	m.uses = map[string]bool{}
	var all []*compiled
	for _, ing := range served {
		name := api.Name(ing)
		if m.compiled[name] == nil {
			m.compiled[name] = compileOne(ing, Sources{Secret: m.secret, ConfigMap: m.config})
		}
		for use := range m.compiled[name].uses {
			m.uses[use] = true
		}
		for _, entry := range ing.Spec.TLS {
			m.uses["Secret/"+ing.Namespace+"/"+entry.SecretName] = true
		}
		all = append(all, m.compiled[name])
	}
	routes, problems := merge(all)
	m.problems = byIngress(problems)
	certs, more := newCertificates(served, m.secret, &m.keys)
	problems = append(problems, more...)
	problems = append(problems, m.bind(routes)...)
	m.c.certs.Store(certs)
	m.c.table.Store(NewTable(routes))
	m.dirty = false
	clear(m.moved)
	m.tell(served, problems)
}

func (m *model) secret(namespace, name string) *corev1.Secret { return m.secrets[namespace+"/"+name] }
func (m *model) config(namespace, name string) *corev1.ConfigMap {
	return m.configs[namespace+"/"+name]
}

// bind gives every backend what runs behind it. Services that no rule leads to any more lose their idle connections.
func (m *model) bind(routes []Route) []Problem {
	before := m.live
	m.live, m.byName = map[Backend]*service{}, map[string][]liveOne{}
	var problems []Problem
	for i := range routes {
		for j := range routes[i].Rules {
			r := &routes[i].Rules[j]
			r.stats = m.c.metrics.of(r.Ingress, "")
			r.Backends = slices.Clone(r.Backends)
			for k := range r.Backends {
				problems = append(problems, m.bindOne(r, &r.Backends[k], before)...)
			}
			if r.Fallback != nil {
				fallback := *r.Fallback
				r.Fallback = &fallback
				m.bindOne(r, r.Fallback, before)
			}
		}
	}
	for key, s := range before {
		if m.live[key] == nil {
			for _, e := range s.places.Load().endpoints {
				e.pool.close()
			}
		}
	}
	return problems
}

func (m *model) bindOne(r *Rule, b *Backend, before map[Backend]*service) []Problem {
	key := *b
	key.Weight, key.live, key.stats = 0, nil, nil
	at := m.live[key]
	if at == nil {
		if at = before[key]; at == nil {
			at = &service{name: b.String()}
		}
		m.live[key] = at
		name := b.Namespace + "/" + b.Service
		one := liveOne{key, at}
		m.byName[name] = append(m.byName[name], one)
		m.place(one)
	}
	b.live, b.stats = at, m.c.metrics.of(r.Ingress, at.name)
	p := at.places.Load()
	if len(p.endpoints) == 0 && b.Resource == "" && p.wrong {
		return []Problem{{m.ingresses[r.Ingress], "ServiceNotUsable", r.Field + ": " + at.name + ": " + p.problem + "; such requests are answered 503"}}
	}
	return nil
}

// place finds a backend's endpoints anew; connections to those that are gone end when they are idle.
func (m *model) place(one liveOne) {
	name := one.key.Namespace + "/" + one.key.Service
	var eps []*discoveryv1.EndpointSlice
	for _, slice := range m.slices[name] {
		eps = append(eps, slice)
	}
	old := one.at.places.Load()
	now := locate(&one.key, m.services[name], eps, old)
	one.at.places.Store(now)
	if old == nil {
		return
	}
	for _, e := range old.endpoints {
		if !slices.Contains(now.endpoints, e) {
			e.pool.close()
		}
	}
}

// served is the Ingresses of our classes, the oldest first.
func (m *model) served() []*networkingv1.Ingress {
	var all []*networkingv1.Ingress
	for _, ing := range m.ingresses {
		if ing.DeletionTimestamp == nil && m.ours(ing) {
			all = append(all, ing)
		}
	}
	return byAge(all)
}

// ours tells whether an Ingress's class leads here: the field before the old annotation, and without either the default class.
func (m *model) ours(ing *networkingv1.Ingress) bool {
	if ing.Spec.IngressClassName != nil {
		class := m.classes[*ing.Spec.IngressClassName]
		return class != nil && class.Spec.Controller == m.c.cfg.ControllerName
	}
	if name, ok := ing.Annotations[classAnnotation]; ok {
		class := m.classes[name]
		return name == m.c.cfg.Class || (class != nil && class.Spec.Controller == m.c.cfg.ControllerName)
	}
	if !m.c.cfg.ServeClassless {
		return false
	}
	class := m.defaultClass()
	return class == nil || class.Spec.Controller == m.c.cfg.ControllerName
}

// defaultClass is the newest class marked as default, then the lowest name.
func (m *model) defaultClass() *networkingv1.IngressClass {
	var best *networkingv1.IngressClass
	for _, name := range sortedKeys(m.classes) {
		class := m.classes[name]
		if class.Annotations[defaultAnnotation] != "true" {
			continue
		}
		if best == nil || cmp.Compare(class.CreationTimestamp.UnixNano(), best.CreationTimestamp.UnixNano()) > 0 {
			best = class
		}
	}
	return best
}
