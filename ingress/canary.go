package ingress

import (
	"regexp"
)

// canary is how an Ingress marked as one takes a share of another's requests: by header, then by cookie, then by weight.
type canary struct {
	header, value string
	pattern       *regexp.Regexp
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

// split is the rules that stand in the place of main once there is a canary. Those with conditions come first, in the order in
// which they are asked.
func (c *canary) split(main, canaried Rule) []Rule {
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
	case c.pattern != nil:
		rules = append(rules, toCanary(FieldMatch{Name: c.header, Regex: c.pattern}))
	case c.value != "":
		rules = append(rules, toCanary(FieldMatch{Name: c.header, Value: c.value}))
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

// draw picks one of a rule's backends by weight; number is any random one.
func (r *Rule) draw(number uint64) *Backend {
	switch {
	case len(r.Backends) == 0 || r.total == 0:
		return nil
	case len(r.Backends) == 1:
		return &r.Backends[0]
	}
	left := int(number % uint64(r.total))
	for i := range r.Backends {
		if left -= r.Backends[i].Weight; left < 0 {
			return &r.Backends[i]
		}
	}
	return nil
}

// mix is splitmix64: the n-th number of the sequence that a seed starts, the same in every run.
func mix(seed, n uint64) uint64 {
	z := seed + (n+1)*0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
