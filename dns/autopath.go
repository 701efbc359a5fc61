package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// paths is the search paths of pods by their address, for a server that goes through them in the clients' stead (autopath). The
// first question of a pod's C library gets the answer that its fourth would have got.
type paths struct {
	of func(*corev1.Pod) []string

	mu     sync.RWMutex
	byAddr map[netip.Addr]path     // guarded by mu
	addrs  map[string][]netip.Addr // guarded by mu: each pod's
}

// path is the search path of one pod: lower case and fully qualified.
type path struct {
	pod     string
	domains []string
}

func newPaths(of func(*corev1.Pod) []string) *paths {
	if of == nil {
		return nil
	}
	return &paths{of: of, byAddr: map[netip.Addr]path{}, addrs: map[string][]netip.Addr{}}
}

// take follows a pod. Those on their host's network share its address: nobody knows who of them asks.
func (p *paths) take(pod *corev1.Pod, gone bool) {
	name := api.Name(pod)
	var domains []string
	if !gone && !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		for _, d := range p.of(pod) {
			domains = append(domains, dns.CanonicalName(d))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.addrs[name] {
		if p.byAddr[a].pod == name { // else it is another pod's by now
			delete(p.byAddr, a)
		}
	}
	delete(p.addrs, name)
	if len(domains) == 0 {
		return
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.byAddr[a.Unmap()] = path{pod: name, domains: domains}
			p.addrs[name] = append(p.addrs[name], a.Unmap())
		}
	}
}

// rest is the names that a client's C library would ask for after name, if that is the first of its walk; else nil.
func (p *paths) rest(client netip.Addr, name string) []string {
	p.mu.RLock()
	domains := p.byAddr[client.Unmap()].domains
	p.mu.RUnlock()
	if len(domains) == 0 {
		return nil
	}
	end := len(name) - len(domains[0])
	if end < 2 || name[end-1] != '.' || !strings.EqualFold(name[end:], domains[0]) {
		return nil
	}
	var all []string
	for _, d := range domains[1:] {
		if longer := name[:end] + d; d != "." && len(longer) <= 254 {
			all = append(all, longer)
		}
	}
	return append(all, name[:end])
}

// rest is the names to try when r says that what was asked does not exist.
func (s *Server) rest(client netip.Addr, req *dns.Msg, r *result) []string {
	x := s.index.Load()
	if x == nil || x.paths == nil || r.foreign != "" || r.rcode != dns.RcodeNameError || len(r.answer) > 0 {
		return nil
	}
	if q := req.Question[0]; q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA {
		return x.paths.rest(client, q.Name)
	}
	return nil
}

// goOn is the answer of the first of names that exists, behind a CNAME that leads to it, as CoreDNS gives it; r when none does,
// so that the client goes on by itself.
func (s *Server) goOn(ctx context.Context, req *dns.Msg, names []string, r result) result {
	for _, name := range names {
		q := req.Question[0]
		q.Name = name
		n := s.look(q, r.seed)
		if n.foreign != "" {
			s.complete(ctx, req, &n)
		}
		if n.rcode != dns.RcodeSuccess {
			continue
		}
		if len(n.answer) > 0 {
			alias := &dns.CNAME{Hdr: *n.answer[0].Header(), Target: name}
			alias.Hdr.Name, alias.Hdr.Rrtype, alias.Hdr.Rdlength = req.Question[0].Name, dns.TypeCNAME, 0
			n.answer = append([]dns.RR{alias}, n.answer...)
		}
		s.counts.autopath.Add(1)
		return n
	}
	return r
}
