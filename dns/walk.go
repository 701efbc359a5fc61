package dns

import (
	"cmp"
	"context"
	"fmt"
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

// Found says that the walk ends here: a C library goes no further once there are records, be they a CNAME that leads nowhere.
func (s Step) Found() bool { return s.Rcode == "NOERROR" && len(s.Answers) > 0 }

// Search is what a pod's resolv.conf says about names.
type Search struct {
	Path  []string // "dev.svc.cluster.local", ...
	Ndots int      // names with fewer dots try the path first; Kubernetes writes 5
	// Client is the pod's address, by which a server with Autopath knows its path; the zero address: nobody's.
	Client netip.Addr
}

// Candidates is the names that glibc asks for, in order: with a dot at the end only the name itself; with fewer dots than
// ndots the search path first, else the name first. The root in a search path stands for the name itself. Names that are too
// long with a path are not asked for.
func (s Search) Candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var all []string
	add := func(candidate string) {
		if ValidName(candidate) && !slices.Contains(all, candidate) {
			all = append(all, candidate)
		}
	}
	if strings.Count(name, ".") >= s.Ndots {
		add(name + ".")
	}
	for _, domain := range s.Path {
		add(strings.TrimSuffix(name+"."+strings.Trim(domain, "."), ".") + ".")
	}
	add(name + ".")
	return all
}

// questions is what a pod's programs ask to find a name, and under which names: where a port is served, an address's name, or else
// the addresses of both families.
func (s Search) questions(name string) (types []uint16, candidates []string) {
	labels := dns.SplitDomainName(name)
	switch {
	case isReverse(dns.CanonicalName(name)):
		return []uint16{dns.TypePTR}, []string{dns.Fqdn(name)}
	case len(labels) > 1 && labels[0][0] == '_' && labels[1][0] == '_':
		return []uint16{dns.TypeSRV}, s.Candidates(name)
	}
	return []uint16{dns.TypeA, dns.TypeAAAA}, s.Candidates(name)
}

// Walk asks as a pod's glibc does: A and AAAA for each candidate, until one has an address; SRV for the name of a port, PTR for
// that of an address. The answers are those that the pod gets; nothing is sent but upstream questions.
func (s *Server) Walk(ctx context.Context, name string, search Search) []Step {
	var steps []Step
	types, candidates := search.questions(name)
	for _, candidate := range candidates {
		found := false
		for _, qtype := range types {
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
	if !known {
		step.Rcode, step.Reason = dns.RcodeToString[dns.RcodeNotImplemented], "there is no record type "+qtype
		return step
	}
	// As a client's packet has it: what is not a letter, digit or dash of a name is spelled in its own way there.
	req := new(dns.Msg).SetQuestion(step.Name, typ)
	p, err := req.Pack()
	if err = cmp.Or(err, req.Unpack(p)); err != nil {
		step.Rcode = dns.RcodeToString[dns.RcodeFormatError]
		step.Reason = "no such name can exist: a label has 1 to 63 bytes, a name at most 253"
		return step
	}
	began := time.Now()
	m, r := s.whole(ctx, client, req, rand.Uint64())
	finish(m, &r, req, dns.MaxMsgSize)
	step.Took = time.Since(began)
	step.Rcode = dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		step.Answers = append(step.Answers, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	s.explain(&step, m, &r)
	return step
}

// explain fills in where the answer comes from.
func (s *Server) explain(step *Step, m *dns.Msg, r *result) {
	x := s.index.Load()
	if x == nil {
		step.Reason = "the server has not read the cluster's objects yet"
		return
	}
	if step.Foreign = r.foreign; step.Foreign == m.Question[0].Name {
		step.Foreign = step.Name // as it was typed
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	end := x.follow(step, m)
	switch {
	case r.refused:
		step.Reason = "the server refuses such questions"
	case r.foreign != "":
		step.Reason = s.whyForeign(step, r)
	case step.Rcode == "SERVFAIL":
		step.Reason = "the ExternalNames lead in a circle"
	case step.Rcode == "NXDOMAIN":
		step.Reason = x.whyMissing(end)
		if len(step.Answers) > 0 {
			step.Reason = end + ": " + step.Reason
		}
	case !answers(m):
		step.Reason = x.whyEmpty(end, step)
	}
}

// follow fills in the objects that the names of a chain of CNAMEs come from, and returns the last name. The caller holds mu.
func (x *index) follow(step *Step, m *dns.Msg) (end string) {
	end = dns.CanonicalName(step.Name)
	step.From = x.sources(end)
	for _, rr := range m.Answer {
		alias, ok := rr.(*dns.CNAME)
		if !ok || x.zones.of(dns.CanonicalName(alias.Target)) == "" {
			continue
		}
		end = dns.CanonicalName(alias.Target)
		for _, source := range x.sources(end) {
			if !slices.Contains(step.From, source) {
				step.From = append(step.From, source)
			}
		}
	}
	return end
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

// whyForeign says who answered for a name outside the cluster and what, or why nobody did.
func (s *Server) whyForeign(step *Step, r *result) string {
	says := r.from
	switch {
	case r.err != nil:
		says = strings.ReplaceAll(r.err.Error(), "\n", "; ")
	case step.Rcode == "NXDOMAIN":
		says += " says that there is no such name"
	case step.Rcode != "NOERROR":
		says += " says " + step.Rcode
	case len(step.Answers) == 0:
		says += " says that the name has no " + step.Type + " record"
	default:
		return fmt.Sprintf("%s is outside %s: %s answered", step.Foreign, s.zones.domain, says)
	}
	return fmt.Sprintf("%s is outside %s: %s%s", step.Foreign, s.zones.domain, says, s.zones.nearDomain(step.Foreign))
}
