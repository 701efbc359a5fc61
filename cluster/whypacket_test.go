package cluster_test

import (
	"net/netip"
	"strings"
	"testing"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// P-56: what why says of a packet is what happens to it: which pods may answer, and whose address they see.
func TestWhyTellsWhatHappensToAPacket(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, cluster.Options{})
	c.Apply(on("n1", "n2") + shop + loadBalancer("local", "app: shop", ", externalTrafficPolicy: Local"))
	c.Ready("default", 2)
	c.Programmed()
	for _, test := range []struct{ from, to string }{
		{"pod/web-n1", "10.96.0.88:80"},
		{"node/n1", "10.96.0.88:80"},
		{"outside", "172.30.0.12:30080"},
		{"pod/web-n2", "172.30.0.11:30080"},
		{"pod/web-n1", given(t, c, "local") + ":80"},
		{"node/n2", given(t, c, "local") + ":80"},
	} {
		w, err := c.WhyPacket(test.from, "default", "tcp", test.to)
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, s := range w.Steps {
			said += s.Found + "\n"
		}
		place := strings.Replace(test.from, "pod/", "pod/default/", 1)
		for range 20 {
			a := ask(t, c.HTTP(place), "http://"+test.to+"/")
			if !strings.Contains(said, "(default/"+a.Pod+"), with a chance of 1 in 2\n") {
				t.Errorf("%s to %s: %s answered, but why says\n%s", test.from, test.to, a.Pod, said)
			}
			client := netip.MustParseAddrPort(a.Client).Addr()
			itself := addressOf(t, c, a.Pod) == netip.AddrPortFrom(w.Source, 80).String()
			want := "the endpoint sees the node's address"
			switch {
			case itself:
				want = "when it is the client itself that is drawn, it sees the node's address"
			case client == w.Source && strings.HasPrefix(test.from, "pod/"):
				want = "the endpoint sees " + w.Source.String()
			}
			if !strings.Contains(said, want) {
				t.Errorf("%s to %s: %s saw %s, but why says\n%s", test.from, test.to, a.Pod, client, said)
			}
		}
	}
	for _, wrong := range [][3]string{{"pod/none", "tcp", "10.96.0.88:80"}, {"node/n9", "tcp", "10.96.0.88:80"}, {"nowhere", "tcp", "10.96.0.88:80"},
		{"", "icmp", "10.96.0.88:80"}, {"", "tcp", "shop:80"}} {
		if _, err := c.WhyPacket(wrong[0], "default", wrong[1], wrong[2]); err == nil {
			t.Errorf("%v was explained", wrong)
		}
	}
}
