package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
)

// lastSample is how long an interrupted view waits for its last sample: longer than a request that gets no answer.
const lastSample = 6 * time.Second

type trafficFlags struct {
	namespace string
	rate      float64
	from      string
	by        string
	port      string
	length    time.Duration
	every     time.Duration
	keepAlive bool
	output    string
}

func (a *app) trafficCommand() *cobra.Command {
	var f trafficFlags
	c := &cobra.Command{
		Use: "traffic svc/NAME", Short: "Show a Service's live split, expected beside observed",
		Long: `Shows how a Service's new connections (counted by every node's kernel) and, with --rate, the requests made here
are split over its pods, beside the split its ready endpoints lead to expect. Changes of labels and of the selector are marked.`,
		Example: "  kubarium traffic svc/shop -n prod --rate 200 --for 10s",
		Args:    args(1, "kubarium traffic svc/NAME [-n NAMESPACE] [--rate R]"),
		RunE:    func(cmd *cobra.Command, words []string) error { return a.traffic(cmd, words[0], f) },
	}
	fl := c.Flags()
	fl.StringVarP(&f.namespace, "namespace", "n", "default", "the Service's namespace")
	fl.Float64Var(&f.rate, "rate", 0, "requests a second to make, each on a connection of its own; 0 only watches")
	fl.StringVar(&f.from, "from", "", "where they come from: node/NAME, pod/NAME or outside (default: the first node)")
	fl.StringVar(&f.by, "by", "version", "pod, version or label=KEY")
	fl.StringVar(&f.port, "port", "", "name or number of the Service's port (default: the first)")
	fl.DurationVar(&f.length, "for", 0, "how long (default: until interrupted)")
	fl.DurationVar(&f.every, "every", time.Second, "time between two samples")
	fl.BoolVar(&f.keepAlive, "keep-alive", false, "make the requests on kept-alive connections")
	fl.StringVarP(&f.output, "output", "o", "table", "table or json (a sample a line)")
	return c
}

func (a *app) traffic(cmd *cobra.Command, target string, f trafficFlags) error {
	path, err := servicePath(target, f.namespace)
	if err != nil {
		return err
	}
	if f.output != "table" && f.output != "json" {
		return failf(exitUsage, "use -o table or json", "unknown output %q", f.output)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	q := url.Values{"rate": {strconv.FormatFloat(f.rate, 'f', -1, 64)}, "from": {f.from}, "by": {f.by}, "port": {f.port}, "every": {f.every.String()}}
	if f.length > 0 {
		q.Set("for", f.length.String())
	}
	if f.keepAlive {
		q.Set("keepalive", "true")
	}
	// The first interrupt ends the traffic and still shows its last sample.
	enough, hold := io.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	defer context.AfterFunc(cmd.Context(), func() {
		hold.Close()
		time.AfterFunc(lastSample, cancel)
	})()
	body, err := c.do(ctx, http.MethodPost, path+"/traffic?"+q.Encode(), enough)
	if err != nil {
		return err
	}
	defer body.Close()
	failed, err := a.samples(body, f)
	switch {
	case err != nil:
		return err
	case failed > 0:
		return failf(exitFailed, "see kubarium why "+target, "%d requests failed", failed)
	}
	return nil
}

// samples prints the stream and returns how many requests failed in all.
func (a *app) samples(body io.Reader, f trafficFlags) (failed uint64, err error) {
	dec := json.NewDecoder(body)
	for {
		var s cluster.Sample
		if err := dec.Decode(&s); errors.Is(err, io.EOF) {
			return failed, nil
		} else if err != nil {
			return failed, err
		}
		if s.Error != "" {
			return failed, errors.New(s.Error)
		}
		failed = s.Failed
		if f.output == "json" {
			err = json.NewEncoder(a.out).Encode(s)
		} else {
			err = a.sampleTable(s, f)
		}
		if err != nil {
			return failed, err
		}
	}
}

func (a *app) sampleTable(s cluster.Sample, f trafficFlags) error {
	for _, m := range s.Marks {
		fmt.Fprintf(a.out, "-- %s\n", m)
	}
	head := fmt.Sprintf("%.1f s", s.Elapsed.Seconds())
	if f.rate > 0 {
		head += fmt.Sprintf("   %d requests, %d failed", s.Sent, s.Failed)
	}
	if s.Failure != "" {
		head += " (" + s.Failure + ")"
	}
	fmt.Fprintln(a.out, head)
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "  %s\tREADY\tEXPECTED\tOBSERVED\tREQUESTS\tCONNECTIONS\tSPLIT\n", strings.ToUpper(strings.TrimPrefix(f.by, "label=")))
	for _, g := range s.Shares {
		fmt.Fprintf(w, "  %s\t%d\t%.1f %%\t%.1f %%\t%d\t%d\t%s\n", g.Group, g.Ready, 100*g.Expected, 100*g.Observed, g.Requests, g.Connections, bar(g.Observed))
	}
	return w.Flush()
}

// bar draws a share, a character for each five per cent.
func bar(share float64) string { return strings.Repeat("#", int(share*20+0.5)) }

// servicePath is the API path of "svc/NAME" (or service/NAME, or NAME).
func servicePath(target, namespace string) (string, error) {
	name := target
	for _, prefix := range []string{"svc/", "service/", "services/"} {
		name = strings.TrimPrefix(name, prefix)
	}
	if name == "" || strings.Contains(name, "/") {
		return "", failf(exitUsage, "write svc/NAME", "%q is not a Service", target)
	}
	return "/kubarium/v1/namespaces/" + url.PathEscape(namespace) + "/services/" + url.PathEscape(name), nil
}
