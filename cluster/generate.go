package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/node"
)

const (
	requestTimeout = 5 * time.Second
	// idleLife is after how long an idle connection is no longer used, as with every careful client: a server closes its own after a
	// while, an application that ends after 5 s, and a request that meets the closing is lost.
	idleLife  = 2 * time.Second
	maxAnswer = 64 << 10 // bytes of an answer that are read for the pod's name
)

// generator makes requests at an even rate, never retries, and counts which pod answered.
type generator struct {
	rate   float64
	url    string
	client *http.Client
	done   sync.WaitGroup

	mu      sync.Mutex // guards answers
	answers answers
}

// answers are the counts since the last take (byPod) and since the beginning (the rest).
type answers struct {
	byPod        map[string]uint64
	sent, failed uint64
	failure      string // the last failure
}

// newGenerator works out where the requests come from and go to. Without a rate it makes none.
func (c *Cluster) newGenerator(o TrafficOptions) (*generator, error) {
	g := &generator{rate: o.Rate, answers: answers{byPod: map[string]uint64{}}}
	if o.Rate == 0 {
		return g, nil
	}
	svc, err := c.service(o.Service)
	if err != nil {
		return nil, err
	}
	port, err := servicePort(svc, o.Port)
	if err != nil {
		return nil, err
	}
	if port.Protocol != corev1.ProtocolTCP {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("port %s is %s; requests are made over HTTP", portName(port), port.Protocol))
	}
	dial, err := c.Dialer(o.From, o.Service.Namespace)
	if err != nil {
		return nil, err
	}
	target, err := c.target(svc, port, o.From)
	if err != nil {
		return nil, err
	}
	g.url = "http://" + target.String() + "/"
	g.client = &http.Client{Timeout: requestTimeout, Transport: transportOver(dial, o.KeepAlive)}
	return g, nil
}

// transportOver makes connections by dial: one for each request, or kept for others while they are in use.
func transportOver(dial node.DialFunc, keep bool) *http.Transport {
	return &http.Transport{
		DialContext: dial, DisableKeepAlives: !keep, MaxIdleConnsPerHost: 64, IdleConnTimeout: idleLife, DisableCompression: true,
	}
}

// target is the address to call: the ClusterIP, or, from outside, a NodePort of the first node.
func (c *Cluster) target(svc *corev1.Service, port corev1.ServicePort, from string) (netip.AddrPort, error) {
	if from == placeOutside {
		if port.NodePort == 0 {
			return netip.AddrPort{}, apierrors.NewBadRequest(fmt.Sprintf("service %s/%s has no node port: it cannot be reached from outside", svc.Namespace, svc.Name))
		}
		return netip.AddrPortFrom(c.anyMachine().address, uint16(port.NodePort)), nil
	}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return netip.AddrPort{}, apierrors.NewBadRequest(fmt.Sprintf("service %s/%s has no ClusterIP", svc.Namespace, svc.Name))
	}
	return netip.AddrPortFrom(ip, uint16(port.Port)), nil
}

// start makes requests until ctx ends: each on time, whether or not those before it were answered.
func (g *generator) start(ctx context.Context) {
	if g.rate == 0 {
		return
	}
	g.done.Go(func() {
		tick := time.NewTicker(time.Duration(float64(time.Second) / g.rate))
		defer tick.Stop()
		defer g.client.CloseIdleConnections()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				g.done.Go(func() { g.request(context.WithoutCancel(ctx)) })
			}
		}
	})
}

func (g *generator) wait() { g.done.Wait() }

func (g *generator) request(ctx context.Context) {
	pod, err := g.ask(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers.sent++
	if err != nil {
		g.answers.failed++
		g.answers.failure = err.Error()
		return
	}
	g.answers.byPod[pod]++
}

// ask makes one request and reads which pod answered. A POST is never retried by net/http once it was sent, and this one
// carries a body without GetBody, so it is not retried at all.
func (g *generator) ask(ctx context.Context) (string, error) {
	body := io.NopCloser(strings.NewReader("traffic"))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url, body)
	if err != nil {
		return "", err
	}
	req.ContentLength = int64(len("traffic"))
	req.Header.Set("Accept", "application/json")
	resp, err := g.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 500 {
		return "", fmt.Errorf("answered %s", resp.Status)
	}
	var who struct {
		Pod string `json:"pod"`
	}
	if json.Unmarshal(raw, &who) != nil || who.Pod == "" {
		return groupGone, nil
	}
	return who.Pod, nil
}

func (g *generator) take() answers {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.answers
	out.byPod = maps.Clone(out.byPod)
	clear(g.answers.byPod)
	return out
}
