package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kubarium.dev/api"
	"kubarium.dev/node/netns"
)

// sequences is how many random sequences are tried; PROXY_SEQUENCES asks for more.
func sequences() int {
	if n, err := strconv.Atoi(os.Getenv("PROXY_SEQUENCES")); err == nil {
		return n
	}
	return 6
}

const stepsInSequence = 12

// condition is how a slice tells of a pod.
type condition int

const (
	absent condition = iota
	isReady
	isUnready
	isTerminating
)

// demand is one Service as a step wants it. The zero value: there is none.
type demand struct {
	there                        bool
	nodePort, balanced           bool
	internalLocal, externalLocal bool
	sticky                       bool
	pods                         [4]condition
}

// step changes one of three Services; check decides which addresses are tried afterwards.
type step struct {
	service int
	demand  demand
	check   uint64
}

func randomSteps(seed uint64) []step {
	r := rand.New(rand.NewPCG(seed, 7))
	one := func(n int) bool { return r.IntN(n) == 0 }
	var out []step
	for range stepsInSequence {
		w := demand{there: !one(5), nodePort: one(2), internalLocal: one(3), externalLocal: one(2), sticky: one(3)}
		w.balanced = w.nodePort && one(2)
		for i := range w.pods {
			w.pods[i] = []condition{absent, isReady, isReady, isUnready, isTerminating, isTerminating}[r.IntN(6)]
		}
		out = append(out, step{r.IntN(3), w, r.Uint64()})
	}
	return out
}

// behaviour is what the simple model says of one address, asked from one place: the pods that may answer, or how it is refused.
type behaviour struct {
	pods    []string
	dropped bool
}

