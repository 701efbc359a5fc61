package ingress

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// builtHost is a host in the table, and what went into it.
type builtHost struct {
	services map[*service]bool
	problems []Problem // that only show when Ingresses and Services meet
}

// settle puts into effect what has been taken, in one step: a request sees the table before or the one after.
func (m *model) settle() {
	hosts := map[string]bool{}
	for name := range m.touched {
		m.compile(name, hosts)
	}
	for name := range m.moved {
		for s := range m.byName[name] {
			if m.place(s) {
				maps.Copy(hosts, s.hosts)
			}
		}
	}
	changed := map[string]*vhost{}
	var released []*service
	for key := range hosts {
		var idle []*service
		changed[key], idle = m.build(key)
		released = append(released, idle...)
	}
	m.table = m.table.with(changed)
	m.c.table.Store(m.table)
	for _, s := range released {
		m.release(s)
	}
	m.tell()
	clear(m.touched)
	clear(m.moved)
	clear(m.retell)
}

// compile makes an Ingress anew, or forgets one that is not served any more, and adds the hosts that this touches.
func (m *model) compile(name string, touched map[string]bool) {
	m.retell[name] = true
	if old := m.compiled[name]; old != nil {
		m.touch(old, touched)
		delete(m.compiled, name)
		for use := range old.uses {
			m.users.unlink(use, old)
		}
		for _, key := range old.keys() {
			m.naming.unlink(key, old)
		}
	}
	ing := m.ingresses[name]
	if ing == nil || ing.DeletionTimestamp != nil || !m.ours(ing) {
		return
	}
	c := compileOne(ing, Sources{Secret: m.secret, ConfigMap: m.config, keys: &m.keys})
	m.compiled[name] = c
	for use := range c.uses {
		m.users.link(use, c)
	}
	for _, key := range c.keys() {
		m.naming.link(key, c)
	}
	m.touch(c, touched)
}

// touch adds the hosts of an Ingress, and for a canary those that share rules with them.
func (m *model) touch(c *compiled, touched map[string]bool) {
	for _, key := range c.keys() {
		touched[key] = true
		if c.canary == nil {
			continue
		}
		for main := range m.naming[key] {
			maps.Copy(touched, main.together(key))
		}
	}
}

