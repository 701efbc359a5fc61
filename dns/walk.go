package dns

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Step is one question of a walk and its answer, as text for people.
type Step struct {
	Name    string        `json:"name"`              // "ent.dev.svc.cluster.local."
	Type    string        `json:"type"`              // "A"
	Rcode   string        `json:"rcode"`             // "NOERROR"
	Answers []string      `json:"answers,omitempty"` // records as in a zone file
	From    []string      `json:"from,omitempty"`    // the objects the name comes from: "Service dev/ent"
	Foreign string        `json:"foreign,omitempty"` // the name that was asked of the upstream servers, or ""
	Reason  string        `json:"reason,omitempty"`  // why the answer is what it is, in a sentence; "" when the records say it all
	Took    time.Duration `json:"took"`              // nanoseconds, inside the server, upstream included
}

// Found says that the walk may end here: there are records, and more than a CNAME to nowhere.
func (s Step) Found() bool { return s.Rcode == "NOERROR" && len(s.Answers) > 0 }

// Search is what a pod's resolv.conf says about names.
type Search struct {
	Path  []string // "dev.svc.cluster.local", ...
	Ndots int      // names with fewer dots try the path first; Kubernetes writes 5
	// Client is the pod's address, by which a server with Autopath knows its path; the zero address: nobody's.
	Client netip.Addr
}

// Candidates is the names that glibc asks for, in order: with a dot at the end only the name itself; with fewer dots than
// ndots the search path first, else the name first.
func (s Search) Candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var all []string
	for _, domain := range s.Path {
		if d := strings.Trim(domain, "."); d != "" {
			all = append(all, name+"."+d+".")
		}
	}
	if strings.Count(name, ".") < s.Ndots {
		return append(all, name+".")
	}
	return append([]string{name + "."}, all...)
}

// Walk asks as a pod's glibc does: A and AAAA for each candidate, until one has an address. The answers are those that the
// pod gets; nothing is sent but upstream questions.
func (s *Server) Walk(ctx context.Context, name string, search Search) []Step {
	var steps []Step
	for _, candidate := range search.Candidates(name) {
		found := false
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			step := s.ask(ctx, search.Client, candidate, dns.TypeToString[qtype])
			found = found || step.Found()
			steps = append(steps, step)
		}
		if found || ctx.Err() != nil {
			return steps
		}
	}
	return steps
}

// Ask answers one question and says why. A type that is not known by that name is NOTIMP.
func (s *Server) Ask(ctx context.Context, name, qtype string) Step {
	return s.ask(ctx, netip.Addr{}, name, qtype)
}

func (s *Server) ask(ctx context.Context, client netip.Addr, name, qtype string) Step {
	step := Step{Name: dns.Fqdn(name), Type: strings.ToUpper(qtype)}
	typ, known := dns.StringToType[step.Type]
	switch _, valid := dns.IsDomainName(step.Name); {
	case !known:
		step.Rcode, step.Reason = dns.RcodeToString[dns.RcodeNotImplemented], "there is no record type "+qtype
		return step
	case !valid:
		step.Rcode, step.Reason = dns.RcodeToString[dns.RcodeFormatError], "no such name can exist: a label has 1 to 63 bytes, a name at most 255"
		return step
	}
	began := time.Now()
	req := new(dns.Msg).SetQuestion(step.Name, typ)
	m, r := s.whole(ctx, client, req, rand.Uint64())
	finish(m, &r, req, dns.MaxMsgSize)
	step.Took = time.Since(began)
	step.Rcode = dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		step.Answers = append(step.Answers, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	s.explain(&step, &r)
	return step
}

// explain fills in where the answer comes from.
func (s *Server) explain(step *Step, r *result) {
	x := s.index.Load()
	if x == nil {
		step.Reason = "the server has not read the cluster's objects yet"
		return
	}
	step.Foreign = r.foreign
	x.mu.RLock()
	defer x.mu.RUnlock()
	name := dns.CanonicalName(step.Name)
	step.From = x.sources(name)
	switch {
	case r.refused:
		step.Reason = "the server refuses such questions"
	case r.foreign != "":
		step.Reason = s.whyForeign(step, r)
	case step.Rcode == "SERVFAIL":
		step.Reason = "the ExternalNames lead in a circle"
	case step.Rcode == "NXDOMAIN":
		step.Reason = x.whyMissing(name)
	case len(step.Answers) == 0:
		step.Reason = x.whyEmpty(name, step.Type)
	}
}

// sources are the objects that a name comes from. The caller holds mu.
func (x *index) sources(name string) []string {
	n := x.table.get(name)
	below, ok := record{}, false
	if n == nil {
		if below, ok = x.below(name); !ok {
			return nil
		}
		_, rest, _ := strings.Cut(name, ".")
		n, below.typ = x.table.get(rest), typeBelow
	}
	var from []string
	for _, p := range n.owner.parts {
		if p.source != zoneSource && (!ok || slices.Contains(p.records, below)) {
			from = append(from, p.source)
		}
	}
	return from
}

// whyForeign says who answered for a name outside the cluster, or why nobody did.
func (s *Server) whyForeign(step *Step, r *result) string {
	why := step.Foreign + " is outside " + s.zones.domain
	says := r.from + " answered"
	if r.err != nil {
		says = strings.ReplaceAll(r.err.Error(), "\n", "; ")
	}
	if step.Found() {
		return why + ": " + says
	}
	return why + s.zones.nearDomain(step.Foreign) + ": " + says
}
