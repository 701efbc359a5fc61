package dns

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// BenchmarkDnsperf is D-40: what dnsperf (apt) measures of the server with 1,000 and with 20,000 Services, as the cluster runs
// it, beside a bare UDP echo written in Go: all on the same processors, in turns, one iteration a turn of each. The pace is the
// median of the turns, which are to be compared; the p99 is that of a client at 20,000 questions a second. It wants
// -benchtime 5x or more; make bench runs it.
func BenchmarkDnsperf(b *testing.B) {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		b.Fatal("dnsperf is not installed: apt-get install dnsperf")
	}
	targets := []*target{startEcho(b), startServer(b, 1000), startServer(b, 20000)}
	files := []string{questionFile(b, 1000), questionFile(b, 1000), questionFile(b, 20000)}
	paces, p99s := make([][]float64, 3), make([][]float64, 3)
	for b.Loop() {
		for i, t := range targets {
			paces[i] = append(paces[i], pace(b, dnsperf(b, t.addr, files[i], "-q", "100", "-b", "1024", "-t", "1", "-l", "2")))
			p99s[i] = append(p99s[i], p99(b, dnsperf(b, t.addr, files[i], "-Q", "20000", "-l", "1", "-v")))
		}
	}
	for i, what := range []string{"echo", "1000", "20000"} {
		b.ReportMetric(median(paces[i]), what+"/s")
		b.ReportMetric(median(p99s[i])*1e6, what+"-p99-µs")
	}
	b.ReportMetric(median(paces[1])/median(paces[0]), "of-echo")
	b.ReportMetric(median(paces[2])/median(paces[1]), "20000/1000")
	b.ReportMetric(0, "ns/op")
}

// questionFile asks for every Service in random order, as dnsperf reads it: 20,000 questions however few the Services, so that
// dnsperf itself has the same to do.
func questionFile(b *testing.B, services int) string {
	b.Helper()
	var text bytes.Buffer
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(20000) {
		fmt.Fprintf(&text, "s%d.dev.svc.cluster.local A\n", i%services)
	}
	path := filepath.Join(b.TempDir(), "questions")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

func dnsperf(b *testing.B, addr *net.UDPAddr, file string, words ...string) string {
	b.Helper()
	cmd := exec.Command("dnsperf", append([]string{"-s", addr.IP.String(), "-p", strconv.Itoa(addr.Port), "-d", file, "-e"}, words...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("dnsperf: %v\n%s", err, out)
	}
	// dnsperf's own socket overflows at times, beside the echo too.
	if lost := number(b, string(out), `Queries lost: +(\d+)`); lost > number(b, string(out), `Queries sent: +(\d+)`)/10000 {
		b.Errorf("%v questions were lost: %v %s", lost, words, out[max(0, len(out)-900):])
	}
	return string(out)
}

func pace(b *testing.B, report string) float64 {
	return number(b, report, `Queries per second: +([\d.]+)`)
}

func number(b *testing.B, report, pattern string) float64 {
	b.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(report)
	if found == nil {
		b.Fatalf("dnsperf reports no %q:\n%s", pattern, report)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// p99 is the 99th percentile of the single questions' times, in seconds: "> NOERROR s1.dev.svc.cluster.local A 0.000057".
func p99(b *testing.B, report string) float64 {
	b.Helper()
	var took []float64
	for line := range strings.Lines(report) {
		if words := strings.Fields(line); len(words) == 5 && words[0] == ">" {
			n, err := strconv.ParseFloat(words[4], 64)
			if err != nil {
				b.Fatalf("%q: %v", line, err)
			}
			took = append(took, n)
		}
	}
	if len(took) < 1000 {
		b.Fatalf("dnsperf tells the times of %d questions only", len(took))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

func median(all []float64) float64 {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}
