package ingress

import (
	"cmp"

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

// model is what Run knows of the cluster. What a change costs follows from what it touches: an Ingress is compiled again when it
// or an object that it uses changes, a host is built again when an Ingress that names it was.
type model struct {
	c         *Controller
	ingresses map[string]*networkingv1.Ingress
	classes   map[string]*networkingv1.IngressClass
	services  map[string]*corev1.Service
	slices    map[string]map[string]*discoveryv1.EndpointSlice // by Service, then by name
	sliceOf   map[string]string                                // a slice's Service
	secrets   map[string]*corev1.Secret
	configs   map[string]*corev1.ConfigMap

	keys     keyPairs
	compiled map[string]*compiled         // by Ingress: those that are served
	users    index                        // "Secret/dev/auth" to those that use it
	naming   index                        // a host, as the table files it, to those that name it
	built    map[string]*builtHost        // by the same
	live     map[Backend]*service         // by all that tells backends apart
	byName   map[string]map[*service]bool // by Service

	table *Table

	// What has changed since settle.
	touched map[string]bool   // Ingresses
	moved   map[string]bool   // Services
	retell  map[string]bool   // Ingresses whose status or problems may have to be written
	told    map[string]string // by Ingress: what its last report said
}

// index finds, for a name, what has to do with it.
type index map[string]map[*compiled]bool

func (in index) link(name string, c *compiled) {
	if in[name] == nil {
		in[name] = map[*compiled]bool{}
	}
	in[name][c] = true
}

func (in index) unlink(name string, c *compiled) {
	if delete(in[name], c); len(in[name]) == 0 {
		delete(in, name)
	}
}

func newModel(c *Controller) *model {
	m := &model{
		c: c, table: &Table{}, sliceOf: map[string]string{}, keys: keyPairs{held: map[string]keyPair{}}, compiled: map[string]*compiled{},
		users: index{}, naming: index{}, built: map[string]*builtHost{}, live: map[Backend]*service{}, byName: map[string]map[*service]bool{},
		touched: map[string]bool{}, moved: map[string]bool{}, retell: map[string]bool{}, told: map[string]string{},
	}
	m.forget()
	return m
}

func watched() []*api.Kind {
	return []*api.Kind{api.Ingresses, api.IngressClasses, api.Services, api.EndpointSlices, api.Secrets, api.ConfigMaps}
}

// forget empties the picture of the cluster before a new one; whatever was there counts as changed. Connections to backends stay.
func (m *model) forget() {
	m.touchAll()
	for name := range m.services {
		m.moved[name] = true
	}
	for name := range m.slices {
		m.moved[name] = true
	}
	m.ingresses, m.classes = map[string]*networkingv1.Ingress{}, map[string]*networkingv1.IngressClass{}
	m.services, m.slices = map[string]*corev1.Service{}, map[string]map[string]*discoveryv1.EndpointSlice{}
	m.secrets, m.configs = map[string]*corev1.Secret{}, map[string]*corev1.ConfigMap{}
	clear(m.sliceOf)
}

// touchAll has every Ingress compiled again: classes changed, which is rare.
func (m *model) touchAll() {
	for name := range m.ingresses {
		m.touched[name] = true
	}
}

// take notes one event, and what has to be done for it.
func (m *model) take(e store.Event) {
	name, gone := api.Name(e.Object), e.Type == store.Deleted
	switch obj := e.Object.(type) {
	case *networkingv1.Ingress:
		old := m.ingresses[name]
		set(m.ingresses, name, obj, gone)
		m.retell[name] = true
		if gone || old == nil || old.Generation != obj.Generation || old.UID != obj.UID || !sameMeta(old, obj) {
			m.touched[name] = true
		}
	case *networkingv1.IngressClass:
		set(m.classes, name, obj, gone)
		m.touchAll()
	case *corev1.Service:
		set(m.services, name, obj, gone)
		m.moved[name] = true
		if name == m.c.cfg.Service {
			for ing := range m.ingresses {
				m.retell[ing] = true // statuses show its addresses
			}
		}
	case *discoveryv1.EndpointSlice:
		m.takeSlice(name, obj, gone)
	case *corev1.Secret:
		set(m.secrets, name, obj, gone)
		if gone {
			delete(m.keys.held, name)
		}
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
	for c := range m.users[name] {
		m.touched[api.Name(c.ingress)] = true
	}
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
