package ingress

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	networkingv1 "k8s.io/api/networking/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// The figures of issue 6: requests a second with small answers, 64 kept connections, by wrk; the same backend behind nginx, behind
// the ingress (framing checks and access log on) and behind a bare httputil.ReverseProxy. Run with -benchtime 1x.
func BenchmarkBesideNginxAndReverseProxy(b *testing.B) {
	for _, tool := range []string{"wrk", "nginx"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Fatalf("%s is needed: apt-get install wrk nginx-light", tool)
		}
	}
	target := quickBackend(b)
	r := newRig(b, func(c *Config) { c.AccessLog = io.Discard })
	r.expose("web", target)
	r.apply(ingress("web", 0, "- Prefix / web"))
	to := &url.URL{Scheme: "http", Host: target}
	bare := httputil.NewSingleHostReverseProxy(to)
	bare.Transport = &http.Transport{MaxIdleConnsPerHost: 128}
	bare.ErrorLog = log.New(io.Discard, "", 0) // of wrk, which hangs up
	reverse := httptest.NewServer(bare)
	defer reverse.Close()
	asItComes := httputil.NewSingleHostReverseProxy(to) // with net/http's default transport, which keeps two connections to a backend
	asItComes.ErrorLog = bare.ErrorLog
	plain := httptest.NewServer(asItComes)
	defer plain.Close()
	places := []struct{ name, at string }{
		{"nginx", startNginx(b, target)}, {"ingress", r.plain}, {"ReverseProxy", reverse.Listener.Addr().String()}, {"backend", target},
		{"bare-ReverseProxy", plain.Listener.Addr().String()},
	}
	for b.Loop() {
		for _, p := range places {
			rate, p99 := load(b, p.at)
			b.ReportMetric(rate, p.name+"-req/s")
			b.ReportMetric(p99, p.name+"-p99-us")
		}
	}
}

func quickBackend(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("hello from the backend\n") }}
	go func() { _ = s.Serve(ln) }()
	b.Cleanup(func() { _ = s.Shutdown() })
	return ln.Addr().String()
}

func startNginx(b *testing.B, target string) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	at := ln.Addr().String()
	ln.Close()
	dir := b.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`worker_processes 2; daemon off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
  access_log %[1]s/access.log combined buffer=64k;
  keepalive_requests 100000000;
  upstream web { server %[2]s; keepalive 128; keepalive_requests 100000000; }
  server { listen %[3]s; location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Request-ID $request_id; } }
}`, dir, target, at)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", conf)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return at
		}
	}
}

var (
	ratePattern = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	tailPattern = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
)

func load(b *testing.B, at string) (rate, p99 float64) {
	b.Helper()
	out, err := exec.Command("wrk", "-t1", "-c64", "-d4s", "--latency", "http://"+at+"/hello").CombinedOutput()
	if err != nil || strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		b.Fatalf("wrk: %v\n%s", err, out)
	}
	if m := ratePattern.FindSubmatch(out); m != nil {
		fmt.Sscan(string(m[1]), &rate)
	}
	if m := tailPattern.FindSubmatch(out); m != nil {
		fmt.Sscan(string(m[1]), &p99)
		p99 *= map[string]float64{"us": 1, "ms": 1e3, "s": 1e6}[string(m[2])]
	}
	return rate, p99
}

// What the ingress adds to a request at 1,000 a second, beside the same requests to the backend itself. The loop is open: a request
// is due each millisecond whether or not those before it are answered, and its time runs from then on.
func BenchmarkAddedLatency(b *testing.B) {
	target := quickBackend(b)
	r := newRig(b, func(c *Config) { c.AccessLog = io.Discard })
	r.expose("web", target)
	r.apply(ingress("web", 0, "- Prefix / web"))
	for b.Loop() {
		direct, through := paced(b, target), paced(b, r.plain)
		b.ReportMetric(float64(through[len(through)/2]-direct[len(direct)/2])/1e3, "added-p50-us")
		b.ReportMetric(float64(through[len(through)*99/100]-direct[len(direct)*99/100])/1e3, "added-p99-us")
		b.ReportMetric(float64(direct[len(direct)/2])/1e3, "direct-p50-us")
		b.ReportMetric(float64(direct[len(direct)*99/100])/1e3, "direct-p99-us")
	}
}

// paced is the sorted times of 5,000 requests, one each millisecond, over kept connections.
func paced(b *testing.B, at string) []time.Duration {
	b.Helper()
	const requests, connections = 5000, 16 // more than are ever busy at once
	due := make(chan time.Time, requests)
	took := make(chan time.Duration, requests)
	var clients sync.WaitGroup
	for range connections {
		c, err := net.Dial("tcp", at)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		clients.Go(func() {
			buffer := make([]byte, 4096)
			for began := range due {
				if _, err := io.WriteString(c, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
					b.Error(err)
				}
				if n, err := c.Read(buffer); err != nil || !strings.HasSuffix(string(buffer[:n]), "backend\n") {
					b.Errorf("got %q, %v", buffer[:n], err)
				}
				took <- time.Since(began)
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range requests {
		<-tick.C
		due <- time.Now()
	}
	close(due)
	clients.Wait()
	close(took)
	return slices.Sorted(func(yield func(time.Duration) bool) {
		for t := range took {
			if !yield(t) {
				return
			}
		}
	})
}

// A change of one Ingress among 1,000, until requests follow it.
func BenchmarkAChangeAmongAThousandIngresses(b *testing.B) {
	r := newRig(b, nil)
	r.expose("web", quickBackend(b))
	var all []api.Object
	for i := range 1000 {
		all = append(all, ingress(fmt.Sprint("web-", i), i, fmt.Sprintf("h%d.example Prefix / web", i)))
	}
	r.apply(all...)
	n := 0
	for b.Loop() {
		n++
		r.apply(ingress("web-7", 7, fmt.Sprintf("n%d.example Prefix / web", n)))
	}
}

// The same without the store: from the event to the new table, among 1,000 and 10,000 Ingresses.
func BenchmarkAChangeOfTheTable(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := newModel(New(Config{ServeClassless: true}))
			take := func(ing *networkingv1.Ingress) {
				m.take(store.Event{Type: store.Modified, Kind: api.Ingresses, Object: ing})
			}
			for i := range n {
				take(ingress(fmt.Sprint("web-", i), i, fmt.Sprintf("h%d.example Prefix / web", i)))
			}
			m.settle()
			for i := 0; b.Loop(); i++ {
				take(ingress("web-7", 7, fmt.Sprintf("n%d.example Prefix / web", i)))
				m.settle()
			}
		})
	}
}
