package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"text/tabwriter"

	"kubarium.dev/cluster"
)

// packetTarget takes "tcp://10.96.0.1:443" apart; ok false for words of another form.
func packetTarget(word string) (protocol, to string, ok bool) {
	protocol, to, ok = strings.Cut(word, "://")
	return protocol, to, ok
}

// whyPacket prints the rules that a packet would meet.
func (a *app) whyPacket(ctx context.Context, word, from, namespace, output string) error {
	protocol, to, _ := packetTarget(word)
	if _, err := netip.ParseAddrPort(to); err != nil {
		return failf(exitUsage, "write PROTOCOL://ADDRESS:PORT, like tcp://10.96.0.1:443; why dns NAME finds an address", "%q is no address with a port", to)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	q := url.Values{"from": {from}, "namespace": {namespace}, "protocol": {protocol}, "to": {to}}
	var w cluster.WhyPacket
	if err := c.get(ctx, "/kubarium/v1/why?"+q.Encode(), &w); err != nil {
		return err
	}
	if output == "json" {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(w)
	}
	fmt.Fprintf(a.out, "%s %s -> %s, by the rules of node %s\n", w.Protocol, w.Source, w.To, w.Node)
	t := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "CHAIN\tRULE\tFOUND")
	for _, s := range w.Steps {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Chain, s.Rule, s.Found)
	}
	return t.Flush()
}