// keys is every host that the Ingress names, as the table files it.
func (c *compiled) keys() []string {
	var all []string
	for _, r := range c.routes {
		if c.canary != nil {
			r.Hosts = r.Hosts[:1] // the aliases are the main one's to name
		}
		for _, host := range r.Hosts {
			all = append(all, hostKey(host))
		}
	}
	for _, held := range c.certs {
		all = append(all, held.hosts...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// of is the routes that name one of some hosts.
func (c *compiled) of(keys map[string]bool) *compiled {
	part := &compiled{ingress: c.ingress, canary: c.canary}
	for _, r := range c.routes {
		if slices.ContainsFunc(r.Hosts, func(host string) bool { return keys[hostKey(host)] }) {
			part.routes = append(part.routes, r)
		}
	}
	return part
}

// together is every host of the routes that name one.
func (c *compiled) together(key string) map[string]bool {
	all := map[string]bool{}
	if c.canary != nil {
		return all
	}
	for _, r := range c.of(map[string]bool{key: true}).routes {
		for _, host := range r.Hosts {
			all[hostKey(host)] = true
		}
	}
	return all
}

// build makes a host from all Ingresses that name it; nil: none does any more. It returns the services that lost their last host.
func (m *model) build(key string) (*vhost, []*service) {
	old, now := m.built[key], &builtHost{services: map[*service]bool{}}
	var host *vhost
	if len(m.naming[key]) > 0 {
		m.built[key] = now
		routes := m.routes(key, now)
		for i := range routes {
			for j := range routes[i].Rules {
				m.bind(&routes[i].Rules[j], now)
			}
		}
		host = newHost(routes)
		for _, c := range byAge(slices.Collect(maps.Keys(m.naming[key]))) {
			if host.cert = c.certificate(key); host.cert != nil {
				break
			}
		}
	} else {
		delete(m.built, key)
	}
	for s := range now.services {
		s.hosts[key] = true
	}
	var idle []*service
	if old != nil {
		m.retellOf(old.problems)
		for s := range old.services {
			if now.services[s] {
				continue
			}
			if delete(s.hosts, key); len(s.hosts) == 0 {
				idle = append(idle, s)
			}
		}
	}
	m.retellOf(now.problems)
	return host, idle
}

func (m *model) retellOf(problems []Problem) {
	for _, p := range problems {
		m.retell[api.Name(p.Ingress)] = true
	}
}

// routes is what all Ingresses say of a host. A canary of a host is one of the others in the same rule too: its aliases.
func (m *model) routes(key string, now *builtHost) []Route {
	var mains, canaries []*compiled
	together := map[string]bool{key: true}
	for c := range m.naming[key] {
		if c.canary == nil {
			mains = append(mains, c.of(map[string]bool{key: true}))
			maps.Copy(together, c.together(key))
		}
	}
	split := map[*compiled]bool{}
	for other := range together {
		for c := range m.naming[other] {
			if c.canary != nil && !split[c] {
				split[c] = true
				canaries = append(canaries, c.of(together))
			}
		}
	}
	routes, taken := routesOf(mains), map[pathKey]bool{}
	for _, c := range byAge(canaries) {
		for _, p := range join(routes, c, taken) {
			if p.host == key { // the other hosts tell their own
				now.problems = append(now.problems, p)
			}
		}
	}
	return routes
}

func (m *model) secret(namespace, name string) *corev1.Secret { return m.secrets[namespace+"/"+name] }
func (m *model) config(namespace, name string) *corev1.ConfigMap {
	return m.configs[namespace+"/"+name]
}

// bind gives every backend of a rule what runs behind it.
func (m *model) bind(r *Rule, now *builtHost) {
	r.stats = m.c.metrics.of(r.Ingress, "")
	r.Backends = slices.Clone(r.Backends)
	for i := range r.Backends {
		b := &r.Backends[i]
		p := m.bindOne(r, b, now)
		if ing := m.ingresses[r.Ingress]; p.wrong && len(p.endpoints) == 0 && ing != nil {
			now.problems = append(now.problems, Problem{Ingress: ing, Reason: "ServiceNotUsable", Message: r.Field + ": " + b.live.name + ": " + p.problem + "; such requests are answered 503"})
		}
	}
	if r.Fallback != nil {
		fallback := *r.Fallback
		r.Fallback = &fallback
		m.bindOne(r, r.Fallback, now)
	}
}

func (m *model) bindOne(r *Rule, b *Backend, now *builtHost) *places {
	key := *b
	key.Weight, key.live, key.stats = 0, nil, nil
	s := m.live[key]
	if s == nil {
		s = &service{name: b.String(), key: key, hosts: map[string]bool{}}
		m.live[key] = s
		name := s.serviceName()
		if m.byName[name] == nil {
			m.byName[name] = map[*service]bool{}
		}
		m.byName[name][s] = true
		m.place(s)
	}
	now.services[s] = true
	b.live, b.stats = s, m.c.metrics.of(r.Ingress, s.name)
	return s.places.Load()
}

// release ends the idle connections of a service that no rule leads to any more.
func (m *model) release(s *service) {
	if len(s.hosts) > 0 {
		return // another host took it in the same step
	}
	for _, e := range s.places.Load().endpoints {
		e.pool.close()
	}
	delete(m.live, s.key)
	name := s.serviceName()
	if delete(m.byName[name], s); len(m.byName[name]) == 0 {
		delete(m.byName, name)
	}
}

// place finds a service's endpoints anew; connections to those that are gone end when they are idle. It tells whether there is
// another thing wrong with it than before.
func (m *model) place(s *service) bool {
	name := s.serviceName()
	old := s.places.Load()
	now := locate(&s.key, m.services[name], slices.Collect(maps.Values(m.slices[name])), old)
	s.places.Store(now)
	if old == nil {
		return false
	}
	for _, e := range old.endpoints {
		if !slices.Contains(now.endpoints, e) {
			e.pool.close()
		}
	}
	return (old.wrong || now.wrong) && old.problem != now.problem
}