// chosen are the pods that get connections, of one node (0: of all).
func (w *demand) chosen(node int) (out []string) {
	for _, want := range []condition{isReady, isTerminating} {
		for i, c := range w.pods {
			if at := 1 + i/2; c == want && (node == 0 || node == at) {
				out = append(out, fmt.Sprintf("pod-%d-%d", at, 1+i%2))
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// expected is the whole model: local is the node whose endpoints alone count, 0 for all.
func (w *demand) expected(local int) behaviour {
	all := w.chosen(0)
	if local == 0 || len(all) == 0 {
		return behaviour{pods: all}
	}
	here := w.chosen(local)
	return behaviour{here, len(here) == 0}
}

// trial is a rig with its pods and what was wished so far.
type trial struct {
	*rig
	pods    []*rigPod
	clients []*rigPod
	demands [3]demand
}

func newTrial(t *testing.T) *trial {
	r := &trial{rig: newRig(t)}
	for _, n := range []int{1, 1, 2, 2} {
		r.pods = append(r.pods, r.pod(n))
	}
	r.clients = []*rigPod{r.pod(1), r.pod(2)}
	return r
}

// do makes a step's demand true.
func (r *trial) do(s step) {
	name := fmt.Sprintf("svc-%d", s.service)
	w, ip := s.demand, fmt.Sprintf("10.96.0.%d", 20+s.service)
	svc := service(name, ip, ports(corev1.ServicePort{Name: "", Protocol: corev1.ProtocolTCP, Port: 80},
		corev1.ServicePort{Name: "", Protocol: corev1.ProtocolUDP, Port: 80}))
	if w.nodePort {
		nodePort(int32(30080 + s.service))(svc)
		svc.Spec.Ports[1].NodePort = int32(30080 + s.service)
	}
	if w.balanced {
		loadBalancer(fmt.Sprintf("172.31.0.%d", 1+s.service))(svc)
	}
	if w.internalLocal {
		internalLocal(svc)
	}
	if w.externalLocal && w.nodePort {
		externalLocal(svc)
	}
	if w.sticky {
		sticky(10800)(svc)
	}
	var entries []discoveryv1.Endpoint
	for i, c := range w.pods {
		switch c {
		case isReady:
			entries = append(entries, ready(r.pods[i]))
		case isUnready:
			entries = append(entries, unready(r.pods[i]))
		case isTerminating:
			entries = append(entries, terminating(r.pods[i]))
		}
	}
	sl := slice(name, entries...)
	was := r.demands[s.service].there
	r.demands[s.service] = w
	switch {
	case w.there:
		r.put(svc, sl)
	case was:
		for _, obj := range []api.Object{svc, sl} {
			r.remove(obj)
		}
	}
}

// vantage is a client: its namespace and the node whose rules it meets first; inside tells that Local does not apply there.
type vantage struct {
	name string
	ns   *netns.NS
	node int
}

// compare tries some addresses of every Service from every place, and says what the model has otherwise.
func (r *trial) compare(s step) (wrong []string) {
	rnd := rand.New(rand.NewPCG(s.check, 3))
	places := []vantage{{"client on node1", r.clients[0].ns, 1}, {"client on node2", r.clients[1].ns, 2}, {"node1", r.nodes[0].ns, 1}, {"outside", r.outside, 0}}
	for i := range r.demands {
		w := &r.demands[i]
		for _, p := range places {
			for at, local := range w.ways(i, p) {
				if rnd.IntN(3) > 0 {
					continue
				}
				want := behaviour{}
				if w.there {
					want = w.expected(local)
				} else if strings.HasPrefix(at, "10.96.") || strings.HasPrefix(at, "172.31.") {
					want.dropped = true
				}
				network := []string{"tcp", "udp"}[rnd.IntN(2)]
				if msg := r.probe(p, network, at, want, w.sticky); msg != "" {
					wrong = append(wrong, fmt.Sprintf("%s, %s %s: %s, want %+v", p.name, network, at, msg, want))
				}
			}
		}
	}
	return wrong
}

// ways are the addresses of a Service that can be asked from a place, each with the node whose endpoints alone count.
func (w *demand) ways(i int, p vantage) map[string]int {
	out := map[string]int{}
	pick := func(local bool, node int) int {
		if local {
			return node
		}
		return 0
	}
	if p.node != 0 {
		out[fmt.Sprintf("10.96.0.%d:80", 20+i)] = pick(w.internalLocal, p.node)
	}
	if !w.there || !w.nodePort {
		return out
	}
	for n := 1; n <= 2; n++ {
		out[fmt.Sprintf("172.30.0.%d:%d", 10+n, 30080+i)] = pick(w.externalLocal && p.node != n, n)
	}
	if w.balanced {
		out[fmt.Sprintf("172.31.0.%d:80", 1+i)] = pick(w.externalLocal && p.node == 0, 1)
	}
	return out
}

// probe asks twice, so that a choice that should stick has to; "" when the model says the same.
func (r *trial) probe(p vantage, network, at string, want behaviour, stick bool) string {
	var before string
	for range 2 {
		patient := patience
		if want.dropped {
			patient = silence
		}
		got, err := try(p.ns, network, at, patient)
		pod, _, _ := strings.Cut(got, ":")
		late := errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err)
		switch {
		case r.stopped(p.ns, network, err) && len(want.pods) == 0:
			return ""
		case want.dropped && late, len(want.pods) == 0 && !want.dropped && errors.Is(err, syscall.ECONNREFUSED):
			return ""
		case err != nil:
			return err.Error()
		case !slices.Contains(want.pods, pod):
			return "answered by " + pod
		case stick && before != "" && before != pod:
			return "answered by " + before + " and then by " + pod
		}
		before = pod
	}
	return ""
}

// attempt runs a sequence on a rig of its own; "" when every address behaves as the model says after every step.
func attempt(t *testing.T, steps []step) string {
	r := newTrial(t)
	for i, s := range steps {
		r.do(s)
		if wrong := r.compare(s); len(wrong) > 0 {
			return fmt.Sprintf("after step %d %+v:\n%s", i, s.demand, strings.Join(wrong, "\n"))
		}
	}
	return ""
}

// Any sequence of changes to Services and endpoints (P-13, P-14, P-18, P-19, P-25, P-26, P-31, P-34, P-36, P-37, P-39, P-40, P-46)
// leaves every address, from every place, behaving as a simple model says; the kernel holds the plan in the end. A sequence that
// fails is shortened to what is needed.
func TestAnySequenceBehavesAsASimpleModelSays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(sequences()) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			steps := randomSteps(seed)
			wrong := attempt(t, steps)
			if wrong == "" {
				return
			}
			for i := len(steps) - 1; i >= 0; i-- {
				fewer := slices.Delete(slices.Clone(steps), i, i+1)
				if w := attempt(t, fewer); w != "" {
					steps, wrong = fewer, w
				}
			}
			t.Errorf("seed %d, shortened to %d steps: %s", seed, len(steps), wrong)
			for _, s := range steps {
				t.Logf("service %d, check %d: %+v", s.service, s.check, s.demand)
			}
		})
	}
}
