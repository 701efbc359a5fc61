package proxy

import (
	"fmt"
	"net/netip"
	"slices"
)

// primary is the word for the first address of each family.
const primary = "primary"

// CheckNodePortAddresses says what is wrong with a Config's NodePortAddresses; nil: nothing.
func CheckNodePortAddresses(list []string) error {
	return (&Config{NodePortAddresses: list}).restrict()
}

// restrict leaves in NodeAddresses those that NodePortAddresses lets answer.
func (c *Config) restrict() error {
	if len(c.NodePortAddresses) == 0 {
		return nil
	}
	var ranges []netip.Prefix
	for _, s := range c.NodePortAddresses {
		if s == primary && len(c.NodePortAddresses) > 1 {
			return fmt.Errorf("nodePortAddresses %q: %s stands alone", c.NodePortAddresses, primary)
		}
		if s == primary {
			break
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("nodePortAddresses %q: %s is neither a range nor %s", c.NodePortAddresses, s, primary)
		}
		ranges = append(ranges, p.Masked())
	}
	var kept []netip.Addr
	for _, a := range c.NodeAddresses {
		first := !slices.ContainsFunc(kept, func(k netip.Addr) bool { return k.Is4() == a.Is4() })
		held := slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
		if held || len(ranges) == 0 && first && !a.IsLoopback() {
			kept = append(kept, a)
		}
	}
	c.NodeAddresses = kept
	return nil
}

// constant are the elements that no Service asks for. A loopback address never answers: what came to it could not be answered from
// another machine.
func (p *Proxy) constant(f family) []element {
	var out []element
	for _, a := range p.cfg.NodeAddresses {
		if f.has(a) && !a.IsLoopback() {
			out = append(out, nodeAddress(a))
		}
	}
	return out
}
