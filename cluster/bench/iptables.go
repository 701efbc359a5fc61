package bench

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// iptables is kube-proxy's iptables mode: a rule for each Service in KUBE-SERVICES, which a packet walks one by one, a chain
// for each Service (KUBE-SVC-) that draws an endpoint, and one for each endpoint (KUBE-SEP-) that translates.
type iptables struct {
	rig    *rig
	prefix string // of the tools' names: "iptables", or "iptables-legacy"
	held   int    // Services, with those added
}

func (t *iptables) load(ctx context.Context) error {
	var b rules
	b.frame()
	for i := range t.held {
		b.service(t.rig, i)
	}
	for i := range t.held {
		b.portal(t.rig, i)
	}
	b.line("COMMIT")
	return t.rig.run(ctx, b.Bytes(), t.prefix+"-restore")
}

// add does what kube-proxy does for one new Service: the chains of the others stay, and KUBE-SERVICES is written anew.
func (t *iptables) add(ctx context.Context, i int) error {
	var b rules
	b.line("*nat")
	b.line(":KUBE-SERVICES - [0:0]")
	b.service(t.rig, i)
	for held := range t.held {
		b.portal(t.rig, held)
	}
	b.portal(t.rig, i)
	b.line("COMMIT")
	if err := t.rig.run(ctx, b.Bytes(), t.prefix+"-restore", "--noflush"); err != nil {
		return err
	}
	t.held++
	return nil
}

// appendRule appends one rule by hand, as the tool's manual has it: no chain of its own, no endpoint.
func (t *iptables) appendRule(ctx context.Context, i int) error {
	words := []string{t.prefix, "-t", "nat", "-A", "KUBE-SERVICES", "-p", "tcp", "-d", t.rig.service(i).Addr().String(),
		"--dport", fmt.Sprint(servicePort), "-j", svcChain(0)}
	return t.rig.run(ctx, nil, words...)
}

// legacy is iptables in the kernel's old tables: they are a list that each change copies out, edits and puts back.
type legacy struct{ iptables }

func (t *legacy) shape(ctx context.Context) (chains, rules int, err error) {
	var saved bytes.Buffer
	if err := t.rig.runInto(ctx, &saved, nil, t.prefix+"-save", "-t", "nat"); err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(saved.Bytes()) {
		switch line[0] {
		case ':':
			chains++
		case '-':
			rules++
		}
	}
	return chains, rules, nil
}

// rules is the input of iptables-restore.
type rules struct{ bytes.Buffer }

func (b *rules) line(format string, args ...any) {
	fmt.Fprintf(b, format, args...)
	b.WriteByte('\n')
}

// frame is what there is without any Service.
func (b *rules) frame() {
	for _, l := range []string{
		"*nat", ":KUBE-SERVICES - [0:0]", ":KUBE-POSTROUTING - [0:0]", ":KUBE-MARK-MASQ - [0:0]",
		`-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`,
		`-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`,
		`-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING`,
		"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
		"-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
		`-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully`,
		"-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
	} {
		b.line("%s", l)
	}
}

// service is the chains of one Service.
func (b *rules) service(r *rig, i int) {
	name, svc, at := "default/"+serviceName(i), svcChain(i), r.service(i)
	b.line(":%s - [0:0]", svc)
	for j := range r.endpoints {
		b.line(":%s - [0:0]", sepChain(r, i, j))
	}
	b.line(`-A %s -m comment --comment "%s cluster IP" -m tcp -p tcp -d %s --dport %d ! -s %s -j KUBE-MARK-MASQ`, svc, name, at.Addr(), at.Port(), podsCIDR)
	for j := range r.endpoints {
		draw, to, sep := "", r.endpoint(i, j), sepChain(r, i, j)
		if left := r.endpoints - j; left > 1 {
			draw = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		b.line(`-A %s -m comment --comment "%s -> %s" %s-j %s`, svc, name, to, draw, sep)
		b.line("-A %s -m comment --comment %s -s %s -j KUBE-MARK-MASQ", sep, name, to.Addr())
		b.line("-A %s -m comment --comment %s -m tcp -p tcp -j DNAT --to-destination %s", sep, name, to)
	}
}

// portal is a Service's rule in KUBE-SERVICES.
func (b *rules) portal(r *rig, i int) {
	at := r.service(i)
	b.line(`-A KUBE-SERVICES -m comment --comment "default/%s cluster IP" -m tcp -p tcp -d %s --dport %d -j %s`, serviceName(i), at.Addr(), at.Port(), svcChain(i))
}

func svcChain(i int) string { return "KUBE-SVC-" + hash(serviceName(i)) }

func sepChain(r *rig, i, j int) string {
	return "KUBE-SEP-" + hash(serviceName(i)+r.endpoint(i, j).String())
}

// legacyTables tells whether a tool speaks to the kernel's old tables: only "(nf_tables)" names the new ones.
func legacyTables(ctx context.Context, name string) bool {
	path, err := tool(name)
	if err != nil {
		return false
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	return err == nil && !strings.Contains(string(out), "nf_tables")
}
