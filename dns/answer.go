package dns

import (
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxChain is how many ExternalName Services may lead to one another within the cluster: a longer chain is a loop.
const maxChain = 8

// result is what the index knows about a question.
type result struct {
	rcode  int
	answer []dns.RR
	ns     []dns.RR
	extra  []dns.RR
	// truncated says that an upstream server had more to say than it could send.
	truncated bool
	refused   bool // the question is not answered at all, whatever it is
	seed      uint64
	foreign   string // not empty: a name that only others can answer, to be appended to answer
	from      string // who answered it
	err       error  // or why nobody did
}

// answer looks a question up. It reads the index only: equal index and seed, equal answer. The seed decides the order of
// addresses.
func (x *index) answer(q dns.Question, seed uint64) result {
	r := result{seed: seed}
	name := q.Name
	for range maxChain {
		target := x.step(&r, name, q.Qtype)
		if target == "" {
			return r
		}
		if leadsBack(r.answer, target) {
			break
		}
		name = target
		if x.zones.of(strings.ToLower(name)) == "" {
			r.foreign = name
			return r
		}
	}
	r.rcode = dns.RcodeServerFailure // ExternalNames in a circle
	return r
}

// leadsBack says that a chain of CNAMEs has been at a name already.
func leadsBack(chain []dns.RR, name string) bool {
	return slices.ContainsFunc(chain, func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, name) })
}

// step answers for one name of a chain of CNAMEs. It returns the name to go on with, or "".
func (x *index) step(r *result, asked string, qtype uint16) string {
	name := dns.CanonicalName(asked)
	n := x.find(name)
	if n == nil {
		apex := x.zones.of(name)
		if apex == "" {
			r.foreign = asked
			return ""
		}
		r.rcode = dns.RcodeNameError
		r.ns = []dns.RR{x.zones.soa(apex, x.serial.Load())}
		return ""
	}
	if c := n.of(dns.TypeCNAME); len(c) > 0 {
		r.answer = append(r.answer, c[0].rr(asked, x.zones.ttl))
		if qtype == dns.TypeCNAME || qtype == dns.TypeANY {
			return ""
		}
		return c[0].text
	}
	x.records(r, n, name, asked, qtype)
	return ""
}

// records answers with the records of a name that exists.
func (x *index) records(r *result, n *node, name, asked string, qtype uint16) {
	apex := x.zones.of(name)
	before := len(r.answer)
	for records := range n.sets {
		if records[0].typ == qtype || qtype == dns.TypeANY {
			r.answer = r.appendNamed(records, asked, x.zones.ttl)
		}
	}
	if apex == name && (qtype == dns.TypeSOA || qtype == dns.TypeANY) {
		soa := x.zones.soa(apex, x.serial.Load())
		soa.Header().Name = asked
		r.answer = append(r.answer, soa)
	}
	switch {
	case len(r.answer) > before:
		r.extra = x.additional(r.answer[before:])
	case apex == "":
		r.foreign = asked // a stray reverse name has the PTR that we know of, and whatever others know
	default:
		r.ns = []dns.RR{x.zones.soa(apex, x.serial.Load())}
	}
}

// find returns the node of a name, or nil.
func (x *index) find(name string) *node {
	if n := x.table.get(name); n != nil {
		return n
	}
	if r, ok := x.below(name); ok {
		return compile(name, []part{{records: []record{r}}})
	}
	if x.pods == PodsInsecure {
		return x.insecurePod(name)
	}
	return nil
}

// below is the record of an endpoint's name, which spells its address below a Service's name.
func (x *index) below(name string) (record, bool) {
	label, rest, ok := strings.Cut(name, ".")
	if !ok {
		return record{}, false
	}
	n := x.table.get(rest)
	if n == nil {
		return record{}, false
	}
	return n.named(label)
}

// insecurePod believes every address that a name spells below an existing namespace, as Kubernetes' default has it.
func (x *index) insecurePod(name string) *node {
	label, rest, _ := strings.Cut(name, ".")
	namespace, ok := strings.CutSuffix(rest, ".pod."+x.zones.domain)
	if !ok || strings.Contains(namespace, ".") || x.table.get(rest) == nil {
		return nil
	}
	a, ok := undashed(label)
	if !ok {
		return nil
	}
	return compile(name, []part{{records: []record{addressRecord(a)}}})
}

// appendNamed is the answer and further records in random order, under the name as it was asked: with the capitals of the
// question.
func (r *result) appendNamed(records []record, asked string, ttl time.Duration) []dns.RR {
	to, at := r.answer, len(r.answer)
	for _, one := range records {
		to = append(to, one.rr(asked, ttl))
	}
	added := to[at:]
	shuffle(len(added), r.seed, func(i, j int) { added[i], added[j] = added[j], added[i] })
	return to
}

// additional is the addresses of the targets that SRV and NS records name.
func (x *index) additional(answer []dns.RR) []dns.RR {
	var extra []dns.RR
	var seen map[string]bool
	for _, rr := range answer {
		target := ""
		switch rr := rr.(type) {
		case *dns.SRV:
			target = rr.Target
		case *dns.NS:
			target = rr.Ns
		default:
			continue
		}
		if seen[target] {
			continue
		}
		if seen == nil {
			seen = map[string]bool{}
		}
		seen[target] = true
		if n := x.find(target); n != nil {
			for _, one := range slices.Concat(n.of(dns.TypeA), n.of(dns.TypeAAAA)) {
				extra = append(extra, one.rr(target, x.zones.ttl))
			}
		}
	}
	return extra
}
