package proxy

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kubarium.dev/node/netns"
)

func newNS(t testing.TB) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// nft runs nft in a namespace.
func nft(t *testing.T, ns *netns.NS, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd); err != nil {
		t.Fatalf("start nft: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

func openTestKernel(t testing.TB, ns *netns.NS) *linux {
	t.Helper()
	k, err := openKernel(ns, ipv4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

var testNetwork = network{
	podCIDR:     netip.MustParsePrefix("10.244.0.0/16"),
	serviceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
	dns:         netip.MustParseAddr("10.96.0.10"),
}

// P-57: the text the planner prints and the messages it sends are the same table: nft lists both alike.
func TestTheTableAsTextAndInTheKernelAreTheSame(t *testing.T) {
	t.Parallel()
	p := newPlanner(4, []element{nodeAddress(netip.MustParseAddr("172.30.0.11"))})
	for _, d := range sampleServices() {
		p.set(d.Name, d)
	}
	p.finish()
	chains := ruleset(testNetwork, p.shapes)
	var text strings.Builder
	if err := writeTable(&text, ipv4, chains, p.table()); err != nil {
		t.Fatal(err)
	}
	byText, byNetlink := newNS(t), newNS(t)
	nft(t, byText, text.String(), "-f", "-")
	k := openTestKernel(t, byNetlink)
	if err := k.apply(batch{Declare: true, Chains: chains, Verbs: diff(nil, p.all())}); err != nil {
		t.Fatal(err)
	}
	list := func(ns *netns.NS) []string {
		lines := strings.Split(nft(t, ns, "", "list", "ruleset"), "\n")
		return lines
	}
	if d := cmp.Diff(list(byText), list(byNetlink)); d != "" {
		t.Errorf("nft lists the text (-) and the messages (+) differently:\n%s", d)
	}
	got, err := k.read()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p.table(), got.Elements); d != "" {
		t.Errorf("plan (-) and kernel (+) differ:\n%s", d)
	}
}

// A process that serves many pods has thousands of descriptors, and a proxy's may be among the last. (The library that makes the
// messages panicked at a descriptor of 1,024 or more.)
func TestAProxysSocketsMayHaveAnyDescriptor(t *testing.T) {
	t.Parallel()
	ns := newNS(t)
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Fd() > 1100 {
			break
		}
	}
	k := openTestKernel(t, ns)
	p := newPlanner(4, nil)
	for _, d := range sampleServices() {
		p.set(d.Name, d)
	}
	p.finish()
	b := batch{Declare: true, Chains: ruleset(testNetwork, p.shapes), Verbs: diff(nil, p.all())}
	if err := k.apply(b); err != nil {
		t.Fatal(err)
	}
	got, err := k.read()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p.table(), got.Elements); d != "" || got.Rules == 0 {
		t.Errorf("%d rules; plan (-) and kernel (+) differ:\n%s", got.Rules, d)
	}
	b.Verbs = []verb{{opDelete, element{elemKey{mapSizes, packMark(4711)}, elemValue{}}}}
	if err := k.apply(b); !errors.Is(err, unix.ENOENT) {
		t.Errorf("an element that is not there was deleted: %v", err)
	}
	if err := k.apply(batch{Verbs: diff(nil, p.all())}); err != nil {
		t.Errorf("after a failure: %v", err)
	}
}
