package ingress

import (
	"cmp"
	"math/bits"
	"regexp"
	"slices"
)

// canary is how an Ingress marked as one takes a share of another's requests: by header, then by cookie, then by weight.
type canary struct {
	header, value string
	pattern       *regexp.Regexp
	broken        bool // the pattern is: who sends the header is the main one's
	cookie        string
	weight, total int
}

// The values that a canary's header and cookie know.
const (
	always = "always"
	never  = "never"
)

// defaultWeightTotal is ingress-nginx's: a weight is a percentage.
const defaultWeightTotal = 100

// anything matches every text.
var anything = regexp.MustCompile("")

// split is the rules that stand in the place of main once there is a canary. Those with conditions come first, in the order in
// which they are asked.
func (c *canary) split(main, canaried Rule) []Rule {
	canaried.Backends = slices.Clone(canaried.Backends)
	for i := range canaried.Backends {
		b := &canaried.Backends[i]
		b.Protocol = cmp.Or(b.Protocol, main.protocol()) // both are one application
	}
	toCanary := func(f FieldMatch) Rule {
		r := main
		r.Ingress, r.Field, r.Backends = canaried.Ingress, canaried.Field, canaried.Backends
		r.Match.Fields = []FieldMatch{f}
		return r
	}
	toMain := func(f FieldMatch) Rule {
		r := main
		r.Match.Fields = []FieldMatch{f}
		return r
	}
	var rules []Rule
	switch {
	case c.header == "":
	case c.value != "": // ingress-nginx's order: beside a value, a pattern does not count
		rules = append(rules, toCanary(FieldMatch{Name: c.header, Value: c.value}))
	case c.broken:
		rules = append(rules, toMain(FieldMatch{Name: c.header, Regex: anything}))
	case c.pattern != nil:
		rules = append(rules, toCanary(FieldMatch{Name: c.header, Regex: c.pattern}))
	default:
		rules = append(rules, toCanary(FieldMatch{Name: c.header, Value: always}), toMain(FieldMatch{Name: c.header, Value: never}))
	}
	if c.cookie != "" {
		rules = append(rules, toCanary(FieldMatch{Cookie: true, Name: c.cookie, Value: always}),
			toMain(FieldMatch{Cookie: true, Name: c.cookie, Value: never}))
	}
	if c.weight > 0 && len(main.Backends) == 1 {
		weighted := main.Backends[0]
		weighted.Weight = max(c.total-c.weight, 0)
		other := canaried.Backends[0]
		other.Weight = min(c.weight, c.total)
		main.Backends = []Backend{weighted, other}
	}
	return append(rules, main)
}

// protocol is what the annotation of a rule's Ingress says of its backends.
func (r *Rule) protocol() string {
	if len(r.Backends) == 0 {
		return ""
	}
	return r.Backends[0].Protocol
}

// draw picks one of a rule's backends by weight; the whole range of numbers is shared out among them, in their order.
func (r *Rule) draw(number uint64) *Backend {
	switch {
	case len(r.Backends) == 0 || r.total == 0:
		return nil
	case len(r.Backends) == 1:
		return &r.Backends[0]
	}
	share, _ := bits.Mul64(number, uint64(r.total))
	left := int(share)
	for i := range r.Backends {
		if left -= r.Backends[i].Weight; left < 0 {
			return &r.Backends[i]
		}
	}
	return nil
}

// stuck is the backend of a client's endpoint, when there are several to draw from: who has been led to a canary stays with it, and who
// has not does not get there, as long as both take requests.
func (r *Rule) stuck(q *Request) *Backend {
	if r.Filters == nil || r.Filters.Affinity == nil || len(r.Backends) < 2 {
		return nil
	}
	want := cookie(q.Header.Get("Cookie"), r.Filters.Affinity.Cookie)
	for i := range r.Backends {
		b := &r.Backends[i]
		if want == "" || b.Weight == 0 || b.live == nil {
			continue
		}
		for _, e := range b.live.places.Load().endpoints {
			if e.mark() == want {
				return b
			}
		}
	}
	return nil
}

// golden is 2^64 times the golden section.
const golden = 0x9e3779b97f4a7c15

// spread is the n-th number of the sequence that a seed starts, the same in every run: each lies a golden section of the range behind the
// one before (Weyl). However many are drawn, they fill the range evenly, so that a share of a hundred requests is as exact as one of a
// thousand, which it would not be by chance; and no habit of a client, such as asking for two things in turn, meets the same part.
func spread(seed, n uint64) uint64 { return mix(seed, 0) + n*golden }

// mix is splitmix64: the n-th number of the random sequence that a seed starts, the same in every run.
func mix(seed, n uint64) uint64 {
	z := seed + (n+1)*golden
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
