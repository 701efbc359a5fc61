package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// loadVariable carries an order to the child process that plays the clients. They are another process so that what is measured,
// profiled and weighed here is the server alone.
const loadVariable = "APISERVER_LOAD"

// order says what the clients are to do. Each %d in Path and Body becomes the request's number.
type order struct {
	URL, Token, CA     string
	Method, Path, Body string
	Writers, N         int     // connections; requests in all
	Rate               float64 // requests a second in all, whatever the answers' speed; 0 for as fast as they come
	Watch              string  // a path to watch meanwhile; "" for none
	HTTP2              bool    // one HTTP/2 connection for all writers, as client-go does it, in place of one HTTP/1.1 connection each
}

// outcome is what the clients saw.
type outcome struct {
	Elapsed   time.Duration
	LastBytes int           // length of the last answer's body
	P50, P99  time.Duration // from a response to its watch event; 0 when the event was first
	CPU       time.Duration // the clients' own
	Error     string
}

// load runs the clients as a child process and returns what they saw, and the CPU time that this process spent meanwhile.
func (c *cluster) load(b *testing.B, o order) (outcome, time.Duration) {
	b.Helper()
	o.URL, o.Token, o.CA = c.url, c.authority.Token, string(c.authority.CA)
	text, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), self)
	cmd.Env = append(os.Environ(), loadVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	before := cpuTime()
	out, err := cmd.Output()
	spent := cpuTime() - before
	var seen outcome
	if err := errors.Join(err, json.Unmarshal(out, &seen)); err != nil {
		b.Fatal(err)
	}
	if seen.Error != "" {
		b.Fatal(seen.Error)
	}
	return seen, spent
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadMain is the child process.
func loadMain(text string) int {
	var o order
	err := json.Unmarshal([]byte(text), &o)
	var seen outcome
	if err == nil {
		seen, err = o.run(context.Background())
	}
	if err != nil {
		seen.Error = err.Error()
	}
	seen.CPU = cpuTime()
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		return 1
	}
	return 0
}

// run makes the requests.
func (o order) run(ctx context.Context) (seen outcome, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := o.client()
	answered := make([]time.Time, o.N)
	var events func() ([]time.Time, error)
	if o.Watch != "" {
		if events, err = o.watch(ctx, client); err != nil {
			return seen, err
		}
	}
	var next, size atomic.Int64
	began := time.Now()
	failed := make([]error, o.Writers)
	var writing sync.WaitGroup
	for w := range o.Writers {
		writing.Go(func() {
			send, err := o.sender(client)
			for i := int(next.Add(1) - 1); err == nil && i < o.N; i = int(next.Add(1) - 1) {
				if o.Rate > 0 {
					<-time.After(time.Until(began.Add(time.Duration(float64(i) / o.Rate * float64(time.Second)))))
				}
				var n int
				n, err = send(i)
				answered[i] = time.Now()
				size.Store(int64(n))
			}
			failed[w] = err
		})
	}
	writing.Wait()
	seen.Elapsed, seen.LastBytes = time.Since(began), int(size.Load())
	if err := errors.Join(failed...); err != nil || events == nil {
		return seen, err
	}
	arrived, err := events()
	if err != nil {
		return seen, err
	}
	var late []time.Duration
	for i, at := range arrived {
		late = append(late, max(0, at.Sub(answered[i])))
	}
	slices.Sort(late)
	seen.P50, seen.P99 = late[len(late)/2], late[len(late)*99/100]
	return seen, nil
}

func (o order) tls() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(o.CA))
	return &tls.Config{RootCAs: pool}
}

func (o order) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: o.tls(), ForceAttemptHTTP2: true}}
}

// fill puts a request's number into a path or a body.
func fill(text string, i int) string { return strings.ReplaceAll(text, "%d", strconv.Itoa(i)) }

// sender returns what makes one request and reads its answer, whose length it returns.
func (o order) sender(client *http.Client) (func(i int) (int, error), error) {
	if o.HTTP2 {
		return func(i int) (int, error) {
			req, err := http.NewRequest(o.Method, o.URL+fill(o.Path, i), strings.NewReader(fill(o.Body, i)))
			if err != nil {
				return 0, err
			}
			req.Header.Set("Authorization", "Bearer "+o.Token)
			res, err := client.Do(req)
			if err != nil {
				return 0, err
			}
			return drain(res)
		}, nil
	}
	host := strings.TrimPrefix(o.URL, "https://")
	conn, err := tls.Dial("tcp", host, o.tls())
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	return func(i int) (int, error) {
		body := fill(o.Body, i)
		_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
			o.Method, fill(o.Path, i), host, o.Token, len(body), body)
		if err != nil {
			return 0, err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, err
		}
		return drain(res)
	}, nil
}

// drain reads an answer, which must be a success.
func drain(res *http.Response) (int, error) {
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		body, _ := io.ReadAll(res.Body)
		return 0, fmt.Errorf("%s: %s", res.Status, body)
	}
	n, err := io.Copy(io.Discard, res.Body)
	return int(n), err
}

// watch opens a watch. What it returns waits until an event for each of the N objects has come, and tells when each did. An
// object's number is what stands behind the last "-" of its name.
func (o order) watch(ctx context.Context, client *http.Client) (func() ([]time.Time, error), error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL+o.Watch, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+o.Token)
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_, err := drain(res)
		return nil, err
	}
	arrived, ended := make([]time.Time, o.N), make(chan error, 1)
	go func() {
		defer res.Body.Close()
		in := bufio.NewReaderSize(res.Body, 64<<10)
		for n := 0; n < o.N; n++ {
			line, err := in.ReadBytes('\n')
			if err != nil {
				ended <- err
				return
			}
			_, rest, _ := bytes.Cut(line, []byte(`"name":"`))
			name, _, _ := bytes.Cut(rest, []byte(`"`))
			i, err := strconv.Atoi(string(name[bytes.LastIndexByte(name, '-')+1:]))
			if err != nil || i >= o.N {
				ended <- fmt.Errorf("unexpected event %s", line)
				return
			}
			arrived[i] = time.Now()
		}
		ended <- nil
	}()
	return func() ([]time.Time, error) { return arrived, <-ended }, nil
}
